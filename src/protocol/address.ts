/**
 * Addresses name roles, not threads: `npu/3`, `expert/4.12` (layer, id; of task executor 2: `expert/2:4.12`), `request/7`.
 * On the wire an address is a role and a 32-bit id, so that a frame's header needs no text.
 * @module
 */
import { assert } from './errors.ts';
import { EXECUTORS_MAX } from './topology.ts';

/** Order is part of the protocol: a role's index travels in frames. */
export const ROLES = [
  'caller',
  'frontend',
  'request',
  'job',
  'task',
  'job-executor',
  'task-executor',
  'dp-group',
  'npu',
  'expert',
  'worker',
  'control',
  'cluster-manager',
  'output',
  'expert-map',
  'scaling',
  'role-switch',
] as const;
export type Role = (typeof ROLES)[number];
export type Address = `${Role}/${string}`;

/** What an address of an expert can name: 6 bits of task executor, 10 of layer, 16 of expert. */
const EXPERTS_PER_LAYER_MAX = 1 << 16;
const LAYERS_MAX = 1 << 10;
const LAYER_SHIFT = 16;
const EXECUTOR_SHIFT = 26;
const DIGIT_0 = '0'.charCodeAt(0);

export const address = (role: Role, id: number): Address => `${role}/${id}`;

export function expertAddress(executor: number, layer: number, expert: number): Address {
  assert(
    expert < EXPERTS_PER_LAYER_MAX && layer < LAYERS_MAX && executor < EXECUTORS_MAX,
    `expert ${executor}:${layer}.${expert} is out of an address's range`,
  );
  return executor === 0 ? `expert/${layer}.${expert}` : `expert/${executor}:${layer}.${expert}`;
}

/** 12 of `expert/4.12`. */
export const expertOf = (expert: Address): number => idOf(expert) & (EXPERTS_PER_LAYER_MAX - 1);
/** 2 of `expert/2:4.12`, 0 of `expert/4.12`. */
export const executorOf = (expert: Address): number => idOf(expert) >>> EXECUTOR_SHIFT;

export function roleOf(target: Address): Role {
  return target.slice(0, target.indexOf('/')) as Role;
}

/** The 32-bit id: a plain number, or an expert's executor, layer and id side by side. */
export function idOf(target: Address): number {
  let id = 0;
  let at = target.indexOf('/') + 1;
  // Asked for each message: a plain number is read without making a string of it.
  for (; at < target.length; at++) {
    const digit = target.charCodeAt(at) - DIGIT_0;
    if (digit < 0 || digit > 9) break;
    id = id * 10 + digit;
  }
  return at === target.length ? id : idOfExpert(target);
}

function idOfExpert(target: Address): number {
  const text = target.slice(target.indexOf('/') + 1);
  const dot = text.indexOf('.');
  if (dot < 0) return Number(text);
  const colon = text.indexOf(':');
  const executor = colon < 0 ? 0 : Number(text.slice(0, colon));
  return executor * 2 ** EXECUTOR_SHIFT + Number(text.slice(colon + 1, dot)) * EXPERTS_PER_LAYER_MAX + Number(text.slice(dot + 1));
}

const roleIndex = new Map<string, number>(ROLES.map((role, index) => [role, index]));

export function roleIndexOf(target: Address): number {
  const index = roleIndex.get(roleOf(target));
  assert(index !== undefined, `${target} names no role`);
  return index;
}

export function toAddress(role: number, id: number): Address {
  const name = ROLES[role];
  assert(name !== undefined, `role ${role} is not in the protocol`);
  return name === 'expert'
    ? expertAddress(id >>> EXECUTOR_SHIFT, (id >>> LAYER_SHIFT) & (LAYERS_MAX - 1), id & (EXPERTS_PER_LAYER_MAX - 1))
    : address(name, id);
}
