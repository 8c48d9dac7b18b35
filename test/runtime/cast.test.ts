/** A cast of actors: what one of them asked for is nobody else's. */
import { expect, it } from 'vitest';
import { setup } from 'xstate';
import { load } from '../../src/protocol/constructors.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import { Cast, firstAct, type Mail } from '../../src/runtime/cast.ts';

const machine = setup({
  types: {} as { events: { type: 'RESET_DONE' } | { type: 'DRAIN' } },
  actions: {
    send: (_, _command: Commands['send']) => {},
    // No host knows it.
    fail: () => {},
  },
}).createMachine({
  id: 'sender',
  initial: 'there',
  states: {
    there: {
      on: {
        RESET_DONE: { actions: [{ type: 'send', params: { to: 'expert/0', message: load(1) } }, 'fail'] },
        DRAIN: { actions: { type: 'send', params: { to: 'expert/0', message: load(2) } } },
      },
    },
  },
});

it('forgets what an actor asked for that then failed', () => {
  const sent: Mail[] = [];
  const nothing = (): void => {};
  const cast = new Cast({
    ...{ birthOf: () => null, hands: new Map(), send: (mail) => sent.push(mail), launch: nothing, transfer: nothing, onUnexpected: nothing },
    ...{ startTimer: nothing, cancelTimer: nothing, cancelTimers: nothing },
  });
  for (const actor of ['npu/1', 'npu/2'] as const) cast.spawn(actor, { machine, input: {} });
  expect(() => cast.deliver({ to: 'npu/1', from: 'npu/1', message: { type: 'RESET_DONE' }, cause: 0 })).toThrow('used the action fail, which is no command');
  cast.deliver({ to: 'npu/2', from: 'npu/2', message: { type: 'DRAIN' }, cause: 0 });
  expect(sent.map(({ from, message }) => [from, message])).toEqual([['npu/2', load(2)]]);
});

it('numbers the acts of a thread’s lives apart, however many there are', () => {
  expect(firstAct(2, 2)).toBeGreaterThan(firstAct(2, 1));
  expect(firstAct(3, 1)).toBeGreaterThan(firstAct(2, 1_024));
  expect(firstAct(2, 1_025)).toBe(firstAct(2, 1));
  expect(() => firstAct(2, 0)).toThrow('epoch 0');
});
