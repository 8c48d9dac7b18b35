/** What a role switch tells of itself, and that none of its waits is for ever. That it costs nobody a token: test/system/role-switch.test.ts. */
import { expect, it } from 'vitest';
import { roleSwitch } from '../../actors/role-switch.ts';
import { npuGone, npuLost, serving } from '../../src/protocol/constructors.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import { npuBack, timeTold } from '../../src/protocol/expert-maps.ts';
import { mapGranted, mapRefused, mapTaken } from '../../src/protocol/map-log.ts';
import type { Message } from '../../src/protocol/messages.ts';
import { advised, expertsNowhere, shapeLent, switchRetry } from '../../src/protocol/role-switch.ts';
import { MachineHost, stateName } from '../../src/runtime/xstate/machine-host.ts';

const LOST: ErrorRecord = { code: 'worker_lost', message: 'worker 2 was lost', param: null };
const UNREADABLE: ErrorRecord = { code: 'worker_lost', message: 'its weights cannot be read', param: null };
const INPUT = {
  ...{ self: 'role-switch/0', task_executor: 'task-executor/0', expert_map: 'expert-map/0', scaling: null as string | null, serving: [0, 1], waits: true },
  seats: {
    groups: [0, 1].map((group) => ({ group, npus: [group] })),
    places: [0, 1].map((worker) => ({ worker, npus: [worker], groups: [worker] })),
    homes: [{ worker: 2, npus: [2] }],
  },
};

/** Hears messages, and says in which state that leaves it; `sent`: what it sends, by type; `pass`: the deadline of its state passes. */
function begin(input: object = INPUT) {
  const host = new MachineHost();
  const sent: Message[] = [];
  const timers = new Map<string, Message>();
  const note = (action: string, params: unknown): void => {
    for (const one of [params].flat() as { message?: Message; id?: string }[]) {
      if (action === 'cancel') timers.delete(one.id as string);
      else if (action.startsWith('after')) timers.set(one.id as string, one.message as Message);
      else if (one.message !== undefined) sent.push(one.message);
    }
  };
  let snapshot = host.start(roleSwitch, input, note);
  const hear = (...messages: unknown[]): string => {
    for (const message of messages) snapshot = host.deliver(roleSwitch, snapshot, message as Message, note).snapshot;
    return stateName(snapshot);
  };
  const pass = (id: string): string => {
    const message = timers.get(id);
    timers.delete(id);
    return hear(message);
  };
  const tellings = <Type extends Message['type']>(type: Type) => sent.filter((message): message is Extract<Message, { type: Type }> => message.type === type);
  return { hear, pass, timers, tellings };
}
const ASKED = [npuLost(2, LOST), expertsNowhere(LOST, [2], [2])] as const;
const toSwitching = (query = 1, entry = 7) => [timeTold(1_000), mapGranted(query, entry, []), serving(1)];

it('tells how long it took from when it was asked for, whatever came to nothing before', () => {
  const { hear, tellings } = begin();
  expect(hear(...ASKED, timeTold(1_000))).toBe('claiming');
  expect(hear(mapRefused(1, LOST), npuBack(2), expertsNowhere(null, [], []), switchRetry())).toBe('watching');
  expect(hear(...ASKED, timeTold(9_000), mapGranted(2, 7, []), serving(1))).toBe('switching');
  expect(hear(npuBack(2), timeTold(9_040))).toBe('watching');
  expect(tellings('MAP_DONE').map(({ told }) => told)).toEqual([
    'npu/2 took the place of npu/1 (DP group 1) in 40 ms, since experts were nowhere else; of 2 DP groups 1 is left to serve',
  ]);
  expect(tellings('MAP_WANTED')[0]?.why).toBe('experts of npu/2 are nowhere else, and an attention NPU takes the place');
});

it('is an entry of the log, though a rehoming takes the map when it is about to be told, or has just been', () => {
  const { hear, tellings } = begin();
  hear(...ASKED, ...toSwitching(), npuBack(2));
  expect(hear(mapTaken(7, LOST), timeTold(1_040))).toBe('switching');
  expect(hear(switchRetry(), mapGranted(2, 9, []), timeTold(1_050))).toBe('watching');
  // The entry was over already when that was heard.
  expect(hear(mapTaken(9, LOST))).toBe('switching');
  expect(hear(switchRetry(), mapGranted(3, 11, []), timeTold(1_090))).toBe('watching');
  expect(tellings('MAP_DONE').map(({ entry, told }) => `${entry} ${told?.slice(0, 50)}`)).toEqual([
    '9 npu/2 took the place of npu/1 (DP group 1) in 50 m',
    '11 npu/2 took the place of npu/1 (DP group 1) in 90 m',
  ]);
  expect(tellings('SWITCH_ROLE').length).toBe(1);
});

