/** A machine's routes lead where XState leads, by the same commands and assignments, on charts of all shapes that they know. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type AnyStateMachine, and, assign, createMachine, fromCallback, initialTransition, raise, setup, transition } from 'xstate';
import type { Message } from '../../../src/protocol/messages.ts';
import type { Snapshot } from '../../../src/runtime/xstate/machine-host.ts';
import { routesOf, type Stand } from '../../../src/runtime/xstate/machine-routes.ts';

type Counted = { readonly count: number; readonly by: number; readonly hops: number };
type Config = Record<string, unknown>;
/** A state's place: 0.1 is the second state in the first one. */
type Place = readonly number[];

const EVENTS = ['A', 'B', 'C', 'D'] as const;
const nameOf = (place: Place): string => `s${place.join('_')}`;

/** Three states with two each, of which the outer ones' last is an end; what they do on messages is drawn. */
const PLACES: readonly Place[] = [0, 1, 2].flatMap((outer) => [[outer], [outer, 0], [outer, 1]]);

const assignment = fc.constantFrom<unknown>(
  'add',
  { type: 'addMany', params: { many: 3 } },
  { type: 'addMany', params: ({ context }: { context: Counted }) => ({ many: context.count }) },
  assign({ by: ({ context }: { context: Counted }) => context.by + 1 } as never),
  assign({ by: 7 } as never),
);
const command = fc.constantFrom<unknown>(
  'tell',
  { type: 'send', params: { to: 1 } },
  { type: 'send', params: ({ context, event }: { context: Counted; event: { type: string } }) => [context, event.type] },
);
const actions = fc.array(fc.oneof(assignment, command), { maxLength: 3 });
const guard = fc.constantFrom<unknown>(
  undefined,
  'isEven',
  { type: 'isOver', params: { limit: 4 } },
  ({ context }: { context: Counted }) => context.by % 3 === 0,
);
const target = fc.constantFrom(undefined, ...PLACES.map((place) => `#${nameOf(place)}`), '#end');
const moves = (reenter: fc.Arbitrary<boolean>): fc.Arbitrary<Config> =>
  fc.dictionary(
    fc.constantFrom<string>(...EVENTS, '*'),
    fc.oneof(fc.constant({}), fc.array(fc.record({ target, guard, actions, reenter }), { minLength: 1, maxLength: 3 })),
  );
/** Not for ever: what goes round in circles is another test's. One that neither moves nor changes anything is taken once. */
const hop = fc.record({ target, guard: fc.constantFrom('mayHop', 'mayHopOnEven'), actions: fc.constant(['tell', 'hop']) });
const idle = fc.record({ guard: fc.constantFrom(undefined, 'isEven'), actions: fc.constantFrom([], ['tell']) });
const always = fc.option(fc.oneof({ arbitrary: hop, weight: 3 }, { arbitrary: idle, weight: 1 }), { freq: 2, nil: undefined });
const state = fc.record({ on: moves(fc.boolean()), always, entry: actions, exit: actions });
const chart = fc.record({ root: moves(fc.constant(false)), entry: actions, states: fc.array(state, { minLength: PLACES.length, maxLength: PLACES.length }) });

const known = setup({
  types: {} as { context: Counted; events: { type: string } },
  actions: {
    send: (_, _params: unknown) => {},
    tell: () => {},
    hop: assign({ hops: ({ context }) => context.hops + 1 }),
    add: assign({ count: ({ context }) => context.count + 1 }),
    addMany: assign(({ context }, { many }: { many: number }) => ({ count: (context.count + many) % 1_000 })),
  },
  guards: {
    isEven: ({ context }) => context.count % 2 === 0,
    isOver: ({ context }, { limit }: { limit: number }) => context.count > limit,
    mayHop: ({ context }) => context.hops < 5,
    mayHopOnEven: ({ context }) => context.hops < 10 && context.count % 2 === 0,
  },
});

