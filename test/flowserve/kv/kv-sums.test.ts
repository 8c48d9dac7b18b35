/** Sums of KV at rest: any bit of what was written that is another one is found by the next step that reads it, and named. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../../src/fabric/address.ts';
import { plainChecksum } from '../../../src/flowserve/distflow/checksum.ts';
import { KvDamage, KvSums } from '../../../src/flowserve/kv/kv-sums.ts';
import { runs } from '../../property-runs.ts';
import { allocate, openMemory, type Place, SMALL } from '../distflow/rig.ts';

const BLOCK = 16;
const HEADS = 2;

/** One sequence whose cells lie as GQA's do, in a layer by KV head; the last layer is a drafter's. `cells`: one word each. */
function makeSequence() {
  const memory = openMemory(allocate(SMALL));
  const { kv: place } = memory.places[0] as Place;
  const kv = { ...place, layers: SMALL.layers - 1, run_bytes: place.layer_bytes / HEADS };
  const sums = new KvSums(0, memory.space, kv, plainChecksum(memory.space));
  const words = memory.space.wordsOf(kv.address);
  const table = [5, 2, 9, 11];
  const tables = [undefined, undefined, undefined, table];
  const at = (position: number, run: number): number =>
    (offsetOf(kv.address) + (table[Math.floor(position / BLOCK)] as number) * kv.block_bytes + run * kv.run_bytes) / 4 +
    ((position % BLOCK) * kv.run_bytes) / 4 / BLOCK;
  const write = (position: number): void => {
    for (let run = 0; run < SMALL.layers * HEADS; run++) words[at(position, run)] = Math.imul(position + 1, 0x9e37_79b1) + run;
  };
  /** As a step does; `writes` false: up to where it would write. */
  const step = (start: number, count: number): void => {
    const entries = [{ slot: 3, start, tokens: new Array<number>(count).fill(1) }];
    sums.begin(entries, tables);
    for (let position = start; position < start + count; position++) write(position);
    sums.end(entries, tables);
  };
  const flip = (position: number, run: number, bit: number): void => {
    words[at(position, run)] = (words[at(position, run)] as number) ^ (1 << bit);
  };
  return { sums, table, step, flip, kv };
}

describe('sums of KV at rest', () => {
  it('should find every bit that is another one, in whole blocks and in the one that is written on, and name its block', () => {
    fc.assert(
      fc.property(
        fc.record({
          steps: fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 3 }),
          /** Drafts of the last step that were wrong. */
          wrong: fc.integer({ min: 0, max: 5 }),
          place: fc.nat(),
          run: fc.integer({ min: 0, max: (SMALL.layers - 1) * HEADS - 1 }),
          bit: fc.integer({ min: 0, max: 31 }),
        }),
        ({ steps, wrong, place, run, bit }) => {
          const { table, step, flip } = makeSequence();
          let end = 0;
          for (const count of steps) {
            step(end, count);
            end += count;
          }
          end -= Math.min(wrong, (steps.at(-1) as number) - 1);
          const position = place % end;
          flip(position, run, bit);
          let found: unknown = null;
          try {
            step(end, 1);
          } catch (error) {
            found = error;
          }
          expect(found).toBeInstanceOf(KvDamage);
          expect((found as KvDamage).blocks).toEqual([table[Math.floor(position / BLOCK)]]);
        },
      ),
      { numRuns: runs(200) },
    );
  });

  it('should find nothing in memory that is as it was, whatever is written over or behind it', () => {
    const { step } = makeSequence();
    step(0, 20);
    // Of drafts two were wrong; then a row is computed once more, and a prefix that others have written is gone on from.
    step(18, 5);
    step(22, 3);
    step(16, 1);
    step(17, 10);
  });

  it('should find one that is another while a step reads the block for one sequence and goes on within it for another, whichever comes first', () => {
    for (const order of [1, -1]) {
      const { sums, table, step, flip } = makeSequence();
      step(0, 20);
      // The last position of a shared prefix is computed once more by whoever begins with that.
      const entries = [
        { slot: 3, start: 20, tokens: [1] },
        { slot: 4, start: BLOCK - 1, tokens: [1, 1] },
      ].toSorted((a, b) => order * (a.slot - b.slot));
      const tables = [undefined, undefined, undefined, table, [table[0] as number, 7]];
      sums.begin(entries, tables);
      flip(3, 0, 7);
      expect(() => sums.end(entries, tables)).toThrow(KvDamage);
    }
  });

  it("should not mind a drafter's layers, which decide no token", () => {
    const { step, flip } = makeSequence();
    step(0, 20);
    flip(3, (SMALL.layers - 1) * HEADS, 7);
    step(20, 1);
  });

  it('should guard what was brought from elsewhere, and cut the sum of its end where that is written on', () => {
    const { sums, table, step, flip, kv } = makeSequence();
    step(0, 20);
    for (const block of table.slice(0, 2)) sums.arrive(block, kv.address + block * kv.block_bytes);
    step(20, 1);
    for (const block of table.slice(0, 2)) sums.arrive(block, kv.address + block * kv.block_bytes);
    flip(18, 0, 1);
    expect(() => step(21, 1)).toThrow(/1 KV blocks of NPU 0 do not hold what was written there: 2/);
  });
});

