/**
 * Hosts XState machines, and is this folder's one door: what XState 5 is like nobody else knows. A machine is a pure function here:
 * (snapshot, message) → (snapshot, commands).
 *
 * XState schedules nothing: no actor is created, no timer kept, no child spawned. A machine begins and goes on by its routes, which do the same in a
 * thirtieth of the time; one that has none, by XState itself: `machine.transition` with one reused scope, about 0.3 M messages a second, several times what `transition()`
 * does. The scope hands out each command as it is met, and says by its inspection event whether any transition was taken: snapshot identity cannot tell.
 * @module
 */
import type { ActorScope, AnyEventObject, AnyMachineSnapshot, AnyStateMachine } from 'xstate';
import { assert, MinipodError } from '../../protocol/errors.ts';
import type { Commands, Message } from '../../protocol/messages.ts';
import { routesOf, Stand, TRANSITIONS_MAX } from './machine-routes.ts';

export type CommandName = keyof Commands;
/** Called for each command, in order, while the transition is taken: note it down, act later. */
export type CommandSink = (name: CommandName, params: unknown) => void;

export type Machine = AnyStateMachine;
/** Where an actor stands: by its machine's routes, or XState's own. */
export type Snapshot = Pick<AnyMachineSnapshot, 'value' | 'context' | 'status' | 'toJSON'>;

/** Asked of each command: compared one by one, since a set is memory that no cache holds after a step's kernels. */
function isCommand(name: string): name is CommandName {
  switch (name as CommandName) {
    case 'send':
    case 'sendEach':
    case 'launch':
    case 'transferEach':
    case 'afterEach':
    case 'after':
    case 'cancel':
    case 'transfer':
    case 'claim':
      return true;
    default:
      return false;
  }
}

export class MachineHost {
  readonly #scope: ActorScope<AnyMachineSnapshot, AnyEventObject>;
  #sink: CommandSink = () => {};
  #transitions = 0;

  constructor() {
    const system = {
      // The only trace of "no transition was taken" that costs nothing: the microstep of the received event carries its transitions.
      _sendInspectionEvent: (event: { type: string; _transitions?: readonly unknown[] }) => {
        if (event.type !== '@xstate.microstep') return;
        this.#transitions += event._transitions?.length ?? 0;
        assert(this.#transitions <= TRANSITIONS_MAX, `a machine has taken ${TRANSITIONS_MAX} transitions on one message: its states lead in a circle`);
      },
    };
    const refuse = (what: string) => () => {
      throw new MinipodError('internal', `a machine used ${what}; actors act by commands only`);
    };
    this.#scope = {
      self: { id: 'hosted', system },
      id: 'hosted',
      sessionId: 'hosted',
      system,
      logger: refuse('log'),
      defer: refuse('a child or a deferred effect'),
      emit: refuse('emit'),
      stopChild: refuse('stopChild'),
      actionExecutor: ({ type, params }: { type: string; params: unknown }) => this.#command(type, params),
    } as unknown as ActorScope<AnyMachineSnapshot, AnyEventObject>;
  }

  readonly #command = (name: string, params: unknown): void => {
    if (isCommand(name)) this.#sink(name, params);
    else throw new MinipodError('internal', `a machine used the action ${name}, which is no command`);
  };

  start(machine: Machine, input: unknown, sink: CommandSink): Snapshot {
    this.#sink = sink;
    const routes = routesOf(machine);
    if (routes !== null) return routes.first(input, this.#command);
    this.#transitions = 0;
    const snapshot = machine.getInitialSnapshot(this.#scope as never, input as never) as AnyMachineSnapshot;
    return this.#checked(snapshot);
  }

  /** The next snapshot; `isExpected` is false if the state had no transition for the message, which then changed nothing. */
  deliver(machine: Machine, snapshot: Snapshot, message: Message, sink: CommandSink): { readonly snapshot: Snapshot; readonly isExpected: boolean } {
    this.#sink = sink;
    if (snapshot instanceof Stand) {
      const { routes } = snapshot;
      return { snapshot: routes.next(snapshot, message, this.#command), isExpected: routes.taken > 0 };
    }
    this.#transitions = 0;
    const next = machine.transition(snapshot as AnyMachineSnapshot, message as AnyEventObject, this.#scope as never) as AnyMachineSnapshot;
    return { snapshot: this.#checked(next), isExpected: this.#transitions > 0 };
  }

  /** XState keeps an error of an action or a context in the snapshot; here it is thrown. */
  #checked(snapshot: AnyMachineSnapshot): Snapshot {
    if (snapshot.status === 'error') throw snapshot.error;
    return snapshot;
  }
}

export const isDone = (snapshot: Snapshot): boolean => snapshot.status !== 'active';

/** The innermost state's name: `prefilling`, not `{held: 'prefilling'}`. */
export function stateName(snapshot: Snapshot): string {
  let value: unknown = snapshot.value;
  while (typeof value === 'object' && value !== null) value = Object.values(value)[0];
  return String(value);
}

/** All that `stateName` may say of a machine's snapshots. */
export function stateNames({ root }: Machine): string[] {
  const leavesOf = (node: typeof root): string[] => {
    const children = Object.values(node.states) as (typeof root)[];
    return children.length === 0 ? [node.key] : children.flatMap(leavesOf);
  };
  return leavesOf(root);
}
