/**
 * A trace in figures: who lived, what was said, for how long.
 * @module
 */
import { type Role, roleOf } from '../protocol/address.ts';
import type { ActRecord } from './act-record.ts';

export type TallyRow = { readonly role: Role; readonly type: string; readonly acts: number };

/** What stands for the type of an act without a message: an actor's birth. */
export const BIRTH = '(birth)';

export class TraceTally {
  /** Records that hold an act. */
  acts = 0;
  duration_us = 0;
  /** Messages that the receiver's state did not expect. */
  unexpected = 0;
  /** Actors that came to life. */
  readonly #actors = new Map<Role, number>();
  readonly #types = new Map<string, number>();

  add({ to, time_us, machine, message, is_expected }: ActRecord): void {
    const role = roleOf(to);
    this.acts++;
    this.duration_us = Math.max(this.duration_us, time_us);
    if (!is_expected) this.unexpected++;
    if (machine !== null) this.#actors.set(role, (this.#actors.get(role) ?? 0) + 1);
    const key = `${role} ${message?.type ?? BIRTH}`;
    this.#types.set(key, (this.#types.get(key) ?? 0) + 1);
  }

  /** Actors that came to life, by role. */
  get actors(): { readonly [role: string]: number } {
    return Object.fromEntries(sorted(this.#actors));
  }

  /** Acts by receiver's role and message, in alphabetical order. */
  get types(): TallyRow[] {
    return sorted(this.#types).map(([key, acts]) => {
      const [role, type] = key.split(' ') as [Role, string];
      return { role, type, acts };
    });
  }
}

const sorted = <Key extends string>(counts: ReadonlyMap<Key, number>): [Key, number][] => [...counts].sort(([a], [b]) => (a < b ? -1 : 1));