/** Two sequences that begin alike, on two ranks. `at`: who steps; the step of `count` tokens ends as the ranks' ends say. */
type Act =
  | { readonly kind: 'step'; readonly who: 0 | 1; readonly count: number; readonly drafts: number; readonly again: number; readonly ends: readonly StepEnd[] }
  | { readonly kind: 'swap' }
  | { readonly kind: 'flip'; readonly rank: number; readonly place: number; readonly isAmid: boolean };
/** Done; or, on one rank, over before it has written, or with rubbish in what it was to write. */
type StepEnd = 'done' | 'begun' | 'rubbish';

const SHARED = 2 * BLOCK;
const ROOM = SHARED + 3 * BLOCK;

describe('sums under steps that fail', () => {
  it('should stay those of the positions that count, whoever shares them and whichever rank fails: every flip is found, and nothing else', () => {
    const end = fc.constantFrom<StepEnd>('done', 'done', 'done', 'begun', 'rubbish');
    const act = fc.oneof(
      fc.record({
        ...{ kind: fc.constant('step' as const), who: fc.constantFrom(0 as const, 1 as const), count: fc.integer({ min: 1, max: 9 }) },
        ...{ drafts: fc.integer({ min: 0, max: 3 }), again: fc.integer({ min: 0, max: 2 }), ends: fc.tuple(end, end) },
      }),
      fc.record({ kind: fc.constant('swap' as const) }),
      fc.record({ kind: fc.constant('flip' as const), rank: fc.nat(1), place: fc.nat(), isAmid: fc.boolean() }),
    );
    const found = { flips: 0, failed: 0 };
    fc.assert(
      fc.property(fc.array(act, { maxLength: 12 }), (acts) => {
        const pod = makeRanks();
        for (const one of acts) {
          found.failed += one.kind === 'step' && one.ends.some((how) => how !== 'done') ? 1 : 0;
          if (!pod.perform(one)) break;
        }
        found.flips += pod.settle() ? 1 : 0;
      }),
      { numRuns: runs(400) },
    );
    expect(Math.min(found.flips, found.failed)).toBeGreaterThan(runs(400) / 20);
  });
});

