/**
 * Runs a machine by its routes (route-table.ts). XState works out anew for each message which states are left and entered, with sets and closures, and makes a snapshot
 * for each `assign`: most of what a delivery took (docs/performance.md). Here it is worked out once.
 *
 * It does what XState does for plain charts (plain-charts.ts); of another one `routesOf` says null, and XState runs it. A test holds both against each other, on charts of
 * all shapes.
 * @module
 */
import type { AnyMachineSnapshot, AnyStateMachine } from 'xstate';
import { invariantBroken } from '../../protocol/errors.ts';
import type { Message } from '../../protocol/messages.ts';
import type { Assignment, Given, Params } from './chart-nodes.ts';
import { isPlainChart } from './plain-charts.ts';
import { type Act, type Leaf, type Route, RouteTable } from './route-table.ts';

/** Called for each command, in order, while a route is taken. */
type Perform = (name: string, params: unknown) => void;

/** On one message: far more than any machine has states. Else it would go round for ever. */
export const TRANSITIONS_MAX = 1_000;
/** The event of a birth, which entry actions may ask. */
const INIT = 'xstate.init';

const known = new WeakMap<AnyStateMachine, MachineRoutes | null>();

/** Null: there is something in the machine that XState alone knows. */
export function routesOf(machine: AnyStateMachine): MachineRoutes | null {
  let routes = known.get(machine);
  if (routes === undefined) {
    routes = isPlainChart(machine) ? new MachineRoutes(machine) : null;
    known.set(machine, routes);
  }
  return routes;
}

/**
 * Where an actor stands. As XState's own snapshot it is written out where somebody looks at it as such, which mostly nobody does: a delivery makes three fields, where
 * that has fifteen, and all actors' look alike to whoever reads them.
 */
export class Stand {
  readonly routes: MachineRoutes;
  readonly leaf: Leaf;
  readonly context: unknown;

  constructor(routes: MachineRoutes, leaf: Leaf, context: unknown) {
    this.routes = routes;
    this.leaf = leaf;
    this.context = context;
  }

  get value(): unknown {
    return this.leaf.shape.value;
  }

  get status(): 'active' | 'done' {
    return this.leaf.isFinal ? 'done' : 'active';
  }

  get snapshot(): AnyMachineSnapshot {
    return { ...this.leaf.shape, context: this.context } as AnyMachineSnapshot;
  }

  toJSON(): unknown {
    return this.snapshot.toJSON();
  }
}

/** One for all actors of a machine: between two messages it knows of none of them. */
export class MachineRoutes {
  readonly #machine: AnyStateMachine;
  readonly #table: RouteTable;
  #taken = 0;
  #isAtWork = false;

  constructor(machine: AnyStateMachine) {
    this.#machine = machine;
    this.#table = new RouteTable(machine);
  }

  /** Transitions that the last message led to; none: the state did not expect it. */
  get taken(): number {
    return this.#taken;
  }

  /** As `machine.getInitialSnapshot`. */
  first(input: unknown, perform: Perform): Stand {
    const { context } = this.#machine.config as { readonly context?: object | ((given: { readonly input: unknown }) => unknown) };
    const born = { type: INIT, input } as unknown as Message;
    this.#begin();
    try {
      const { birth } = this.#table;
      return this.#goOn(birth.to, this.#take(birth, typeof context === 'function' ? context({ input }) : (context ?? {}), born, perform), born, perform, null);
    } finally {
      this.#isAtWork = false;
    }
  }

  /** As `machine.transition`. */
  next(stand: Stand, message: Message, perform: Perform): Stand {
    this.#begin();
    try {
      const { leaf, context } = stand;
      const first = select(this.#table.routesOn(leaf, message.type), context, message);
      if (first === null) return this.#goOn(leaf, context, message, perform, stand);
      return this.#goOn(first.to, this.#take(first, context, message, perform), message, perform, stand);
    } finally {
      this.#isAtWork = false;
    }
  }

  /** An actor that ran inside another one's transition would take that one's place. */
  #begin(): void {
    if (this.#isAtWork) invariantBroken(`a message was delivered to machine ${this.#machine.id} within a transition of it: hosts note commands, and act later`);
    this.#isAtWork = true;
    this.#taken = 0;
  }

  /** From where a message has led, by what is taken without one. `before`: where that may have been all along. */
  #goOn(from: Leaf, reached: unknown, message: Message, perform: Perform, before: Stand | null): Stand {
    let leaf = from;
    let context = reached;
    while (!leaf.isFinal) {
      const next = select(this.#table.always(leaf), context, message);
      if (next === null) break;
      const changed = this.#take(next, context, message, perform);
      const goesRound = !next.moves && changed === context;
      leaf = next.to;
      context = changed;
      // One that changes nothing would be taken for ever.
      if (goesRound) break;
    }
    return before !== null && leaf === before.leaf && context === before.context ? before : new Stand(this, leaf, context);
  }

  /** The context that it leads to. */
  #take({ acts }: Route, from: unknown, event: Message, perform: Perform): unknown {
    let context = from;
    this.#taken++;
    if (this.#taken > TRANSITIONS_MAX) invariantBroken(`a machine has taken ${TRANSITIONS_MAX} transitions on one message: its states lead in a circle`);
    for (let index = 0; index < acts.length; index++) {
      const { name, params, assignment } = acts[index] as Act;
      const given = { context, event };
      if (assignment === null) perform(name, paramsOf(params, given));
      else context = assigned(assignment, given, paramsOf(params, given));
    }
    return context;
  }
}

function select(routes: readonly Route[], context: unknown, event: Message): Route | null {
  for (let index = 0; index < routes.length; index++) {
    const route = routes[index] as Route;
    const { guard } = route;
    if (guard === null) return route;
    const given = { context, event };
    if (guard.holds(given, paramsOf(guard.params, given))) return route;
  }
  return null;
}

const paramsOf = (params: Params, given: Given): unknown => (typeof params === 'function' ? params(given) : params);

/** The next context. Key by key, since most keys are there already: to spread what is assigned over it takes V8 several times as long. */
function assigned(assignment: Assignment, given: Given, params: unknown): object {
  const next: Record<string, unknown> = { ...(given.context as object) };
  if (typeof assignment === 'function') {
    const update = assignment(given, params) as Readonly<Record<string, unknown>>;
    for (const key in update) next[key] = update[key];
    return next;
  }
  for (const key in assignment) {
    const value = assignment[key];
    next[key] = typeof value === 'function' ? value(given, params) : value;
  }
  return next;
}
