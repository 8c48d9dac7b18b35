/** The virtual host permutes what the live host permutes, no more and no less; its clock only ever goes on. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { assign, setup } from 'xstate';
import type { Address } from '../../src/protocol/address.ts';
import { load } from '../../src/protocol/constructors.ts';
import type { Commands, Message } from '../../src/protocol/messages.ts';
import type { Act } from '../../src/runtime/cast.ts';
import { EventQueue } from '../../src/runtime/event-queue.ts';
import { SeededRandom } from '../../src/runtime/seeded-random.ts';
import { VirtualHost } from '../../src/runtime/virtual-host.ts';

const collector = setup({ types: {} as { context: { got: number[] }; events: { type: 'LOAD'; tokens: number } } }).createMachine({
  id: 'collector',
  context: { got: [] },
  initial: 'collecting',
  states: { collecting: { on: { LOAD: { actions: assign({ got: ({ context, event }) => [...context.got, event.tokens] }) } } } },
});

/** Sets two timers when told to start, cancels one of them when told again; LOAD is what they bring. */
const timekeeper = setup({
  types: {} as { context: { got: number[] }; events: { type: 'STARTED' } | { type: 'RESET_DONE' } | { type: 'LOAD'; tokens: number } },
  actions: { after: (_, _command: Commands['after']) => {}, cancel: (_, _command: Commands['cancel']) => {} },
}).createMachine({
  id: 'timekeeper',
  context: { got: [] },
  initial: 'waiting',
  states: {
    waiting: {
      on: {
        STARTED: {
          actions: [
            { type: 'after', params: { id: 'late', delay_ms: 5, message: load(5) } },
            { type: 'after', params: { id: 'soon', delay_ms: 2, message: load(2) } },
          ],
        },
        RESET_DONE: { actions: { type: 'cancel', params: { id: 'late' } } },
        LOAD: { actions: assign({ got: ({ context, event }) => [...context.got, event.tokens] }) },
      },
    },
  },
});

function makeHost(seed: number, acts: Act[] = []): VirtualHost {
  return new VirtualHost({
    birthOf: () => null,
    hands: new Map(),
    onUnexpected: () => {},
    costs: { message_ns: (_to, _from, message) => (message.type === 'LOAD' ? 100 * (1 + (message.tokens % 7)) : 1), jitter: 0.5 },
    random: new SeededRandom(seed),
    transfer: () => {},
    launch: () => {},
    witness: (act) => acts.push(act),
  });
}

const gotBy = (host: VirtualHost, actor: Address): number[] => (host.cast.contextOf(actor) as { got: number[] }).got;

function runOut(host: VirtualHost): void {
  for (let now_ns = 0; host.step(); now_ns = host.now_ns) expect(host.now_ns).toBeGreaterThanOrEqual(now_ns);
}

describe('messages', () => {
  const RECEIVERS: readonly Address[] = ['npu/0', 'npu/1'];
  const SENDERS: readonly Address[] = ['dp-group/0', 'dp-group/1', 'dp-group/2'];
  const sends = fc.array(fc.tuple(fc.nat(1), fc.nat(2), fc.nat(50)), { maxLength: 60 });

  const arrivals = (seed: number, list: readonly (readonly [number, number, number])[]): Act[] => {
    const acts: Act[] = [];
    const host = makeHost(seed, acts);
    for (const receiver of RECEIVERS) host.spawn(receiver, { machine: collector, input: undefined });
    for (const [to, from, tokens] of list) host.send(RECEIVERS[to] as Address, SENDERS[from] as Address, load(tokens));
    runOut(host);
    return acts.filter(({ message }) => message !== null);
  };

  it('of one sender to one receiver arrive in their order, and all arrive, whatever they cost and whichever the seed', () => {
    fc.assert(
      fc.property(sends, fc.integer(), (list, seed) => {
        const acts = arrivals(seed, list);
        expect(acts.length).toBe(list.length);
        for (const [index, to] of RECEIVERS.entries())
          for (const [other, from] of SENDERS.entries())
            expect(acts.filter((act) => act.to === to && act.from === from).map(({ message }) => (message as Message & { tokens: number }).tokens)).toEqual(
              list.filter(([a, b]) => a === index && b === other).map(([, , tokens]) => tokens),
            );
      }),
    );
  });

  it('of different senders overtake one another: other seeds bring other orders, the same seed the same', () => {
    const list = Array.from({ length: 30 }, (_, index): [number, number, number] => [0, index % 3, 1]);
    const orders = Array.from({ length: 20 }, (_, seed) =>
      arrivals(seed, list)
        .map(({ from }) => from)
        .join(),
    );
    expect(new Set(orders).size).toBeGreaterThan(10);
    expect(
      Array.from({ length: 20 }, (_, seed) =>
        arrivals(seed, list)
          .map(({ from }) => from)
          .join(),
      ),
    ).toEqual(orders);
  });
});