function makeRanks() {
  const memory = openMemory(allocate(SMALL));
  const checksum = plainChecksum(memory.space);
  const ranks = memory.places.slice(0, 2).map(({ kv: place }, rank) => {
    const kv = { ...place, layers: SMALL.layers - 1, run_bytes: place.layer_bytes / HEADS };
    return { kv, rank, sums: new KvSums(rank, memory.space, kv, checksum), words: memory.space.wordsOf(kv.address) };
  });
  type Rank = (typeof ranks)[number];
  // Of both: the first two blocks, which they share, and two of their own.
  const own = [
    [4, 6, 8],
    [5, 7, 9],
  ] as const;
  let shared = [0, 1];
  const tables = (): number[][] => own.map((blocks) => [...shared, ...blocks]);
  const computed = [0, SHARED];
  /** By rank and block. */
  const flipped = [new Set<number>(), new Set<number>()];
  let attempts = 0;

  const wordAt = ({ kv }: Rank, block: number, offset: number, run: number): number =>
    (offsetOf(kv.address) + block * kv.block_bytes + run * kv.run_bytes + (offset * kv.run_bytes) / BLOCK) / 4;
  const write = (rank: Rank, who: number, position: number, salt: number): void => {
    const block = tables()[who]?.[Math.floor(position / BLOCK)] as number;
    const family = position < SHARED ? 7 : who;
    for (let run = 0; run < (SMALL.layers - 1) * HEADS; run++)
      rank.words[wordAt(rank, block, position % BLOCK, run)] = Math.imul(position + 1, 0x9e37_79b1) + run + 1000 * family + salt;
  };
  const hasBegun = (who: number): boolean => who === 0 || (computed[0] as number) >= SHARED;
  const flip = ({ rank, place }: { readonly rank: number; readonly place: number }): void => {
    const who = place % 2;
    const below = computed[who] as number;
    if (below === 0 || !hasBegun(who)) return;
    const position = (place >> 1) % below;
    const block = tables()[who]?.[Math.floor(position / BLOCK)] as number;
    const at = ranks[rank] as Rank;
    if (flipped[rank]?.has(block)) return;
    at.words[wordAt(at, block, position % BLOCK, 0)] = (at.words[wordAt(at, block, position % BLOCK, 0)] as number) ^ 1;
    flipped[rank]?.add(block);
  };
  /** Blocks of a sequence's first positions that a rank was told are bad, all of which are. */
  const expectDamage = (rank: Rank, who: number, positions: number, run: () => void): boolean => {
    const read = tables()[who]?.slice(0, Math.ceil(positions / BLOCK)) as number[];
    const bad = read.filter((block) => flipped[rank.rank]?.has(block));
    let damage: readonly number[] = [];
    try {
      run();
    } catch (error) {
      expect(error).toBeInstanceOf(KvDamage);
      damage = (error as KvDamage).blocks;
    }
    expect(damage.toSorted()).toEqual(bad.toSorted());
    return bad.length === 0;
  };

  /** The first sequence has the shared blocks before the second begins. */
  const step = ({ who, count, drafts, again, ends }: Act & { readonly kind: 'step' }, amid: () => void): boolean => {
    const known = computed[who] as number;
    if (known + count + drafts > ROOM || !hasBegun(who)) return true;
    const kept = Math.min(again, known);
    const start = known - kept;
    const entries = [{ slot: who, start, tokens: new Array<number>(kept + count + drafts).fill(1), kept }];
    attempts++;
    for (const rank of ranks) if (!expectBegin(rank, who, known, () => rank.sums.begin(entries, tables()))) return false;
    amid();
    const isOver = ends.every((how) => how === 'done');
    for (const rank of ranks) {
      const how = ends[rank.rank] as StepEnd;
      if (how === 'begun') continue;
      // What the other rank fails at may have come of rubbish here too.
      for (let position = known; position < known + count + drafts; position++)
        write(rank, who, position, isOver && position < known + count ? 0 : 0x4000 + attempts);
      if (how === 'done' && !expectDamage(rank, who, known, () => rank.sums.end(entries, tables()))) return false;
    }
    if (isOver) computed[who] = known + count;
    return true;
  };
  /** Only the block that is gone on in is looked at. */
  const expectBegin = (rank: Rank, who: number, known: number, run: () => void): boolean => {
    const block = tables()[who]?.[Math.floor(known / BLOCK)] as number;
    try {
      run();
      return true;
    } catch (error) {
      expect(error).toBeInstanceOf(KvDamage);
      expect((error as KvDamage).blocks).toEqual([block]);
      expect(flipped[rank.rank]?.has(block)).toBe(true);
      return false;
    }
  };
  /** The shared blocks go to other places, as by DRAM, whose blocks are the first rank's. */
  const swap = (): void => {
    if (flipped.some((blocks) => blocks.size > 0)) return;
    const [first] = ranks as [Rank];
    const next = shared[0] === 0 ? [2, 3] : [0, 1];
    for (const [index, from] of shared.entries()) {
      const to = next[index] as number;
      const sum = first.sums.of(from);
      for (const { kv, sums } of ranks) {
        memory.space.copy(kv.address + to * kv.block_bytes, first.kv.address + from * first.kv.block_bytes, kv.block_bytes);
        sums.set(to, sum);
      }
    }
    shared = next;
  };

  return {
    /** False: a flip was found. */
    perform(act: Act): boolean {
      if (act.kind === 'swap') swap();
      else if (act.kind === 'step') return step(act, () => {});
      else if (!act.isAmid) flip(act);
      else return step({ kind: 'step', who: 0, count: 3, drafts: 0, again: 1, ends: ['done', 'done'] }, () => flip(act));
      return true;
    },
    /** All is read once more. True: something was bad. */
    settle(): boolean {
      for (const who of [0, 1] as const) {
        computed[who] = Math.min(computed[who] as number, ROOM - 1);
        if (!step({ kind: 'step', who, count: 1, drafts: 0, again: 2, ends: ['done', 'done'] }, () => {})) return true;
      }
      expect(flipped.flatMap((blocks) => [...blocks])).toEqual([]);
      return false;
    },
  };
}
