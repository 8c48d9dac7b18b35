/**
 * What of a chart is read as XState has made it, which no promise of versions covers: package.json names one version.
 * @module
 */
import type { AnyStateMachine } from 'xstate';
import type { Message } from '../../protocol/messages.ts';

export const ANY_MESSAGE = '*';

/** What is read of XState's own nodes. */
export type StateNode = {
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
export type TransitionConfig = {
  readonly source: StateNode;
  readonly target?: readonly StateNode[];
  readonly reenter: boolean;
  readonly guard?: GuardConfig;
  readonly actions: readonly ActionConfig[];
};
export type Given = { readonly context: unknown; readonly event: Message };
export type Params = unknown | ((given: Given) => unknown);
type Named = { readonly type: string; readonly params?: Params };
export type Assignment = ((given: Given, params: unknown) => object) | Readonly<Record<string, unknown>>;
export type Implementation = ((given: Given, params: unknown) => unknown) & {
  readonly type?: string;
  readonly resolve?: unknown;
  readonly check?: unknown;
  readonly assignment?: Assignment;
};
export type ActionConfig = string | Named | Implementation;
export type GuardConfig = string | Named | Implementation;

/** The state and those around it, the machine itself last. */
export function pathTo(node: StateNode): StateNode[] {
  const path: StateNode[] = [];
  for (let at: StateNode | undefined = node; at !== undefined; at = at.parent) path.push(at);
  return path;
}

export const isWithin = (node: StateNode, outer: StateNode): boolean => node !== outer && pathTo(node).includes(outer);

export function innermost(node: StateNode): StateNode {
  return node.type === 'compound' ? innermost(node.initial.target[0] as StateNode) : node;
}

export function implementationOf(machine: AnyStateMachine, kind: 'actions' | 'guards', config: ActionConfig): Implementation | undefined {
  if (typeof config === 'function') return config;
  return (machine.implementations[kind] as Readonly<Record<string, Implementation>>)[typeof config === 'string' ? config : config.type];
}
