/** What a role switch tells of itself. That it costs nobody a token: test/system/role-switch.test.ts. */
import { expect, it } from 'vitest';
import { roleSwitch } from '../../actors/role-switch.ts';
import { npuLost, serving } from '../../src/protocol/constructors.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import { npuBack, timeTold } from '../../src/protocol/expert-maps.ts';
import { mapGranted, mapRefused } from '../../src/protocol/map-log.ts';
import type { Commands, Message } from '../../src/protocol/messages.ts';
import { expertsNowhere, switchRetry } from '../../src/protocol/role-switch.ts';
import { MachineHost, stateName } from '../../src/runtime/machine-host.ts';

const LOST: ErrorRecord = { code: 'worker_lost', message: 'worker 2 was lost', param: null };
const INPUT = {
  ...{ self: 'role-switch/0', task_executor: 'task-executor/0', expert_map: 'expert-map/0', scaling: null, serving: [0, 1], waits: true },
  seats: {
    groups: [0, 1].map((group) => ({ group, npus: [group] })),
    places: [0, 1].map((worker) => ({ worker, npus: [worker], groups: [worker] })),
    homes: [{ worker: 2, npus: [2] }],
  },
};

it('tells how long it took from when it was asked for, whatever came to nothing before', () => {
  const host = new MachineHost();
  const done: unknown[] = [];
  const note = (_: string, params: unknown): void => {
    for (const { message } of [params].flat() as Commands['sendEach']) if (message?.type === 'MAP_DONE') done.push(message.told);
  };
  let snapshot = host.start(roleSwitch, INPUT, note);
  const hear = (...messages: unknown[]): string => {
    for (const message of messages) snapshot = host.deliver(roleSwitch, snapshot, message as Message, note).snapshot;
    return stateName(snapshot);
  };
  expect(hear(npuLost(2, LOST), expertsNowhere(LOST, [2], [2]), timeTold(1_000))).toBe('claiming');
  expect(hear(mapRefused(1, LOST), npuBack(2), expertsNowhere(null, [], []), switchRetry())).toBe('watching');
  expect(hear(npuLost(2, LOST), expertsNowhere(LOST, [2], [2]), timeTold(9_000), mapGranted(2, 7, []), serving(1))).toBe('switching');
  expect(hear(npuBack(2), timeTold(9_040))).toBe('watching');
  expect(done).toEqual([expect.stringContaining(' in 40 ms')]);
});
