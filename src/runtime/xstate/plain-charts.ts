/**
 * Which charts have routes (route-table.ts): states within states, guards, commands and `assign`. What else there is in XState (parallel states, history, invoked actors,
 * delays, raised events) is not among them.
 * @module
 */
import type { AnyStateMachine } from 'xstate';
import { type ActionConfig, ANY_MESSAGE, implementationOf, type StateNode, type TransitionConfig } from './chart-nodes.ts';

const ASSIGN = 'xstate.assign';

export function isPlainChart(machine: AnyStateMachine): boolean {
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
