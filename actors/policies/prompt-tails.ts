/**
 * Copy-on-write for choices of one prompt (`n` > 1): the prompt's last block, where it is not whole, is read by all of them, and copied by each but its
 * owner before it writes there.
 *
 *   prompt:  | whole | whole | tail …|          the owner writes on behind the tail, in the same block: nobody else reads there
 *                              ├─ copied by choice 1 at its first write
 *                              └─ copied by choice 2 …; who finds itself alone with the block takes it instead
 *
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';

export type Tail = {
  /** The request whose choices share it. */
  readonly request: number;
  /** Position of its block's first token. */
  readonly start: number;
  /** Of its positions that have their KV. */
  readonly tokens: readonly number[];
  readonly block: number;
  /** Who reads it or owns it, transfers that copy it among them. */
  holders: number;
  copies: number;
  hasOwner: boolean;
};

export class PromptTails {
  readonly #byRequest = new Map<number, Tail>();

  get size(): number {
    return this.#byRequest.size;
  }

  /** Null: there is none, or the request has one already. */
  offer(request: number, start: number, tokens: readonly number[], block: number): Tail | null {
    if (this.#byRequest.has(request)) return null;
    const tail = { request, start, tokens, block, holders: 1, copies: 0, hasOwner: true };
    this.#byRequest.set(request, tail);
    return tail;
  }

  /** The tail that begins at a position and holds a sequence's tokens up to `end`, as far as it goes; null: there is none. */
  share(request: number, tokens: readonly number[], start: number, end: number): Tail | null {
    const tail = this.#byRequest.get(request);
    if (tail === undefined || tail.start !== start) return null;
    for (let at = start; at < Math.min(end, start + tail.tokens.length); at++) if (tail.tokens[at - start] !== tokens[at]) return null;
    tail.holders++;
    return tail;
  }

  /** Whether the block has nobody else, who then owns it. */
  takeOver(tail: Tail): boolean {
    if (tail.hasOwner || tail.holders > 1) return false;
    tail.hasOwner = true;
    return true;
  }

  /** The owner keeps the block for itself if nobody else reads it: it becomes whole. */
  retire(tail: Tail): boolean {
    if (tail.holders > 1) return false;
    this.#forget(tail);
    return true;
  }

  /** The block went bad: nobody comes to share it any more. Who holds it lets go of it as before. */
  mapOut(block: number): void {
    for (const tail of this.#byRequest.values()) if (tail.block === block) this.#forget(tail);
  }

  /** One who holds it does so no longer. True: nobody does, and the block is free. */
  release(tail: Tail, isOwner: boolean): boolean {
    assert(tail.holders > 0, 'a shared block is let go of more often than it was held');
    tail.holders--;
    if (isOwner) tail.hasOwner = false;
    if (tail.holders > 0) return false;
    this.#forget(tail);
    return true;
  }

  #forget(tail: Tail): void {
    if (this.#byRequest.get(tail.request) === tail) this.#byRequest.delete(tail.request);
  }
}
