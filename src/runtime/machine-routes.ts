/**
 * A machine's birth and its transitions, worked out once for each state and message: the states that are left and entered, and what is done on the way, in one list. XState
 * works that out anew for each message, with sets and closures, and makes a snapshot for each `assign`: most of what a delivery took (docs/performance.md).
 *
 *   (leaf state, message type) ─▶ routes, innermost state's first: [guard?] exits, actions, entries ─▶ leaf state
 *
 * It reads what XState has made of a chart, which no promise of versions covers: package.json names one version.
 *
 * It does what XState does for charts of states within states, with guards, commands and `assign`. What else there is in XState (parallel states, history, invoked
 * actors, delays, raised events) is not here: `routesOf` says null, and XState runs such a machine. A test holds both against each other, on charts of all shapes.
 * @module
 */
import type { AnyStateMachine } from 'xstate';
import { invariantBroken } from '../protocol/errors.ts';
import type { Message } from '../protocol/messages.ts';
import type { Snapshot } from './machine-host.ts';

/** Called for each command, in order, while a route is taken. */
type Perform = (name: string, params: unknown) => void;

/** What is read of XState's own nodes. */
type StateNode = {
  readonly key: string;
  readonly type: string;
  readonly parent?: StateNode;
  readonly states: Readonly<Record<string, StateNode>>;
  readonly entry: readonly ActionConfig[];
  readonly exit: readonly ActionConfig[];
  readonly always?: readonly TransitionConfig[];
  readonly transitions: ReadonlyMap<string, readonly TransitionConfig[]>;
  readonly invoke: readonly unknown[];
  readonly initial: { readonly target: readonly StateNode[]; readonly actions: readonly unknown[] };
  readonly output?: unknown;
  readonly config: { readonly after?: unknown; readonly onDone?: unknown; readonly route?: unknown };
};
type TransitionConfig = {
  readonly source: StateNode;
  readonly target?: readonly StateNode[];
  readonly reenter: boolean;
  readonly guard?: GuardConfig;
  readonly actions: readonly ActionConfig[];
};
type Given = { readonly context: unknown; readonly event: Message };
type Params = unknown | ((given: Given) => unknown);
type Named = { readonly type: string; readonly params?: Params };
type Assignment = ((given: Given, params: unknown) => object) | Readonly<Record<string, unknown>>;
type Implementation = ((given: Given, params: unknown) => unknown) & {
  readonly type?: string;
  readonly resolve?: unknown;
  readonly check?: unknown;
  readonly assignment?: Assignment;
};
type ActionConfig = string | Named | Implementation;
type GuardConfig = string | Named | Implementation;

/** `assignment`: null for a command, which goes by its name. */
type Act = { readonly name: string; readonly params: Params; readonly assignment: Assignment | null };
type Guard = { readonly holds: (given: Given, params: unknown) => unknown; readonly params: Params };
/** `moves`: to another state. */
type Route = { readonly guard: Guard | null; readonly acts: readonly Act[]; readonly to: Leaf; readonly moves: boolean };
/** A state without states in it. `shape`: of its snapshots, all but the context. */
type Leaf = {
  readonly node: StateNode;
  readonly isFinal: boolean;
  readonly shape: Snapshot;
  readonly routes: Map<string, readonly Route[]>;
  always: readonly Route[] | null;
};

/** On one message: far more than any machine has states. Else it would go round for ever. */
export const TRANSITIONS_MAX = 1_000;
const ANY_MESSAGE = '*';
/** The event of a birth, which entry actions may ask. */
const INIT = 'xstate.init';

const known = new WeakMap<AnyStateMachine, MachineRoutes | null>();

/** Null: there is something in the machine that XState alone knows. */
export function routesOf(machine: AnyStateMachine): MachineRoutes | null {
  let routes = known.get(machine);
  if (routes === undefined) {
    routes = hasRoutes(machine) ? new MachineRoutes(machine) : null;
    known.set(machine, routes);
  }
  return routes;
}

export class MachineRoutes {
  readonly #machine: AnyStateMachine;
  readonly #root: StateNode;
  readonly #leaves = new Map<StateNode, Leaf>();
  /** Into its first state. */
  readonly #birth: Route;
  /** Of the message at hand: where it has led so far, and by how many transitions; none: the state did not expect it. */
  #leaf: Leaf;
  #context: unknown;
  #taken = 0;

  constructor(machine: AnyStateMachine) {
    this.#machine = machine;
    this.#root = machine.root as unknown as StateNode;
    this.#leaf = this.#leafAt(innermost(this.#root));
    this.#birth = this.#birthIn(this.#leaf);
  }

