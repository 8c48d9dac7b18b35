/**
 * Prompts that callers keep under an id, for requests that go on from them (explicit context caching, DeepServe §4.3): what each id stands for, until it is
 * deleted or its time is over. DP groups are told which blocks to keep; what they lose of them is computed anew, so no token depends on either.
 *
 * Time is looked at when somebody calls: a context that is over is forgotten before anything else happens, and an idle pod needs no timer.
 * @module
 */
import type { ContextRecord, CreateContextCall, PromptRecord } from '../protocol/caller.ts';
import { forgetContext, keepContext } from '../protocol/constructors.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { DpGroupMessage } from '../protocol/messages.ts';

export type KeptContext = ContextRecord & { readonly prompt: PromptRecord; readonly tokens: readonly number[]; readonly cache_salt: string };

export type ContextsPorts = {
  /** Throws for a prompt that cannot be served. */
  readonly tokensOf: (call: CreateContextCall) => readonly number[];
  readonly now_ms: () => number;
  /** To all DP groups in which requests begin. */
  readonly tellGroups: (message: DpGroupMessage) => void;
};

const CONTEXTS_MAX = 1_024;

export class Contexts {
  readonly #ports: ContextsPorts;
  readonly #byId = new Map<string, KeptContext>();
  #next = 1;

  constructor(ports: ContextsPorts) {
    this.#ports = ports;
  }

  /** @throws `invalid_request` for an id that is taken or a prompt that cannot be served, `overloaded` where there are too many */
  create(call: CreateContextCall): ContextRecord {
    const { id, prompt, cache_salt, expires_ms } = call;
    this.#forgetOver();
    if (this.#byId.has(id)) throw new MinipodError('invalid_request', `id: there is a context '${id}' already; delete it first`, { param: 'id' });
    if (this.#byId.size >= CONTEXTS_MAX)
      throw new MinipodError('overloaded', `${CONTEXTS_MAX} contexts are kept, and no more are possible: delete some, or let them expire`);
    const tokens = this.#ports.tokensOf(call);
    const created_ms = this.#ports.now_ms();
    const over_ms = expires_ms < 0 ? -1 : created_ms + expires_ms;
    const own = id === '' ? this.#newId() : id;
    const context = { id: own, token_count: tokens.length, created_ms, over_ms, prompt, tokens, cache_salt };
    this.#byId.set(own, context);
    this.#ports.tellGroups(keepContext(own, cache_salt, tokens));
    return recordOf(context);
  }

  /** @throws `invalid_request` for one that is not there, or is of another salt */
  get(id: string, cache_salt: string): KeptContext {
    this.#forgetOver();
    const context = this.#byId.get(id);
    if (context === undefined || context.cache_salt !== cache_salt)
      throw new MinipodError('invalid_request', `context_id: there is no context '${id}'${cache_salt === '' ? '' : ' of this cache_salt'}`, {
        param: 'context_id',
      });
    return context;
  }

  list(): ContextRecord[] {
    this.#forgetOver();
    return [...this.#byId.values()].map(recordOf);
  }

  /** False: there was none. Requests that run go on. */
  delete(id: string): boolean {
    this.#forgetOver();
    if (!this.#byId.delete(id)) return false;
    this.#ports.tellGroups(forgetContext(id));
    return true;
  }

  #forgetOver(): void {
    const now_ms = this.#ports.now_ms();
    for (const { id, over_ms } of this.#byId.values()) {
      if (over_ms < 0 || over_ms > now_ms) continue;
      this.#byId.delete(id);
      this.#ports.tellGroups(forgetContext(id));
    }
  }

  #newId(): string {
    let id: string;
    do id = `ctx-${(this.#next++).toString(16)}`;
    while (this.#byId.has(id));
    return id;
  }
}

const recordOf = ({ id, token_count, created_ms, over_ms }: KeptContext): ContextRecord => ({ id, token_count, created_ms, over_ms });
