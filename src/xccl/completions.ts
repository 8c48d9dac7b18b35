/**
 * Operations that nobody waits for one by one: they are polled together, and those that ended queue up until they are drained.
 * @module
 */
import type { Operation, Poll } from './operation.ts';

export type Completion<Token> = { readonly token: Token; readonly end: Poll };
type Watched<Token> = { readonly operation: Operation; readonly token: Token };

export class Completions<Token> {
  #watched: Watched<Token>[] = [];
  #ended: Completion<Token>[] = [];

  /** Under way, so far as the last poll knows. */
  get pending(): number {
    return this.#watched.length;
  }

  /** Ended and not drained. */
  get ready(): number {
    return this.#ended.length;
  }

  /** The token comes back with the operation's end. */
  watch(operation: Operation, token: Token): void {
    this.#watched.push({ operation, token });
  }

  /** Polls each operation once; returns how many have ended. */
  poll(): number {
    const before = this.#ended.length;
    let kept = 0;
    for (let index = 0; index < this.#watched.length; index++) {
      const watched = this.#watched[index] as Watched<Token>;
      const end = watched.operation.poll();
      if (end.state === 'pending') this.#watched[kept++] = watched;
      else this.#ended.push({ token: watched.token, end });
    }
    this.#watched.length = kept;
    return this.#ended.length - before;
  }

  /** Takes what has ended, in the order in which it was seen to. */
  drain(): readonly Completion<Token>[] {
    const ended = this.#ended;
    this.#ended = [];
    return ended;
  }
}
