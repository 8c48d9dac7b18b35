/** Who may pull from whom, each pair by an instance of its own: M:N, fair, and one that breaks takes no other with it. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FAILURES } from '../../../src/flowserve/distflow/outcome.ts';
import { pullersOf, sourceRankOf, turnOf } from '../../../src/flowserve/distflow/pairing.ts';
import { PLAIN } from '../../../src/flowserve/distflow/transfer.ts';
import { runs } from '../../property-runs.ts';
import { Rig, SMALL, shuffled } from './rig.ts';

const ALL = shuffled(SMALL.blocks, 1);

describe('a link cluster', () => {
  it('joins every pair of peers by an instance of its own, within one too, and no others', () => {
    const { cluster } = new Rig({ ...SMALL, npus: 3 });
    const pairs = [0, 1, 2].flatMap((source) => [0, 1, 2].map((target) => cluster.between(source, target)));
    expect(new Set(pairs).size).toBe(9);
    expect(cluster.between(2, 1)).toBe(pairs[7]);
    expect(() => cluster.between(0, 3)).toThrow('executor 3 is not linked; 0, 1, 2 are');
    cluster.link([{ executor: 3, fabric: 'roce', numerics: '' }]);
    expect(() => cluster.between(0, 3)).toThrow('executor 0 is on ub, 3 on roce: a network between them would be right');
    cluster.link([{ executor: 3, fabric: 'ub', numerics: 'kv_cache_dtype int8, combine_dtype int8' }]);
    expect(() => cluster.between(0, 3)).toThrow(
      "executor 0 has KV by the model's own numerics, executor 3 by kv_cache_dtype int8, combine_dtype int8: the same at both would be right",
    );
    cluster.unlink(1, 'scaled down');
    // All links with it end, and no others; nobody gets one anew.
    expect(pairs.flatMap(({ source, target, backend }) => (backend.broken === null ? [[source, target]] : []))).toEqual([
      [0, 0],
      [0, 2],
      [2, 0],
      [2, 2],
    ]);
    expect(() => cluster.between(1, 1)).toThrow('executor 1 is not linked; 0, 2, 3 are');
  });

  it('fails what is under way on a link that breaks, and on no other; a new instance takes its place', () => {
    const rig = new Rig({ ...SMALL, npus: 3 });
    const { cluster } = rig;
    const { block_bytes: bytes } = rig.place(0).kv;
    const start = (source: number, target: number): void => {
      const [from, to] = [rig.addresses(source, ALL), rig.addresses(target, ALL)];
      cluster.between(source, target).transfer(`${source}→${target}`, rig.owner(target), { addresses: from, bytes }, { addresses: to, bytes }, PLAIN);
    };
    for (const [source, target] of [
      [0, 1],
      [0, 2],
      [1, 2],
      [2, 0],
    ] as const)
      start(source, target);
    const broken = cluster.between(0, 2);
    broken.break('a test cut it');
    for (let turn = 0; cluster.pending > 0 && turn < 100; turn++) cluster.poll();
    const ends = Object.fromEntries(cluster.drain().map(({ token, end }) => [token, end.state === 'failed' ? end.reason : end.state]));
    expect(ends).toEqual({ '0→1': 'done', '0→2': 'link_broken', '1→2': 'done', '2→0': 'done' });
    expect(() => broken.transfer('late', rig.owner(2), { addresses: [], bytes }, { addresses: [], bytes }, PLAIN)).toThrow(
      'from executor 0 to 2 ended: a test cut it',
    );
    start(0, 2);
    expect(cluster.between(0, 2)).not.toBe(broken);
    while (cluster.pending > 0) cluster.poll();
    expect(cluster.drain().map(({ end }) => end.state)).toEqual(['done']);
    expect(cluster.counters()).toMatchObject({ started: 5, done: 4, bytes: 4 * SMALL.blocks * bytes, failed: { link_broken: 1 } });
    expect(cluster.report().map(({ source, target, broken }) => [source, target, broken])).toHaveLength(4);
  });

  it('lets none starve: short transfers end while a long one goes on', () => {
    const rig = new Rig();
    const instance = rig.cluster.between(0, 1);
    const { block_bytes: bytes } = rig.place(0).kv;
    const some = (blocks: number[]): [{ addresses: number[]; bytes: number }, { addresses: number[]; bytes: number }] => [
      { addresses: rig.addresses(0, blocks), bytes },
      { addresses: rig.addresses(1, blocks), bytes },
    ];
    instance.transfer('long', rig.owner(1), ...some(ALL.slice(4)), PLAIN);
    for (const block of ALL.slice(0, 4)) instance.transfer(`short ${block}`, rig.owner(1), ...some([block]), PLAIN);
    const order: string[] = [];
    while (instance.pending > 0) {
      instance.poll(bytes);
      order.push(...instance.drain().map(({ token }) => token));
    }
    expect(order.at(-1)).toBe('long');
    expect(order).toHaveLength(5);
  });
});

describe('pairs of ranks', () => {
  it('join each rank of the target to one of the source, which opens an offer for each, whatever the tensor parallelism of both', () => {
    for (let source_tp = 1; source_tp <= 5; source_tp++)
      for (let target_tp = 1; target_tp <= 5; target_tp++) {
        const offered = Array.from({ length: source_tp }, (_, rank) => pullersOf(rank, source_tp, target_tp));
        const taken = Array.from({ length: target_tp }, (_, rank) => `${sourceRankOf(rank, source_tp)}.${turnOf(rank, source_tp)}`);
        expect(taken.sort()).toEqual(offered.flatMap((offers, rank) => Array.from({ length: offers }, (_, turn) => `${rank}.${turn}`)).sort());
      }
  });
});

// ---------------------------------------------------------------- anything, in any order

type Mishap = 'cancel' | 'withdraw' | 'expire' | 'cut' | 'die' | 'none';
const act = fc.record({
  source: fc.nat({ max: 2 }),
  target: fc.nat({ max: 2 }),
  blocks: fc.integer({ min: 0, max: 5 }),
  seed: fc.nat({ max: 500 }),
  mishap: fc.constantFrom<Mishap>('none', 'none', 'none', 'cancel', 'withdraw', 'expire', 'cut', 'die'),
  turns: fc.nat({ max: 6 }),
});

describe('any number of pulls between any executors', () => {
  it('deliver what was offered or say why not, and leave no block held, no lease, no transfer, whatever befalls them', () => {
    fc.assert(
      fc.property(fc.array(act, { maxLength: 12 }), (acts) => {
        const rig = new Rig({ ...SMALL, npus: 3 });
        const [places, pulls, offers] = [
          new Map<string, { from: number[]; to: number[]; source: number; target: number }>(),
          [] as { cancel: () => void }[],
          [] as (() => void)[],
        ];
        const ended = new Map<string, string>();
        let now_ms = 0;
        const turn = (): void => {
          for (const npu of [0, 1, 2]) rig.of(npu).poll(now_ms, SMALL.layer_bytes);
          rig.cluster.poll();
          for (const { token, end } of rig.cluster.drain()) {
            const { from, to, source, target } = places.get(token) as { from: number[]; to: number[]; source: number; target: number };
            ended.set(token, end.state === 'failed' ? end.reason : end.state);
            if (end.state === 'done') expect(rig.words(target, to)).toEqual(rig.words(source, from));
            for (const block of to) rig.pool(target).free(block);
          }
        };
        for (const [index, { source, target, blocks, seed, mishap, turns }] of acts.entries()) {
          const isFree = (npu: number) => (block: number) => !rig.pool(npu).holders().has(block);
          const from = shuffled(SMALL.blocks, seed).filter(isFree(source)).slice(0, blocks);
          rig.write(source, from, index + 1);
          const to = shuffled(SMALL.blocks, seed + 1)
            .filter(isFree(target))
            .slice(0, from.length);
          const offer = to.length < from.length ? null : rig.of(source).open(`${index}`, from, now_ms + 1_000);
          for (const block of from) rig.pool(source).free(block);
          if (offer === null) continue;
          for (const block of to) rig.pool(target).hold(block);
          places.set(`${index}`, { from, to, source, target });
          const instance = rig.cluster.between(source, target);
          pulls.push(instance.pull(`${index}`, rig.owner(target), offer.registration, rig.place(source), rig.addresses(target, to)));
          offers.push(() => rig.of(source).withdraw(offer));
          for (let count = 0; count < turns; count++) turn();
          if (mishap === 'cancel') pulls.at(-1)?.cancel();
          if (mishap === 'withdraw') offers.at(-1)?.();
          if (mishap === 'expire') now_ms += 1_000;
          if (mishap === 'cut') instance.break('a test cut it');
          if (mishap === 'die') rig.memory.space.control.raiseEpochOfDie(target);
        }
        for (let count = 0; count < 100; count++) turn();
        now_ms += 10_000;
        // Of links that were cut the holder is told; all else ends by itself.
        for (const npu of [0, 1, 2]) rig.cut.add(npu);
        for (let count = 0; count < 3; count++) turn();
        expect([...ended.keys()].sort()).toEqual([...places.keys()].sort());
        for (const npu of [0, 1, 2]) expect([rig.pool(npu).used, rig.of(npu).open_count]).toEqual([0, 0]);
        expect(rig.cluster.pending).toBe(0);
        const { started, done, failed } = rig.cluster.counters();
        expect(done + FAILURES.reduce((sum, reason) => sum + failed[reason], 0)).toBe(started);
      }),
      { numRuns: runs(60) },
    );
  });
});