  /** Transitions that the last message led to. */
  get taken(): number {
    return this.#taken;
  }

  /** As `machine.getInitialSnapshot`. */
  first(input: unknown, perform: Perform): Snapshot {
    const { context } = this.#machine.config as { readonly context?: object | ((given: { readonly input: unknown }) => unknown) };
    this.#context = typeof context === 'function' ? context({ input }) : (context ?? {});
    this.#taken = 0;
    const born = { type: INIT, input } as unknown as Message;
    this.#take(this.#birth, born, perform);
    this.#goOn(born, perform);
    return this.#reached();
  }

  /** As `machine.transition`. */
  next(snapshot: Snapshot, message: Message, perform: Perform): Snapshot {
    const from = this.#leafOf(snapshot.value);
    this.#leaf = from;
    this.#context = snapshot.context;
    this.#taken = 0;
    const first = this.#select(this.#routesOn(from, message.type), message);
    if (first !== null) this.#take(first, message, perform);
    this.#goOn(message, perform);
    return this.#leaf === from && this.#context === snapshot.context ? snapshot : this.#reached();
  }

  /** By what is taken without a message. */
  #goOn(message: Message, perform: Perform): void {
    while (!this.#leaf.isFinal) {
      const next = this.#select(this.#always(this.#leaf), message);
      if (next === null) break;
      const before = this.#context;
      this.#take(next, message, perform);
      // One that changes nothing would be taken for ever.
      if (!next.moves && this.#context === before) break;
    }
  }

