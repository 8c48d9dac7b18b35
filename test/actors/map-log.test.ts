/** The serial log of an expert map: who writes it, what ends for what, and where experts lie then. */
import { describe, expect, it } from 'vitest';
import { MapLog } from '../../actors/policies/map-log.ts';
import type { Address } from '../../src/protocol/address.ts';
import { npuLost } from '../../src/protocol/constructors.ts';
import { type ExpertMapMessage, rebalance } from '../../src/protocol/expert-maps.ts';
import { type MapCause, mapDone, mapWanted, placeExperts } from '../../src/protocol/map-log.ts';
import { Group, NPUS, once, STATES } from './expert-map-rig.ts';

describe('the log of an expert map', () => {
  const WRITER: Address = 'scaling/0';
  const error = { code: 'deadline_exceeded', message: 'it took too long', param: null } as const;
  /** Where experts lie by the map, all of which are there. */
  const heldBy = (group: Group): number[] => {
    const { map } = group.balancer;
    expect([...map.expertOfSlot].filter((expert, at) => expert !== -1 && expert !== group.holds[at])).toEqual([]);
    for (const its of group.maps) expect(its.expertOfSlot).toEqual(map.expertOfSlot);
    return group.balancer.holders;
  };
  const ask = (group: Group, ...messages: readonly ExpertMapMessage[]): void => {
    for (const message of messages) {
      group.tell(message);
      group.run();
    }
  };

  it.each(['global', 'native'] as const)('should have experts on those alone that an entry names, and back, while everybody goes on: %s', (policy) => {
    const group = new Group(policy);
    ask(group, mapWanted(WRITER, 7, 'scale'), placeExperts(1, [0, 1, 2]));
    expect(group.grants).toEqual([
      { type: 'MAP_GRANTED', query: 7, entry: 1, holders: NPUS },
      { type: 'EXPERTS_PLACED', entry: 1, holders: [0, 1, 2], error: null },
    ]);
    expect(heldBy(group)).toEqual([0, 1, 2]);
    ask(group, mapDone(1, null));
    expect(group.state).toBe('stable');
    // Balanced among those that are there.
    ask(group, rebalance(1, true));
    expect(heldBy(group)).toEqual([0, 1, 2]);
    ask(group, mapWanted(WRITER, 8, 'scale'), placeExperts(3, NPUS), mapDone(3, null));
    expect(heldBy(group)).toEqual(NPUS);
    expect(group.balancer.log.entries.map(({ change, outcome }) => `${change} ${outcome}`)).toEqual([
      'scale installed',
      expect.stringMatching(/^rebalance (installed|unchanged)$/),
      'scale installed',
    ]);
    expect(group.unexpected).toEqual([]);
  });

  it.each(STATES)('should end a rebalance for a scale, at its last good map: in %s', (state) => {
    const group = new Group();
    group.fault = once(state, 'silence');
    ask(group, rebalance(1, true));
    expect(group.state).toBe(state);
    ask(group, mapWanted(WRITER, 7, 'scale'), rebalance(2, true), placeExperts(2, [1, 2, 3]), mapDone(2, null));
    expect(group.outcomes).toMatchObject([
      { outcome: 'aborted', cause: 'another_entry', reason: 'a scale was asked for; the last good map stands' },
      { outcome: 'refused', reason: 'a scale is under way, and held' },
    ]);
    expect(heldBy(group)).toEqual([1, 2, 3]);
    expect(group.state).toBe('stable');
    expect(group.unexpected).toEqual([]);
  });

  const ASKED_OF_SCALE = STATES.filter((state) => state !== 'collecting');

  it.each(ASKED_OF_SCALE)('should tell a scale what went wrong, and take it back where it was: in %s', (state) => {
    for (const what of ['death', 'silence', 'failure'] as const) {
      if (what === 'failure' && state !== 'prefetching' && state !== 'loading') continue;
      const group = new Group();
      group.fault = once(state, what);
      ask(group, mapWanted(WRITER, 7, 'scale'), placeExperts(1, [0, 2, 3]));
      group.run(70_000);
      const [, placed] = group.grants;
      const type = what === 'death' ? 'MAP_TAKEN' : 'EXPERTS_PLACED';
      expect(placed).toMatchObject({ type, entry: 1, error: { message: expect.stringMatching(/was lost|in time|corrupt/) } });
      group.fault = () => 'answer';
      for (const npu of [...group.balancer.lost]) group.returns(npu);
      let entry = 1;
      if (what === 'death') {
        ask(group, mapWanted(WRITER, 8, 'scale', true));
        entry = group.balancer.log.open?.entry ?? -1;
      }
      ask(group, placeExperts(entry, NPUS), mapDone(entry, error));
      expect(heldBy(group)).toEqual(NPUS);
      expect(group.balancer.log.entries.at(-1)).toMatchObject({ entry, change: 'scale', outcome: 'rolled_back', reason: 'it took too long' });
      // The way back is an entry of its own where the first one was taken, but the scale is one.
      expect(group.balancer.log.counts.flatMap(({ change, count }) => (change === 'scale' ? [count] : []))).toEqual([1]);
      expect(group.unexpected).toEqual([]);
    }
  });

  it.each(ASKED_OF_SCALE)('should go to other places, or end, in the middle of a way: in %s', (state) => {
    const [back, over] = [new Group(), new Group()];
    for (const group of [back, over]) {
      group.fault = once(state, 'silence');
      ask(group, mapWanted(WRITER, 7, 'scale'), placeExperts(1, [0, 2, 3]));
      expect(group.state).toBe(state);
    }
    ask(back, placeExperts(1, NPUS));
    expect(back.grants.slice(1)).toEqual([{ type: 'EXPERTS_PLACED', entry: 1, holders: NPUS, error: null }]);
    ask(over, mapDone(1, error));
    expect(over.grants).toHaveLength(1);
    expect([back.state, over.state]).toEqual(['held', 'stable']);
    for (const group of [back, over]) heldBy(group);
  });

  it('should have one writer at a time: what weighs more takes the map from what weighs less, which is then not heard', () => {
    const group = new Group();
    ask(group, mapWanted(WRITER, 1, 'scale'), mapWanted(WRITER, 2, 'scale'), mapWanted(WRITER, 3, 'role_switch'), mapWanted(WRITER, 4, 'scale'));
    expect(group.grants).toMatchObject([
      { type: 'MAP_GRANTED', query: 1, entry: 1 },
      { type: 'MAP_REFUSED', query: 2, error: { code: 'overloaded' } },
      { type: 'MAP_TAKEN', entry: 1, error: { code: 'overloaded' } },
      { type: 'MAP_GRANTED', query: 3, entry: 2 },
      { type: 'MAP_REFUSED', query: 4 },
    ]);
    ask(group, placeExperts(1, [0, 1]), mapDone(1, null));
    expect(group.balancer.holders).toEqual(NPUS);
    expect(group.state).toBe('held');
    // Who says nothing for too long has it no more.
    group.run(130_000);
    expect(group.grants.at(-1)).toMatchObject({ type: 'MAP_TAKEN', entry: 2, error: { code: 'deadline_exceeded' } });
    expect(group.state).toBe('stable');
    expect(group.balancer.log.counts).toContainEqual({ change: 'role_switch', outcome: 'aborted', cause: 'deadline', count: 1 });
    expect(group.unexpected).toEqual([]);
  });

  it('should have the map for who asked first, of those that weigh the same, and tell the other for whom', () => {
    const group = new Group();
    group.fault = once('loading', 'silence');
    ask(group, rebalance(1, true));
    // The second comes while what was under way is taken back for the first.
    group.tell(mapWanted(WRITER, 7, 'scale'));
    group.tell(mapWanted(WRITER, 8, 'scale'));
    group.run();
    expect(group.grants).toMatchObject([
      { type: 'MAP_REFUSED', query: 8, error: { code: 'overloaded', message: expect.stringContaining('a scale is under way') } },
      { type: 'MAP_GRANTED', query: 7 },
    ]);
    expect(group.unexpected).toEqual([]);
  });

  it('should have experts elsewhere than on an NPU that is lost, and lose the map where one of them is', () => {
    const lose = (npu: number): ExpertMapMessage => npuLost(npu, { code: 'worker_lost', message: 'killed', param: null }) as ExpertMapMessage;
    const group = new Group();
    ask(group, mapWanted(WRITER, 1, 'scale'), placeExperts(1, [0, 1, 2]), lose(3), placeExperts(1, [0, 1]), lose(1), placeExperts(1, [0]));
    expect(group.grants.slice(1)).toMatchObject([
      { type: 'EXPERTS_PLACED', holders: [0, 1, 2] },
      { type: 'EXPERTS_PLACED', holders: [0, 1] },
      { type: 'MAP_TAKEN', entry: 1, error: { code: 'worker_failed', message: 'the expert map: a rehoming comes first: npu/1 was lost' } },
    ]);
    expect(group.balancer.holders).toEqual([0, 1]);
    ask(group, mapWanted(WRITER, 2, 'scale'), placeExperts(3, [0]));
    expect(group.grants.at(-1)).toMatchObject({
      type: 'EXPERTS_PLACED',
      error: { message: 'expert NPUs 3, 1 of the group are lost, with experts that are nowhere else' },
    });
    expect(group.unexpected).toEqual([]);
  });

  it('should keep of rebalances in a row that changed nothing the latest alone, and count all', () => {
    const log = new MapLog();
    const entry = (outcome: 'unchanged' | 'installed', cause: MapCause): number => {
      const number = log.begin('rebalance', 'expert-map/0', 1);
      log.end(outcome, cause, cause, 1);
      return number;
    };
    entry('installed', 'better');
    for (let period = 0; period < 100; period++) entry('unchanged', 'no_tokens');
    entry('unchanged', 'no_better');
    const scale = log.begin('scale', WRITER, 1);
    log.end('unchanged', 'writer', 'the same', 1);
    const last = entry('unchanged', 'no_better');
    expect(log.entries.map((one) => `${one.entry} ${one.cause}`)).toEqual([
      '1 better',
      '101 no_tokens',
      '102 no_better',
      `${scale} writer`,
      `${last} no_better`,
    ]);
    expect(log.counts.map(({ cause, count }) => `${cause} ${count}`)).toEqual(['better 1', 'no_tokens 100', 'no_better 2', 'writer 1']);
  });
});
