/**
 * A machine's birth and its transitions, worked out once for each state and message: the states that are left and entered, and what is done on the way, in one list.
 *
 *   (leaf state, message type) ─▶ routes, innermost state's first: [guard?] exits, actions, entries ─▶ leaf state
 *
 * @module
 */
import type { AnyMachineSnapshot, AnyStateMachine } from 'xstate';
import {
  type ActionConfig,
  ANY_MESSAGE,
  type Assignment,
  type Given,
  type GuardConfig,
  type Implementation,
  implementationOf,
  innermost,
  isWithin,
  type Params,
  pathTo,
  type StateNode,
  type TransitionConfig,
} from './chart-nodes.ts';

/** `assignment`: null for a command, which goes by its name. */
export type Act = { readonly name: string; readonly params: Params; readonly assignment: Assignment | null };
export type Guard = { readonly holds: (given: Given, params: unknown) => unknown; readonly params: Params };
/** `moves`: to another state. */
export type Route = { readonly guard: Guard | null; readonly acts: readonly Act[]; readonly to: Leaf; readonly moves: boolean };
/** A state without states in it. `shape`: of its snapshots, all but the context. */
export type Leaf = {
  readonly node: StateNode;
  readonly isFinal: boolean;
  readonly shape: AnyMachineSnapshot;
  readonly routes: Map<string, readonly Route[]>;
  always: readonly Route[] | null;
};

export class RouteTable {
  readonly #machine: AnyStateMachine;
  readonly #root: StateNode;
  readonly #leaves = new Map<StateNode, Leaf>();
  /** Into its first state. */
  readonly birth: Route;

  constructor(machine: AnyStateMachine) {
    this.#machine = machine;
    this.#root = machine.root as unknown as StateNode;
    this.birth = this.#birthIn(this.#leafAt(innermost(this.#root)));
  }

  /** What a message of the type may lead to. */
  routesOn(leaf: Leaf, type: string): readonly Route[] {
    let routes = leaf.routes.get(type);
    if (routes === undefined) {
      routes = pathTo(leaf.node).flatMap(({ transitions }) =>
        [...(transitions.get(type) ?? []), ...(transitions.get(ANY_MESSAGE) ?? [])].map((one) => this.#routeOf(leaf, one)),
      );
      leaf.routes.set(type, routes);
    }
    return routes;
  }

  /** What is taken without a message. */
  always(leaf: Leaf): readonly Route[] {
    leaf.always ??= pathTo(leaf.node).flatMap(({ always = [] }) => always.map((one) => this.#routeOf(leaf, one)));
    return leaf.always;
  }

  #leafAt(node: StateNode): Leaf {
    let leaf = this.#leaves.get(node);
    if (leaf === undefined) {
      const shape = this.#machine.resolveState({ value: stateValueOf(node), context: {} } as never) as AnyMachineSnapshot;
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

/** As in a snapshot: `'idle'`, or `{ held: 'running' }`. */
function stateValueOf(node: StateNode): unknown {
  let value: unknown = node.key;
  for (let outer = node.parent; outer?.parent !== undefined; outer = outer.parent) value = { [outer.key]: value };
  return value;
}

const givenParams = (config: ActionConfig): Params => (typeof config === 'object' ? config.params : undefined);

function actOf(machine: AnyStateMachine, config: ActionConfig): Act {
  const name = typeof config === 'string' ? config : typeof config === 'object' ? config.type : config.name;
  return { name, params: givenParams(config), assignment: implementationOf(machine, 'actions', config)?.assignment ?? null };
}

const guardOf = (machine: AnyStateMachine, config: GuardConfig): Guard => ({
  holds: implementationOf(machine, 'guards', config) as Implementation,
  params: givenParams(config),
});