function machineOf({ root, entry, states }: { root: Config; entry: unknown; states: readonly Config[] }): AnyStateMachine {
  const at = (place: Place): Config => ({ id: nameOf(place), ...states[PLACES.findIndex((one) => one.join() === place.join())] });
  const outer = (index: number): Config => ({ ...at([index]), initial: 'a', states: { a: at([index, 0]), b: at([index, 1]) } });
  const config = {
    context: ({ input }: { input: { count: number } }) => ({ count: input.count, by: 1, hops: 0 }),
    initial: 'x',
    entry,
    on: root,
    states: { x: outer(0), y: outer(1), z: outer(2), end: { id: 'end', type: 'final', entry: 'tell' } },
  };
  return known.createMachine(config as never) as unknown as AnyStateMachine;
}

const shown = ({ value, context, status }: Pick<Snapshot, 'value' | 'context' | 'status'>): unknown => ({ value, context, status });

describe('routes of a machine', () => {
  it('lead where XState leads, whatever the chart', () => {
    let [takenAtAll, hopsAtAll] = [0, 0];
    fc.assert(
      fc.property(chart, fc.array(fc.constantFrom(...EVENTS), { minLength: 1, maxLength: 12 }), (drawn, events) => {
        const machine = machineOf(drawn as never);
        const routes = routesOf(machine);
        expect(routes).not.toBeNull();
        const input = { count: events.length };
        const [first, begun] = initialTransition(machine, input as never) as unknown as [Snapshot, readonly { type: string; params: unknown }[]];
        const asked: unknown[] = [];
        const born = routes?.first(input, (name, params) => asked.push([name, params])) as Stand;
        expect(shown(born)).toEqual(shown(first));
        expect(JSON.stringify(born)).toBe(JSON.stringify(first));
        expect(asked).toEqual(begun.map(({ type: name, params }) => [name, params]));
        let stand = born;
        for (const type of events) {
          if (stand.status !== 'active') break;
          const [expected, effects] = transition(machine, stand.snapshot, { type }) as [Snapshot, readonly { type: string; params: unknown }[]];
          const performed: unknown[] = [];
          const next = routes?.next(stand, { type } as unknown as Message, (name, params) => performed.push([name, params])) as Stand;
          expect(shown(next)).toEqual(shown(expected));
          expect(JSON.stringify(next)).toBe(JSON.stringify(expected));
          expect(performed).toEqual(effects.map(({ type: name, params }) => [name, params]));
          expect((routes?.taken ?? 0) > 0 || next === stand).toBe(true);
          takenAtAll += routes?.taken ?? 0;
          stand = next;
        }
        hopsAtAll += (stand.context as Counted).hops;
      }),
      { numRuns: 100 },
    );
    expect(Math.min(takenAtAll, hopsAtAll)).toBeGreaterThan(100);
  });

  it('are none where there is something that XState alone knows', () => {
    const machines: readonly object[] = [
      { type: 'parallel', states: { a: {}, b: {} } },
      { initial: 'a', states: { a: { after: { 5: 'b' } }, b: {} } },
      { initial: 'a', states: { a: { invoke: { src: fromCallback(() => {}) } } } },
      { initial: 'a', states: { a: { entry: raise({ type: 'X' }) } } },
      { initial: 'a', states: { a: { on: { X: { guard: and([() => true]), target: 'b' } } }, b: {} } },
      { initial: 'a', states: { a: { initial: 'b', states: { b: { type: 'final' } }, onDone: 'c' }, c: {} } },
      { initial: 'a', states: { a: { initial: 'b', states: { b: {}, old: { type: 'history' } } } } },
      { initial: 'a', states: { a: { on: { 'X.*': 'b' } }, b: {} } },
    ];
    for (const config of machines) expect(routesOf(createMachine(config as never) as AnyStateMachine), JSON.stringify(config)).toBeNull();
    expect(routesOf(createMachine({ initial: 'a', states: { a: {} } }) as AnyStateMachine)).not.toBeNull();
  });
});
