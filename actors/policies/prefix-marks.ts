/**
 * Marks of a prompt's prefixes: two prompts that begin alike have their first marks in common, so a leader can guess who holds what without seeing prompts.
 * A guess is all that is made of it: marks may collide, and what was held may be gone.
 * @module
 */

import type { HeldPrefix } from '../../src/protocol/prefix-sharing.ts';

/** Tokens from one mark to the next. */
export const MARK_TOKENS = 32;
/** Beyond them prompts are told apart no more. */
const MARKS_MAX = 128;

/** A hash of the first 32 tokens, of the first 64, and so on; prefixes of another `salt` have other marks. */
export function prefixMarks(salt: string, prompt: readonly number[]): number[] {
  const marks: number[] = [];
  let hash = 0x811c9dc5;
  for (let at = 0; at < salt.length; at++) hash = Math.imul(hash ^ salt.charCodeAt(at), 0x01000193);
  const end = Math.min(prompt.length, MARKS_MAX * MARK_TOKENS);
  for (let at = 0; at < end; at++) {
    hash = Math.imul(hash ^ (prompt[at] as number), 0x01000193);
    if ((at + 1) % MARK_TOKENS === 0) marks.push(hash >>> 0);
  }
  return marks;
}

/** Which groups have been given which prefixes. Soft: when it is full, all of it is forgotten. */
export class PrefixMarks {
  readonly #groups = new Map<number, Set<number>>();
  readonly #marks_max: number;

  constructor(marks_max: number) {
    this.#marks_max = marks_max;
  }

  add(group: number, marks: readonly number[]): void {
    if (this.#groups.size + marks.length > this.#marks_max) this.#groups.clear();
    for (const mark of marks) {
      const groups = this.#groups.get(mark);
      if (groups === undefined) this.#groups.set(mark, new Set([group]));
      else groups.add(group);
    }
  }

  /** Tokens that the group probably holds of such a prompt. */
  tokensAt(group: number, marks: readonly number[]): number {
    const missing = marks.findIndex((mark) => !this.#groups.get(mark)?.has(group));
    return MARK_TOKENS * (missing < 0 ? marks.length : missing);
  }

  /** The group that probably holds the most of such a prompt, of those alike the last to compute it; null: none holds any. */
  holderOf(marks: readonly number[]): HeldPrefix | null {
    let held: HeldPrefix | null = null;
    for (const group of this.#groups.get(marks[0] ?? -1) ?? []) {
      const tokens = this.tokensAt(group, marks);
      if (tokens >= (held?.tokens ?? 0)) held = { group, tokens };
    }
    return held;
  }

  /** The group has forgotten all. */
  forget(group: number): void {
    for (const groups of this.#groups.values()) groups.delete(group);
  }

  get size(): number {
    return this.#groups.size;
  }
}
