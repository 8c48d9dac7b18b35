/**
 * What DP groups tell one another where one has the KV of a prompt's prefix that another is to compute (DeepServe §4.3, populate from another task executor).
 *
 *   asker   PREFIX_WANTED ─▶ holder ─▶ PREFIX_LENT ─▶ asker pulls what the offer names (DistFlow)
 *                                      (or has nothing of it to lend)
 *                                      ◀─ PREFIX_UNWANTED: not pulled after all
 * @module
 */
import type { Address } from './address.ts';
import type { KvOffer } from './messages.ts';

/** The DP group that has computed the most of a prompt's beginning, and so many tokens of it, as far as anybody knows: it may have forgotten them. */
export type HeldPrefix = { readonly group: number; readonly tokens: number };

export type PrefixMessage =
  /** `tokens`: the prefix; the first `known` of them the asker has. `task`: whom it is for, by which the answer is known. */
  | {
      readonly type: 'PREFIX_WANTED';
      readonly from: Address;
      readonly task: Address;
      readonly cache_salt: string;
      readonly tokens: readonly number[];
      readonly known: number;
    }
  /** Blocks behind those that are known. Null: there are none, or none that can be lent now. */
  | { readonly type: 'PREFIX_LENT'; readonly from: Address; readonly task: Address; readonly offer: KvOffer | null }
  /** What was lent is not pulled. */
  | { readonly type: 'PREFIX_UNWANTED'; readonly task: Address }
  /** To the asker, from itself: it has waited long enough for an answer. */
  | { readonly type: 'PREFIX_OVERDUE'; readonly task: Address };
