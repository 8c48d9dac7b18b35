/** Transfers by raw addresses: exactly the bytes that were asked for, in pieces, and proof that they are what was meant. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Poll } from '../../../src/flowserve/distflow/outcome.ts';
import { PLAIN, type Terms, type Transfer } from '../../../src/flowserve/distflow/transfer.ts';
import { runs } from '../../property-runs.ts';
import { fillBlock, Rig, SMALL, shuffled } from './rig.ts';

const ends = (transfer: Transfer, budget_bytes?: number): Poll => {
  for (let polls = 0; polls < 1_000; polls++) {
    const end = transfer.poll(budget_bytes);
    if (end.state !== 'pending') return end;
  }
  throw new Error('it never ends');
};
const reasonOf = (end: Poll): string => (end.state === 'failed' ? end.reason : end.state);

type Sides = { readonly rig: Rig; readonly from: number[]; readonly to: number[] };
function sides(blocks: number, seed: number, segments = 2): Sides {
  const rig = new Rig({ ...SMALL, segments });
  const [from, to] = [shuffled(SMALL.blocks, seed).slice(0, blocks), shuffled(SMALL.blocks, seed + 1).slice(0, blocks)];
  rig.write(0, from);
  for (let block = 0; block < SMALL.blocks; block++) fillBlock(rig.memory, 1, block, 77);
  return { rig, from, to };
}
function start({ rig, from, to }: Sides, terms: Terms): Transfer {
  const { block_bytes: bytes } = rig.place(0).kv;
  return rig.cluster.between(0, 1).transfer('t', rig.owner(1), { addresses: rig.addresses(0, from), bytes }, { addresses: rig.addresses(1, to), bytes }, terms);
}
/** As a holder tells of its blocks. */
function proven({ rig, from }: Sides, checksums: boolean): Terms {
  const { kv } = rig.place(0);
  const values = from.map((block) => rig.pool(0).generationOf(block));
  const sum = (address: number): number => rig.checksum.sum(0, address, kv.block_bytes);
  return {
    ...PLAIN,
    generations: { table: kv.generations, blocks: Int32Array.from(from), values },
    checksums: checksums ? rig.addresses(0, from).map(sum) : null,
  };
}

