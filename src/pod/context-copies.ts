/**
 * What a pod's contexts were made of, on the caller's thread: with the control thread, which keeps them, they would be lost, and they are promised until they are
 * deleted or over. Their successors' KV is computed by the first request that goes on from them.
 * @module
 */
import { drawnUntil } from '../flowserve/frontend/contexts.ts';
import type { ContextRecord, CreateContextCall } from '../protocol/caller.ts';

type Copy = { readonly call: CreateContextCall; readonly record: ContextRecord };

/** No id has an @. */
const keyOf = (id: string, cache_salt: string): string => `${id}@${cache_salt}`;
const isOver = ({ record: { over_ms } }: Copy, now_ms: number): boolean => over_ms >= 0 && over_ms <= now_ms;

export class ContextCopies {
  readonly #copies = new Map<string, Copy>();
  /** An id that was drawn names no other context, ever: its owner may ask for it when it is deleted or over. */
  #drawn = 0;

  /** As the control thread is to be asked, which may be another one than drew ids so far. */
  asked(call: CreateContextCall): CreateContextCall {
    return { ...call, drawn: this.#drawn };
  }

  keep(call: CreateContextCall, record: ContextRecord): void {
    if (call.id === '') this.#drawn = Math.max(this.#drawn, drawnUntil(record.id));
    // So many at most as the pod keeps: those that are over make room there, too.
    for (const [key, copy] of this.#copies) if (isOver(copy, record.created_ms)) this.#copies.delete(key);
    this.#copies.set(keyOf(record.id, call.cache_salt), { call, record });
  }

  /** Whether it was there. */
  forget(id: string, cache_salt: string, now_ms: number): boolean {
    const key = keyOf(id, cache_salt);
    const copy = this.#copies.get(key);
    this.#copies.delete(key);
    return copy !== undefined && !isOver(copy, now_ms);
  }

  /** To be created anew, as they were. */
  calls(now_ms: number): readonly CreateContextCall[] {
    return [...this.#copies.values()].filter((copy) => !isOver(copy, now_ms)).map(({ call, record: { id, created_ms } }) => ({ ...call, id, created_ms }));
  }
}
