/** Polls of what waits allocate nothing: many NPUs share a worker, and one worker's collection stalls its peers. */
import { describe, expect, it } from 'vitest';
import { Rig } from './rig.ts';

const POLLS = 50_000;
const ROUNDS = 6;

describe('a turn of a holder and a puller that wait', () => {
  it('allocates nothing', () => {
    const rig = new Rig();
    rig.write(0, [1, 2, 3]);
    const offer = rig.of(0).open('o', [1, 2, 3], 1e12, 1);
    if (offer === null) throw new Error('no slot is free');
    rig.cluster.between(0, 1).pull('p', rig.owner(1), offer.registration, rig.place(0), rig.addresses(1, [1, 2, 3]));
    const turns = (): number => {
      const before = process.memoryUsage().heapUsed;
      for (let turn = 0; turn < POLLS; turn++) {
        rig.of(0).poll(turn);
        rig.cluster.poll();
      }
      return process.memoryUsage().heapUsed - before;
    };
    turns();
    // A collection in one round says nothing, and whoever compiles meanwhile allocates for himself: in some round there is neither.
    const grown = Array.from({ length: ROUNDS }, turns).filter((bytes) => bytes >= 0);
    expect(Math.min(...grown)).toBeLessThan(POLLS / 4);
    expect(rig.cluster.pending).toBe(1);
  });
});
