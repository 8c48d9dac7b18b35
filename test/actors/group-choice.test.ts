/** Which DP group a task goes to, by each policy. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CHOOSE, type GroupLoad } from '../../actors/policies/group-choice.ts';
import { type Placeable, TaskPlacement } from '../../actors/policies/placement.ts';
import { address } from '../../src/protocol/address.ts';

const BATCH_MAX = 4;
const seats = (groups: number, workers = groups) =>
  Array.from({ length: groups }, (_, group) => ({ group, worker: Math.floor((group * workers) / groups), npus: [group] }));
const loads = fc
  .array(fc.record({ tasks: fc.nat(6), kv_positions: fc.nat(500) }), { minLength: 1, maxLength: 6 })
  .map((groups) => groups.map((load, group): GroupLoad => ({ group, worker: group >> 1, npus: [group], ...load })));

const placeable = (id: number, kv_positions: number, data_parallel_rank = -1): Placeable => {
  const task = address('task', id);
  return { task, data_parallel_rank, kv_positions, wanted: { task, prompt_tokens: kv_positions, marks: [], priority: 0 } };
};

describe('the choice of a DP group', () => {
  it('for decode leaves out the full, then takes the lowest KV use, reserved space counted', () => {
    fc.assert(
      fc.property(loads, (groups) => {
        const chosen = CHOOSE.least_kv(groups, BATCH_MAX, 0);
        const open = groups.filter(({ tasks }) => tasks < BATCH_MAX);
        const among = open.length > 0 ? open : groups;
        expect(among).toContain(chosen);
        expect(chosen.kv_positions).toBe(Math.min(...among.map(({ kv_positions }) => kv_positions)));
      }),
    );
  });

  it('that reserves what outputs may come to need spreads long ones, where a count of tasks does not', () => {
    const placement = new TaskPlacement(seats(2), 64, 'least_kv');
    placement.ready(0);
    placement.ready(1);
    const place = (id: number, kv_positions: number): number | null => placement.place(placeable(id, kv_positions));
    expect([place(1, 1_000), place(2, 100), place(3, 100), place(4, 700), place(5, 200), place(6, 10)]).toEqual([0, 1, 1, 1, 1, 0]);
    placement.release('task/1');
    expect(place(7, 10)).toBe(0);
  });

  it('in turns goes round whatever they hold, and past who does not serve', () => {
    const placement = new TaskPlacement(seats(3), BATCH_MAX, 'round_robin');
    for (const npu of [0, 1, 2]) placement.ready(npu);
    let id = 0;
    const next = (): number | null => placement.place(placeable(id++, 100));
    expect([next(), next(), next(), next()]).toEqual([0, 1, 2, 0]);
    placement.lost(1);
    expect([next(), next(), next()].toSorted()).toEqual([0, 0, 2]);
  });

  it('packed fills the batches of few groups of each worker, and every worker alike', () => {
    const placement = new TaskPlacement(seats(4, 2), BATCH_MAX, 'packed');
    for (const npu of [0, 1, 2, 3]) placement.ready(npu);
    const chosen = Array.from({ length: 12 }, (_, id) => placement.place(placeable(id, 1)));
    expect(chosen).toEqual([0, 2, 0, 2, 0, 2, 0, 2, 1, 3, 1, 3]);
  });

  it('gives a task its own group where it names one, and lets it wait for that', () => {
    const placement = new TaskPlacement(seats(2), BATCH_MAX, 'least_kv');
    placement.ready(0);
    expect(placement.place(placeable(1, 1, 1))).toBeNull();
    expect(placement.place(placeable(2, 1))).toBe(0);
    expect(placement.ready(1)).toEqual([{ task: 'task/1', group: 1 }]);
  });
});