describe('a transfer', () => {
  it('copies the layers that were asked for of every range, and not a byte beside them, whatever the size of its polls', () => {
    const shape = fc.record({
      ...{ segments: fc.constantFrom(1, 2), blocks: fc.integer({ min: 0, max: 12 }), seed: fc.nat({ max: 1_000 }) },
      ...{ first: fc.integer({ min: 0, max: SMALL.layers }), count: fc.integer({ min: 0, max: SMALL.layers }), budget: fc.integer({ min: 1, max: 5_000 }) },
    });
    fc.assert(
      fc.property(shape, ({ segments, blocks, seed, first, count, budget }) => {
        const end = Math.min(first + count, SMALL.layers);
        const made = sides(blocks, seed, segments);
        const { rig, from, to } = made;
        const before = rig.words(
          1,
          shuffled(SMALL.blocks, 0).sort((a, b) => a - b),
        );
        const transfer = start(made, { ...PLAIN, layers: { layer_bytes: SMALL.layer_bytes, first, end } });
        expect(ends(transfer, budget)).toEqual({ state: 'done' });
        expect(transfer.copied_bytes).toBe(blocks * (end - first) * SMALL.layer_bytes);
        const [low, high] = [(first * SMALL.layer_bytes) / 4, (end * SMALL.layer_bytes) / 4];
        const sources = rig.words(0, from);
        for (let block = 0; block < SMALL.blocks; block++) {
          const expected = before[block] as Int32Array;
          const index = to.indexOf(block);
          if (index >= 0) expected.set((sources[index] as Int32Array).subarray(low, high), low);
          expect(rig.words(1, [block])[0]).toEqual(expected);
        }
      }),
      { numRuns: runs(30) },
    );
  });

  it('moves no more bytes a poll than it may, one chunk apart', () => {
    const transfer = start(sides(8, 3), { ...PLAIN, layers: { layer_bytes: SMALL.layer_bytes, first: 0, end: SMALL.layers } });
    let [before, polls] = [0, 0];
    for (; transfer.poll(2 * SMALL.layer_bytes).state === 'pending'; polls++) {
      expect(transfer.copied_bytes - before).toBeLessThanOrEqual(2 * SMALL.layer_bytes);
      before = transfer.copied_bytes;
    }
    expect(polls).toBe((8 * SMALL.layers) / 2 - 1);
  });

  it('is proven by generations and sums', () => {
    const made = sides(5, 9);
    expect(ends(start(made, proven(made, true)), 1_000)).toEqual({ state: 'done' });
    expect(made.rig.words(1, made.to)).toEqual(made.rig.words(0, made.from));
  });

  it('fails as stale where a block is held anew at any step of the copy, and as corrupt where its words alone changed', () => {
    for (const change of ['hold', 'scribble'] as const)
      for (let step = 0; step < 5; step++) {
        const made = sides(5, 9);
        const { rig, from } = made;
        const [victim] = from.slice(-1) as [number];
        const transfer = start(made, proven(made, true));
        for (let poll = 0; poll < step; poll++) expect(transfer.poll(SMALL.layers * SMALL.layer_bytes).state).toBe('pending');
        if (change === 'hold') {
          rig.pool(0).free(victim);
          rig.pool(0).hold(victim);
        }
        fillBlock(rig.memory, 0, victim, 2);
        expect(reasonOf(ends(transfer))).toBe(change === 'hold' ? 'stale' : 'corrupt');
      }
  });

  it('fails where the source changes hands under the copy, and where its own die is given up, which then writes nothing', () => {
    const lost = sides(5, 9);
    const transfer = start(lost, PLAIN);
    transfer.poll(SMALL.layer_bytes);
    lost.rig.memory.space.table.raiseEpoch(lost.rig.regionOf(0));
    expect(reasonOf(ends(transfer))).toBe('source_lost');

    const given = sides(5, 9);
    const before = given.rig.words(1, given.to);
    const zombie = start(given, PLAIN);
    given.rig.memory.space.control.raiseEpochOfDie(1);
    expect(reasonOf(ends(zombie))).toBe('given_up');
    expect(given.rig.words(1, given.to)).toEqual(before);
  });

  it('is cancelled at any step, and touches nothing from then on', () => {
    for (let step = 0; step < 6; step++) {
      const made = sides(5, 9);
      const transfer = start(made, proven(made, true));
      for (let poll = 0; poll < step; poll++) transfer.poll(SMALL.layers * SMALL.layer_bytes);
      transfer.cancel();
      const then = made.rig.words(1, made.to);
      expect(reasonOf(transfer.poll())).toBe(step < 5 ? 'cancelled' : 'done');
      expect(made.rig.words(1, made.to)).toEqual(then);
    }
  });

  it('is refused for lists that do not fit, and for what is no memory of theirs', () => {
    const { rig } = sides(2, 1);
    const bytes = rig.place(0).kv.block_bytes;
    const begin = (from: number[], to: number[], size = bytes): Transfer =>
      rig.cluster.between(0, 1).transfer('t', rig.owner(1), { addresses: from, bytes: size }, { addresses: to, bytes }, PLAIN);
    const [a, b] = [rig.addresses(0, [0, 1]), rig.addresses(1, [0, 1])];
    expect(() => begin(a, b.slice(1))).toThrow('2 ranges cannot come to 1');
    expect(() => begin(a, b, 8)).toThrow(`ranges of 8 bytes cannot come to ranges of ${bytes}`);
    expect(() => begin([a[0] as number, 3], b)).toThrow('range 1 begins at 3, which is no address of words');
    expect(() => begin(a, [b[0] as number, a[0] as number])).toThrow('no region that is held has them all');
    const [outside] = [begin([4_096], b.slice(1))];
    expect(reasonOf(ends(outside))).toBe('fault');
  });
});
