/** The actor of a DP group alone: its messages are seen, and nobody answers. @module */
import { expect } from 'vitest';
import { dpGroup } from '../../actors/dp-group.ts';
import type { SchedulerLimits } from '../../actors/policies/scheduler-limits.ts';
import type { Address } from '../../src/protocol/address.ts';
import type { DpGroupMessage, Message } from '../../src/protocol/messages.ts';
import { ActorHost } from '../../src/runtime/actor-host.ts';

const LIMITS = {
  ...{ kv_blocks: 100, kv_block_size: 4, batch_tokens_max: 32, batch_requests_max: 2, has_prefix_cache: true, is_asynchronous: false, has_priorities: true },
  ...{ dram_blocks: 0, cache_costs: null, lends_by_layer: false, offers_max: 1, shares_prefixes: false, drafts_max: 0, drafts_as_pays: false, foresight: 0 },
};

export class LoneGroup {
  readonly #self: Address;
  readonly #host: ActorHost;

  /** `npus`: by rank. `onSent`: what it sends to others. A message that its state does not expect fails the test. */
  constructor(self: Address, npus: readonly Address[], limits: Partial<SchedulerLimits>, onSent: (to: Address, message: Message) => void) {
    this.#self = self;
    this.#host = new ActorHost({
      clock: { now_ms: () => 0 },
      isLocal: (to) => to === self,
      transmit: (to, _, message) => onSent(to, message),
      birthOf: () => null,
      hands: new Map(),
      launch: () => {},
      transfer: () => {},
      claim: () => {},
      onUnexpected: (_, { type }, state) => expect.fail(`${type} in ${state}`),
    });
    this.#host.spawn(self, { machine: dpGroup, input: { self, npus, limits: { ...LIMITS, ...limits }, lease_ms: 30_000 } });
    this.#host.turn();
  }

  get state(): string | null {
    return this.#host.cast.stateOf(this.#self);
  }

  /** All of them wait for it before it gets the first. */
  tell(...messages: readonly DpGroupMessage[]): void {
    for (const message of messages) this.#host.send(this.#self, this.#self, message);
    this.#host.turn();
  }
}
