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

/** One for all actors of a machine: between two messages it knows of none of them. */
export class MachineRoutes {
  readonly #machine: AnyStateMachine;
  readonly #table: RouteTable;
  /** Of the message at hand: where it has led so far, and by how many transitions; none: the state did not expect it. */
  #leaf: Leaf;
  #context: unknown;
  #taken = 0;
  #isAtWork = false;

  constructor(machine: AnyStateMachine) {
    this.#machine = machine;
    this.#table = new RouteTable(machine);
    this.#leaf = this.#table.birth.to;
  }

  /** Transitions that the last message led to. */
  get taken(): number {
    return this.#taken;
  }

  /** As `machine.getInitialSnapshot`. */
  first(input: unknown, perform: Perform): AnyMachineSnapshot {
    const { context } = this.#machine.config as { readonly context?: object | ((given: { readonly input: unknown }) => unknown) };
    const born = { type: INIT, input } as unknown as Message;
    this.#begin();
    try {
      this.#context = typeof context === 'function' ? context({ input }) : (context ?? {});
      this.#take(this.#table.birth, born, perform);
      this.#goOn(born, perform);
      return this.#reached();
    } finally {
      this.#isAtWork = false;
    }
  }

  /** As `machine.transition`. */
  next(snapshot: AnyMachineSnapshot, message: Message, perform: Perform): AnyMachineSnapshot {
    this.#begin();
    try {
      // Mostly it is where the last message led to: each step is the same few messages.
      const from = snapshot.value === this.#leaf.shape.value ? this.#leaf : this.#table.leafOf(snapshot.value);
      this.#leaf = from;
      this.#context = snapshot.context;
      const first = this.#select(this.#table.routesOn(from, message.type), message);
      if (first !== null) this.#take(first, message, perform);
      this.#goOn(message, perform);
      return this.#leaf === from && this.#context === snapshot.context ? snapshot : this.#reached();
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

  /** By what is taken without a message. */
  #goOn(message: Message, perform: Perform): void {
    while (!this.#leaf.isFinal) {
      const next = this.#select(this.#table.always(this.#leaf), message);
      if (next === null) break;
      const before = this.#context;
      this.#take(next, message, perform);
      // One that changes nothing would be taken for ever.
      if (!next.moves && this.#context === before) break;
    }
  }

  #reached(): AnyMachineSnapshot {
    return { ...this.#leaf.shape, context: this.#context } as AnyMachineSnapshot;
  }

  #select(routes: readonly Route[], event: Message): Route | null {
    for (let index = 0; index < routes.length; index++) {
      const route = routes[index] as Route;
      const { guard } = route;
      if (guard === null) return route;
      const given = { context: this.#context, event };
      if (guard.holds(given, paramsOf(guard.params, given))) return route;
    }
    return null;
  }

  #take({ acts, to }: Route, event: Message, perform: Perform): void {
    this.#taken++;
    if (this.#taken > TRANSITIONS_MAX) invariantBroken(`a machine has taken ${TRANSITIONS_MAX} transitions on one message: its states lead in a circle`);
    for (let index = 0; index < acts.length; index++) {
      const { name, params, assignment } = acts[index] as Act;
      const given = { context: this.#context, event };
      if (assignment === null) perform(name, paramsOf(params, given));
      else this.#context = assigned(assignment, given, paramsOf(params, given));
    }
    this.#leaf = to;
  }
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
