/**
 * Addresses name roles, not threads: `npu/3`, `expert/4.12` (layer, id), `request/7`.
 * On the wire an address is a role and a 32-bit id, so that a frame's header needs no text.
 * @module
 */
import { assert } from './errors.ts';

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
] as const;
export type Role = (typeof ROLES)[number];
export type Address = `${Role}/${string}`;

/** Experts of one layer that an address can name. */
const EXPERTS_PER_LAYER_MAX = 1 << 16;

export const address = (role: Role, id: number): Address => `${role}/${id}`;

export function expertAddress(layer: number, expert: number): Address {
  assert(expert < EXPERTS_PER_LAYER_MAX, `expert ${expert} is out of an address's range`);
  return `expert/${layer}.${expert}`;
}

/** 12 of `expert/4.12`. */
export const expertOf = (expert: Address): number => idOf(expert) & 0xffff;

export function roleOf(target: Address): Role {
  return target.slice(0, target.indexOf('/')) as Role;
}

/** The 32-bit id: a plain number, or layer × 2¹⁶ + expert. */
export function idOf(target: Address): number {
  const text = target.slice(target.indexOf('/') + 1);
  const dot = text.indexOf('.');
  if (dot < 0) return Number(text);
  return Number(text.slice(0, dot)) * EXPERTS_PER_LAYER_MAX + Number(text.slice(dot + 1));
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
  return name === 'expert' ? expertAddress(id >>> 16, id & 0xffff) : address(name, id);
}
