/** Pulls into blocks that are guarded where they rest: memory that goes bad at whichever moment makes the pull fail, or is found by whoever reads the block. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../../src/fabric/address.ts';
import type { Guard } from '../../../src/flowserve/distflow/copying.ts';
import type { Offer } from '../../../src/flowserve/distflow/offers.ts';
import { KvSums } from '../../../src/flowserve/kv/kv-sums.ts';
import { runs } from '../../property-runs.ts';
import { Rig, SMALL, shuffled } from './rig.ts';

const TURNS_MAX = 200;

type Scene = {
  readonly blocks: number;
  readonly seed: number;
  readonly segments: number;
  readonly layers_there: number;
  /** Of the first so many blocks that are lent there are sums at rest. */
  readonly resting: number;
};
/** A bit of a block at one of the two sides, before that turn, or right before or after that block has its sum at rest. */
type Fault = { readonly moment: number | 'unsummed' | 'summed'; readonly side: 0 | 1; readonly index: number; readonly word: number; readonly bit: number };

const WORDS = (SMALL.layers * SMALL.layer_bytes) / 4;

/** NPU 0 offers, NPU 1 pulls and guards. */
function pulled({ blocks, seed, segments, layers_there, resting }: Scene, fault: Fault | null) {
  const rig = new Rig({ ...SMALL, segments });
  const sides = [shuffled(SMALL.blocks, seed).slice(0, blocks), shuffled(SMALL.blocks, seed + 1).slice(0, blocks)] as const;
  rig.write(0, sides[0]);
  const written = rig.words(0, sides[0]);
  for (const block of sides[1]) rig.pool(1).hold(block);
  const { space } = rig.memory;
  const sums = new KvSums(1, space, rig.place(1).kv, rig.checksum);
  const lent = new KvSums(0, space, rig.place(0).kv, rig.checksum);
  for (const block of sides[0].slice(0, resting)) lent.arrive(block, rig.addresses(0, [block])[0] as number);
  rig.restingSumOf = (_, block) => lent.ofAll(block);
  const holder = rig.of(0);
  const offer = holder.open('o', sides[0], Number.POSITIVE_INFINITY, layers_there) as Offer<string>;
  const strike = ({ side, index, word, bit }: Fault): void => {
    // What goes bad before it is summed where it is lent is that side's to find.
    if (side === 0 && !offer.isSealed) return;
    const { kv } = rig.place(side);
    const at = offsetOf(kv.address + (sides[side][index % blocks] as number) * kv.block_bytes) / 4 + word;
    const words = space.wordsOf(kv.address);
    words[at] = (words[at] as number) ^ (1 << bit);
  };
  const strikeAt = (moment: Fault['moment'], index: number): void => {
    if (fault?.moment === moment && index === fault.index % blocks) strike(fault);
  };
  const struck = (index: number, sum: (block: number) => void): void => {
    strikeAt('unsummed', index);
    sum(sides[1][index] as number);
    strikeAt('summed', index);
  };
  const guard: Guard = {
    sum: (index, address) => struck(index, (block) => sums.arrive(block, address)),
    keep: (index, sum) => struck(index, (block) => sums.keep(block, sum)),
  };
  const pull = rig.cluster.between(0, 1).pull('p', rig.owner(1), offer.registration, rig.place(0), rig.addresses(1, sides[1]), guard);
  let turn = 0;
  for (let end = pull.poll(0); end.state === 'pending' && turn < TURNS_MAX; turn++) {
    if (fault?.moment === turn) strike(fault);
    if (offer.layers_there < SMALL.layers) holder.reach(offer, offer.layers_there + 1);
    holder.poll(0, SMALL.layer_bytes);
    end = pull.poll(SMALL.layer_bytes);
  }
  const isWhole = (index: number): boolean => rig.words(1, [sides[1][index] as number])[0]?.every((word, at) => word === written[index]?.[at]) === true;
  const isGuarded = (index: number): boolean => sums.of(sides[1][index] as number).filled === rig.place(1).kv.block_size;
  const isFound = (index: number): boolean => !sums.isSound(sides[1][index] as number);
  return {
    end: pull.poll(),
    turns: turn,
    summed_bytes: holder.counters.summed_bytes,
    blocks: Array.from({ length: blocks }, (_, index) => ({ isWhole: isWhole(index), isGuarded: isGuarded(index), isFound: isFound(index) })),
  };
}

const scene: fc.Arbitrary<Scene> = fc.record({
  blocks: fc.integer({ min: 1, max: 8 }),
  seed: fc.nat({ max: 1_000 }),
  segments: fc.constantFrom(1, 2),
  /** All of them: by request; fewer: by layer. */
  layers_there: fc.constantFrom(SMALL.layers, 1),
  resting: fc.constantFrom(8, 0, 1),
});

describe('a pull into guarded blocks', () => {
  it('has all of them guarded, and whole, where nothing goes bad', () => {
    fc.assert(
      fc.property(scene, (made) => {
        const { end, blocks, summed_bytes } = pulled(made, null);
        expect(end).toEqual({ state: 'done' });
        const isProvedAtRest = made.layers_there === SMALL.layers && made.resting >= made.blocks;
        expect(summed_bytes).toBe(isProvedAtRest ? 0 : made.blocks * SMALL.layers * SMALL.layer_bytes);
        for (const block of blocks) expect(block).toEqual({ isWhole: true, isGuarded: true, isFound: false });
      }),
      { numRuns: runs(40) },
    );
  });

  it('fails, or what came is found out by whoever reads it, where a bit at either side goes bad at any moment', () => {
    const fault = fc.record<Fault>({
      moment: fc.oneof(fc.nat({ max: 30 }), fc.constantFrom('unsummed', 'summed')),
      side: fc.constantFrom(0, 1),
      index: fc.nat({ max: 7 }),
      word: fc.nat({ max: WORDS - 1 }),
      bit: fc.nat({ max: 31 }),
    });
    const seen = { corrupt: 0, found: 0, harmless: 0 };
    fc.assert(
      fc.property(scene, fault, (made, wrong) => {
        const { end, blocks } = pulled(made, wrong);
        expect(end.state).not.toBe('pending');
        if (end.state === 'failed') expect(end.reason).toBe('corrupt');
        else for (const { isWhole, isFound } of blocks) expect(isWhole || isFound).toBe(true);
        seen[end.state === 'failed' ? 'corrupt' : blocks.some(({ isFound }) => isFound) ? 'found' : 'harmless']++;
      }),
      { numRuns: runs(400) },
    );
    expect(Math.min(seen.corrupt, seen.found, seen.harmless), JSON.stringify(seen)).toBeGreaterThan(0);
  });
});