it.each<[string, (at: ReturnType<typeof begin>) => string]>([
  ['it takes too long', ({ pass }) => pass('overdue')],
  ['the host says that it cannot be for now', ({ hear }) => hear(npuGone(2, UNREADABLE))],
])('is left to the host where %s: whoever waits hears of the loss, and it is an entry again when it is there', (_, act) => {
  const at = begin({ ...INPUT, scaling: 'scaling/0' });
  const { hear, tellings, timers } = at;
  expect(hear(...ASKED, timeTold(1_000), mapGranted(1, 7, []), shapeLent([0, 1]), serving(1))).toBe('switching');
  expect(tellings('EXPERTS_NOWHERE')).toEqual([]);
  expect(act(at)).toBe('watching');
  expect(tellings('EXPERTS_NOWHERE')).toEqual([expertsNowhere(advised(LOST, 'switch'), [2], [])]);
  expect(tellings('MAP_DONE')).toMatchObject([{ entry: 7, told: null, error: { message: expect.stringMatching(/^npu\/2 was to take the place of npu\/1/) } }]);
  expect(tellings('GIVE_SHAPE')).toMatchObject([{ serving: [0] }]);
  expect([...timers.keys()]).toEqual([]);
  expect(hear(npuBack(2), switchRetry(), mapGranted(2, 8, []), timeTold(61_000), expertsNowhere(null, [], []))).toBe('watching');
  expect(tellings('MAP_DONE').at(-1)).toMatchObject({ entry: 8, error: null, told: expect.stringContaining(' in 60000 ms') });
  expect(tellings('EXPERTS_NOWHERE').at(-1)?.error).toBe(null);
  expect([tellings('SWITCH_ROLE').length, tellings('GIVE_SHAPE').length]).toEqual([1, 1]);
});

it('has another NPU that is lost take a place of its own, while one is late', () => {
  const seats = {
    groups: [0, 1, 2].map((group) => ({ group, npus: [group] })),
    places: [0, 1, 2].map((worker) => ({ worker, npus: [worker], groups: [worker] })),
    homes: [3, 4].map((worker) => ({ worker, npus: [worker] })),
  };
  const { hear, tellings } = begin({ ...INPUT, seats, serving: [0, 1, 2] });
  hear(npuLost(3, LOST), npuLost(4, LOST), expertsNowhere(LOST, [3, 4], [3, 4]), ...toSwitching());
  expect(hear(npuGone(3, UNREADABLE))).toBe('claiming');
  expect(hear(timeTold(1_000), mapGranted(2, 8, []), serving(2))).toBe('switching');
  expect(tellings('SWITCH_ROLE')).toMatchObject([
    { lost: 3, place: 2 },
    { lost: 4, place: 1 },
  ]);
  expect(hear(npuBack(4), timeTold(1_040))).toBe('watching');
  // Whoever does without experts does without the other's alone.
  expect(tellings('EXPERTS_NOWHERE')).toEqual([expertsNowhere(advised(LOST, 'switch'), [3], [])]);
});

it('waits for the map and for the number of groups no longer than its deadline: then whoever waits hears of the loss', () => {
  const { hear, pass, tellings } = begin({ ...INPUT, scaling: 'scaling/0' });
  hear(...ASKED, timeTold(1_000), mapRefused(1, LOST), switchRetry(), timeTold(1_000));
  expect(pass('late')).toBe('claiming');
  expect(tellings('EXPERTS_NOWHERE')).toEqual([expertsNowhere(advised(LOST, 'switch'), [2], [])]);
  expect(hear(mapGranted(2, 7, []))).toBe('borrowing');
  expect(pass('overdue')).toBe('watching');
  expect(tellings('MAP_DONE')).toMatchObject([{ entry: 7, error: { code: 'deadline_exceeded', message: expect.stringContaining('scaling/0 did not lend') } }]);
  // It was lent after all.
  hear(shapeLent([0, 1]));
  expect(tellings('GIVE_SHAPE')).toMatchObject([{ serving: [0, 1] }]);
  // Asked for again, it is lent twice where the first question was late.
  expect(hear(expertsNowhere(LOST, [2], [2]), mapGranted(3, 8, []), shapeLent([0, 1]), shapeLent([0, 1]))).toBe('vacating');
  expect(tellings('GIVE_SHAPE').length).toBe(1);
});

it('asks for the time again where nobody tells it', () => {
  const { hear, pass } = begin();
  expect(hear(...ASKED, ...toSwitching(), npuBack(2))).toBe('settling');
  expect(pass('overdue')).toBe('settling');
  expect(hear(timeTold(40_000))).toBe('watching');
});

it.each<[string, (at: ReturnType<typeof begin>) => void, boolean]>([
  ['until the map says so', ({ hear }) => hear(expertsNowhere(null, [], [])), false],
  ['but not for ever', ({ pass }) => pass('overdue'), true],
])('tells nobody that others are nowhere who may have room with the one that is back, %s', (_, act, isTold) => {
  const at = begin();
  const { hear, tellings, timers } = at;
  hear(npuLost(2, LOST), npuLost(3, LOST), expertsNowhere(LOST, [2, 3], [2, 3]), ...toSwitching());
  expect(hear(npuBack(2), timeTold(1_040))).toBe('watching');
  expect(tellings('EXPERTS_NOWHERE')).toEqual([]);
  act(at);
  expect([...timers.keys()]).toEqual([]);
  expect(tellings('EXPERTS_NOWHERE').map(({ npus }) => npus)).toEqual(isTold ? [[3]] : []);
});