describe('a result of kernel work', () => {
  it('comes when the work is done, behind what its receiver told itself before, and keeps nothing waiting that it tells itself meanwhile', () => {
    const host = makeHost(0);
    host.spawn('npu/0', { machine: collector, input: undefined });
    host.complete('npu/0', load(1), 0, 50_000);
    host.send('npu/0', 'npu/0', load(2));
    host.complete('npu/0', load(3), 0, 0);
    host.later(100_000, () => {
      host.send('npu/0', 'npu/0', load(4));
      host.complete('npu/0', load(5), 0, 0);
    });
    runOut(host);
    expect(gotBy(host, 'npu/0')).toEqual([2, 1, 3, 4, 5]);
  });
});

describe('an actor that is lost', () => {
  it('and its successor hear nothing that was sent before the successor began, though it arrives later', () => {
    const host = makeHost(0);
    const birth = { machine: collector, input: undefined };
    host.spawn('npu/0', birth);
    host.spawn('npu/1', birth);
    const tellAll = (tokens: number): void => {
      for (const npu of ['npu/0', 'npu/1'] as const) host.send(npu, 'dp-group/0', load(tokens));
    };
    tellAll(1);
    const beginAnew = host.lose((actor) => actor === 'npu/0');
    tellAll(2);
    host.later(10_000, () => {
      tellAll(3);
      beginAnew();
      host.spawn('npu/0', birth);
      tellAll(4);
    });
    runOut(host);
    expect([gotBy(host, 'npu/0'), gotBy(host, 'npu/1')]).toEqual([[4], [1, 2, 3, 4]]);
  });
});

describe('timers', () => {
  it('bring their messages when they are due, and none that was cancelled', () => {
    const host = makeHost(0);
    host.spawn('npu/0', { machine: timekeeper, input: undefined });
    host.spawn('npu/1', { machine: timekeeper, input: undefined });
    for (const npu of ['npu/0', 'npu/1'] as const) host.send(npu, npu, { type: 'STARTED' });
    host.send('npu/1', 'npu/1', { type: 'RESET_DONE' });
    runOut(host);
    expect([gotBy(host, 'npu/0'), gotBy(host, 'npu/1')]).toEqual([[2, 5], [2]]);
    expect(host.clock.now_ms()).toBeGreaterThanOrEqual(5);
    expect(host.clock.now_ms()).toBeLessThan(5.1);
    expect(host.pending).toBe(0);
  });
});

describe('the event queue', () => {
  it('gives events by time, and by order of entry where times are equal', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.nat(9), fc.constant(null)), { maxLength: 200 }), (steps) => {
        const queue = new EventQueue<{ time_ns: number; order: number }>();
        const model: { time_ns: number; order: number }[] = [];
        for (const [order, time_ns] of steps.entries()) {
          if (time_ns === null) {
            model.sort((a, b) => a.time_ns - b.time_ns || a.order - b.order);
            expect(queue.pop()).toEqual(model.shift());
          } else {
            queue.push({ time_ns, order });
            model.push({ time_ns, order });
          }
          expect(queue.size).toBe(model.length);
        }
      }),
    );
  });
});
