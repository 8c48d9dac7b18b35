/**
 * Timers that go on for ever, or while somebody waits: on a virtual clock they are no reason to believe that anything is left to happen.
 * @module
 */
import { type Address, type Role, roleOf } from '../protocol/address.ts';

const BACKGROUND: ReadonlyMap<Role, readonly string[]> = new Map([
  ['cluster-manager', ['lease', 'beat']],
  ['expert-map', ['period']],
  ['task-executor', ['beat']],
]);

export const isBackground = (owner: Address, timer: string): boolean => BACKGROUND.get(roleOf(owner))?.includes(timer) === true;
