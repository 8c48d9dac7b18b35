/**
 * Prompts that callers keep under an id, for requests that go on from them (explicit context caching, DeepServe §4.3): what each id stands for, until it is
 * deleted or its time is over. DP groups are told which blocks to keep; what they lose of them is computed anew, so no token depends on either.
 *
 * Each `cache_salt` has its ids for itself: another tenant's are neither found nor listed, nor in the way of one's own.
 *
 * Time is looked at when somebody calls, for whatever: a context that is over is forgotten before anything else happens, and an idle pod needs no timer.
 * @module
 */
import type { ContextRecord, CreateContextCall, PromptRecord } from '../../protocol/caller.ts';
import { forgetContext, keepContext } from '../../protocol/constructors.ts';
import { MinipodError } from '../../protocol/errors.ts';
import type { DpGroupMessage } from '../../protocol/messages.ts';

export type KeptContext = ContextRecord & {
  readonly prompt: PromptRecord;
  readonly tokens: readonly number[];
  readonly cache_salt: string;
  /** Of all salts' contexts this one's alone: DP groups know it by that. */
  readonly key: string;
};

export type ContextsPorts = {
  /** Throws for a prompt that cannot be served. */
  readonly tokensOf: (call: CreateContextCall) => readonly number[];
  readonly now_ms: () => number;
  /** To all DP groups in which requests begin. */
  readonly tellGroups: (message: DpGroupMessage) => void;
};

const CONTEXTS_MAX = 1_024;
const DRAWN = 'ctx-';

/** No id has an @. */
const keyOf = (id: string, cache_salt: string): string => (cache_salt === '' ? id : `${id}@${cache_salt}`);

export class Contexts {
  readonly #ports: ContextsPorts;
  readonly #byKey = new Map<string, KeptContext>();
  #next = 1;
  /** None is over before: what each call of the pod asks. */
  #soonest_ms = Number.POSITIVE_INFINITY;

  constructor(ports: ContextsPorts) {
    this.#ports = ports;
  }

  /** @throws `invalid_request` for an id that is taken or a prompt that cannot be served, `overloaded` where there are too many */
  create(call: CreateContextCall): ContextRecord {
    const { id, prompt, cache_salt, expires_ms, drawn = 0 } = call;
    this.forgetOver();
    this.#next = Math.max(this.#next, drawn + 1);
    if (this.#find(id, cache_salt)) throw new MinipodError('invalid_request', `id: there is a context '${id}' already; delete it first`, { param: 'id' });
    if (this.#byKey.size >= CONTEXTS_MAX)
      throw new MinipodError('overloaded', `${CONTEXTS_MAX} contexts are kept, and no more are possible: delete some, or let them expire`);
    const tokens = this.#ports.tokensOf(call);
    const { created_ms = this.#ports.now_ms() } = call;
    const over_ms = expires_ms < 0 ? -1 : created_ms + expires_ms;
    const own = id === '' ? this.#newId() : id;
    const key = keyOf(own, cache_salt);
    const context = { id: own, token_count: tokens.length, created_ms, over_ms, prompt, tokens, cache_salt, key };
    this.#byKey.set(key, context);
    if (over_ms >= 0) this.#soonest_ms = Math.min(this.#soonest_ms, over_ms);
    this.#ports.tellGroups(keepContext(key, cache_salt, tokens));
    return recordOf(context);
  }

  /** @throws `context_not_found` for one that is not there, or is of another salt */
  get(id: string, cache_salt: string): KeptContext {
    this.forgetOver();
    const context = this.#find(id, cache_salt);
    if (context === undefined) throw contextNotFound(id);
    return context;
  }

  list(cache_salt: string): ContextRecord[] {
    this.forgetOver();
    return [...this.#byKey.values()].filter((context) => context.cache_salt === cache_salt).map(recordOf);
  }

  /** False: there was none. Requests that run go on. */
  delete(id: string, cache_salt: string): boolean {
    this.forgetOver();
    const context = this.#find(id, cache_salt);
    if (context === undefined) return false;
    this.#forget(context.key);
    return true;
  }

  /** Their KV is others' to take the place of. */
  forgetOver(): void {
    const now_ms = this.#ports.now_ms();
    if (now_ms < this.#soonest_ms) return;
    this.#soonest_ms = Number.POSITIVE_INFINITY;
    for (const { key, over_ms } of this.#byKey.values()) {
      if (over_ms < 0) continue;
      if (over_ms <= now_ms) this.#forget(key);
      else this.#soonest_ms = Math.min(this.#soonest_ms, over_ms);
    }
  }

  #find(id: string, cache_salt: string): KeptContext | undefined {
    const context = this.#byKey.get(keyOf(id, cache_salt));
    return context?.id === id ? context : undefined;
  }

  #forget(key: string): void {
    this.#byKey.delete(key);
    this.#ports.tellGroups(forgetContext(key));
  }

  #newId(): string {
    let id: string;
    do id = `${DRAWN}${(this.#next++).toString(16)}`;
    while ([...this.#byKey.values()].some((context) => context.id === id));
    return id;
  }
}

/** How far ids were drawn when this one was. */
export const drawnUntil = (id: string): number => Number.parseInt(id.slice(DRAWN.length), 16);

/** The same wherever one is named that is not there. */
export const contextNotFound = (id: string): MinipodError =>
  new MinipodError(
    'context_not_found',
    `context_id: there is no context ${JSON.stringify(id.slice(0, 200))} of this cache_salt: it was never created, or is deleted or over`,
    { param: 'context_id' },
  );

const recordOf = ({ id, token_count, created_ms, over_ms }: KeptContext): ContextRecord => ({ id, token_count, created_ms, over_ms });