  #reached(): Snapshot {
    return { ...this.#leaf.shape, context: this.#context } as Snapshot;
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

  #routesOn(leaf: Leaf, type: string): readonly Route[] {
    let routes = leaf.routes.get(type);
    if (routes === undefined) {
      routes = pathTo(leaf.node).flatMap(({ transitions }) =>
        [...(transitions.get(type) ?? []), ...(transitions.get(ANY_MESSAGE) ?? [])].map((one) => this.#routeOf(leaf, one)),
      );
      leaf.routes.set(type, routes);
    }
    return routes;
  }

  #always(leaf: Leaf): readonly Route[] {
    leaf.always ??= pathTo(leaf.node).flatMap(({ always = [] }) => always.map((one) => this.#routeOf(leaf, one)));
    return leaf.always;
  }

  #leafOf(value: unknown): Leaf {
    // Mostly it is where the last message led to: each step is the same few messages.
    if (value === this.#leaf.shape.value) return this.#leaf;
    let node = this.#root;
    let inner = value;
    while (typeof inner === 'object' && inner !== null) {
      const [key] = Object.keys(inner) as [string];
      node = node.states[key] as StateNode;
      inner = (inner as Record<string, unknown>)[key];
    }
    return this.#leafAt(node.states[inner as string] as StateNode);
  }

  #leafAt(node: StateNode): Leaf {
    let leaf = this.#leaves.get(node);
    if (leaf === undefined) {
      const shape = this.#machine.resolveState({ value: stateValueOf(node), context: {} } as never) as Snapshot;
      leaf = { node, isFinal: node.type === 'final', shape, routes: new Map(), always: null };
      this.#leaves.set(node, leaf);
    }
    return leaf;
  }

  #birthIn(to: Leaf): Route {
    const actions = pathTo(to.node)
      .reverse()
      .flatMap(({ entry }) => entry);
    return { guard: null, acts: this.#actsOf(actions, to.node), to, moves: true };
  }

  #routeOf(from: Leaf, transition: TransitionConfig): Route {
    const { left, entered, leaf } = way(from.node, transition);
    const actions = [...left.flatMap(({ exit }) => exit), ...transition.actions, ...entered.flatMap(({ entry }) => entry)];
    return {
      guard: transition.guard === undefined ? null : guardOf(this.#machine, transition.guard),
      acts: this.#actsOf(actions, leaf),
      to: this.#leafAt(leaf),
      moves: leaf !== from.node,
    };
  }

  /** A machine that ends leaves all that it is in. */
  #actsOf(actions: readonly ActionConfig[], leaf: StateNode): Act[] {
    const last = leaf.type === 'final' ? pathTo(leaf).flatMap(({ exit }) => exit) : [];
    return [...actions, ...last].map((action) => actOf(this.#machine, action));
  }
}

/** The states that a transition leaves, innermost first, and those that it enters, outermost first (SCXML's exit and entry sets, of states within states alone). */
function way(
  from: StateNode,
  { source, target, reenter }: TransitionConfig,
): { readonly left: StateNode[]; readonly entered: StateNode[]; readonly leaf: StateNode } {
  const to = target?.[0];
  if (to === undefined) return { left: [], entered: [], leaf: from };
  const staysInside = !reenter && (to === source || isWithin(to, source));
  const domain = staysInside
    ? source
    : (pathTo(to)
        .slice(1)
        .find((outer) => isWithin(source, outer)) as StateNode);
  const left = pathTo(from).filter((node) => isWithin(node, domain));
  const entered: StateNode[] = pathTo(to)
    .filter((node) => isWithin(node, domain))
    .reverse();
  for (let node = to; node.type === 'compound'; ) {
    node = node.initial.target[0] as StateNode;
    entered.push(node);
  }
  return { left, entered, leaf: innermost(to) };
}

/** The state and those around it, the machine itself last. */
function pathTo(node: StateNode): StateNode[] {
  const path: StateNode[] = [];
  for (let at: StateNode | undefined = node; at !== undefined; at = at.parent) path.push(at);
  return path;
}

const isWithin = (node: StateNode, outer: StateNode): boolean => node !== outer && pathTo(node).includes(outer);

function innermost(node: StateNode): StateNode {
  return node.type === 'compound' ? innermost(node.initial.target[0] as StateNode) : node;
}

/** As in a snapshot: `'idle'`, or `{ held: 'running' }`. */
function stateValueOf(node: StateNode): unknown {
  let value: unknown = node.key;
  for (let outer = node.parent; outer?.parent !== undefined; outer = outer.parent) value = { [outer.key]: value };
  return value;
}

function implementationOf(machine: AnyStateMachine, kind: 'actions' | 'guards', config: ActionConfig): Implementation | undefined {
  if (typeof config === 'function') return config;
  return (machine.implementations[kind] as Readonly<Record<string, Implementation>>)[typeof config === 'string' ? config : config.type];
}

const givenParams = (config: ActionConfig): Params => (typeof config === 'object' ? config.params : undefined);
const paramsOf = (params: Params, given: Given): unknown => (typeof params === 'function' ? params(given) : params);

function actOf(machine: AnyStateMachine, config: ActionConfig): Act {
  const name = typeof config === 'string' ? config : typeof config === 'object' ? config.type : config.name;
  return { name, params: givenParams(config), assignment: implementationOf(machine, 'actions', config)?.assignment ?? null };
}

const guardOf = (machine: AnyStateMachine, config: GuardConfig): Guard => ({
  holds: implementationOf(machine, 'guards', config) as Implementation,
  params: givenParams(config),
});

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

// ── What has no routes ──────────────────────────────────────────────────────────────────────────────────────────────

const ASSIGN = 'xstate.assign';

function hasRoutes(machine: AnyStateMachine): boolean {
  const root = machine.root as unknown as StateNode;
  const isKnown = (node: StateNode): boolean => hasPlainStates(node) && hasPlainActions(machine, node) && Object.values(node.states).every(isKnown);
  return root.type === 'compound' && root.output === undefined && isKnown(root);
}

/** A final state within another one would tell that one that it is done. */
function hasPlainStates({ type, parent, invoke, initial, config, transitions, always = [] }: StateNode): boolean {
  const isOuter = parent === undefined || parent.parent === undefined;
  const isPlain = type === 'atomic' || type === 'compound' || (type === 'final' && isOuter);
  const hasParts = invoke.length > 0 || config.after !== undefined || config.onDone !== undefined || config.route !== undefined;
  const isTaken = ({ source, target = [], reenter }: TransitionConfig): boolean => target.length < 2 && !(reenter && source.parent === undefined);
  const isPartial = (type: string): boolean => type !== ANY_MESSAGE && type.includes(ANY_MESSAGE);
  if (!isPlain || hasParts || [...transitions.keys()].some(isPartial)) return false;
  return (type !== 'compound' || initial.actions.length === 0) && [...always, ...[...transitions.values()].flat()].every(isTaken);
}

function hasPlainActions(machine: AnyStateMachine, { entry, exit, transitions, always = [] }: StateNode): boolean {
  const all = [...always, ...[...transitions.values()].flat()];
  const isPlain = (config: ActionConfig): boolean => {
    const action = implementationOf(machine, 'actions', config);
    return action === undefined || !('resolve' in action) || action.type === ASSIGN;
  };
  const isTest = ({ guard }: TransitionConfig): boolean => {
    const test = guard === undefined ? null : implementationOf(machine, 'guards', guard);
    return test === null || (typeof test === 'function' && !('check' in test));
  };
  return [...entry, ...exit, ...all.flatMap(({ actions }) => actions)].every(isPlain) && all.every(isTest);
}
