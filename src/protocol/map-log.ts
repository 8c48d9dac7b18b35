/**
 * The serial log of an EP group's expert map. Whatever changes where experts lie is an entry of it, one after the other, and the group's expert map alone writes
 * it: rebalances, and rehomings of what NPUs had that are lost, by itself; all others for a writer that asks: scales (scaling.ts) and role switches (role-switch.ts).
 *
 *   writer ─ MAP_WANTED ────▶ expert map      what is under way and weighs less goes back to its last good map first
 *      ◀──── MAP_GRANTED ───────┘             or MAP_REFUSED
 *   writer ─ PLACE_EXPERTS ─▶                 as often as it takes, or never: where no expert is to lie elsewhere
 *      ◀──── EXPERTS_PLACED ────┘
 *   writer ─ MAP_DONE ──────▶                 the entry is over
 *      ◀──── MAP_TAKEN ─────────┘             instead, at any time: somebody's entry that weighs more has come, or the writer took too long
 *
 * An entry's number is its writer's fence: whoever's entry is over is not heard. The map's epoch is the owner's: NPUs keep the latest.
 * @module
 */
import type { Address } from './address.ts';
import type { ErrorRecord } from './errors.ts';

/** What an entry is of. Each weighs more than those before it: it ends them where they are open, and waits for those behind it. */
export const MAP_CHANGES = ['rebalance', 'scale', 'role_switch', 'rehome'] as const;
export type MapChange = (typeof MAP_CHANGES)[number];
/** Those that somebody else than the map writes. */
export type ForeignMapChange = Exclude<MapChange, 'rebalance' | 'rehome'>;

/** `rolled_back`: it failed on its way; `aborted`: it was ended for an entry that weighs more, or its writer took too long. Either way the last good map stands. */
const MAP_OUTCOMES = ['installed', 'unchanged', 'rolled_back', 'aborted', 'refused'] as const;
export type MapOutcome = (typeof MAP_OUTCOMES)[number];

/** Why, in a word that can be counted; the reason says more. */
const MAP_CAUSES = [
  ...(['better', 'forced', 'no_better', 'below_threshold', 'no_tokens', 'no_room'] as const),
  ...(['asked', 'npu_lost', 'corrupt', 'deadline', 'another_entry', 'writer'] as const),
  /** Of rehomings, beside `npu_lost`: no successor has come, and one has; `npu_gone` of role switches, too. */
  ...(['npu_gone', 'npu_back'] as const),
] as const;
export type MapCause = (typeof MAP_CAUSES)[number];

/** Slots whose weights came from elsewhere, and bytes of them. */
export type Copied = { readonly slots: number; readonly bytes: number };
/**
 * By way: as a broadcast, one slot's to several NPUs at once, pulled by a single one, or read from the checkpoint, where no slot had them any more. `instead`: of those
 * pulled, where a broadcast did not come, and `why` the first of them did not.
 */
export type WeightsCopied = {
  readonly broadcast: Copied;
  readonly pulled: Copied;
  readonly checkpoint: Copied;
  readonly instead: number;
  readonly why: string | null;
};
/** By which of them. */
export type CopyWay = 'broadcast' | 'pulled' | 'checkpoint';

const NONE: Copied = { slots: 0, bytes: 0 };
export const NOTHING_COPIED: WeightsCopied = { broadcast: NONE, pulled: NONE, checkpoint: NONE, instead: 0, why: null };

/** `outcome`: null while it is open. `epoch`: of the map as it ended, or now. `copied`: weights, for it. */
export type MapEntry = {
  readonly entry: number;
  readonly change: MapChange;
  readonly writer: Address;
  readonly outcome: MapOutcome | null;
  readonly cause: MapCause | null;
  readonly reason: string;
  readonly epoch: number;
  readonly copied: WeightsCopied;
};

/** Experts that no NPU has any more, nor is to bring back for now, by the model's layers; and whether that is so of the shared expert of all layers. */
export type LostExperts = { readonly experts: readonly { readonly layer: number; readonly expert: number }[]; readonly shared: boolean };

/** To an expert map. */
export type MapWriterMessage =
  /**
   * `query`: the writer's own, by which it knows the answer. `is_return`: for the way back from an entry of its own that was taken, and is counted. `why`: the entry's
   * reason while it is open.
   */
  | {
      readonly type: 'MAP_WANTED';
      readonly writer: Address;
      readonly query: number;
      readonly change: ForeignMapChange;
      readonly is_return: boolean;
      readonly why: string;
    }
  /** Of the group's NPUs these alone are to hold experts from now on. One that is under way for the same entry gives way to it. */
  | { readonly type: 'PLACE_EXPERTS'; readonly entry: number; readonly holders: readonly number[] }
  /** `told`: what was changed beside where experts lie, in words; null: nothing. */
  | { readonly type: 'MAP_DONE'; readonly entry: number; readonly error: ErrorRecord | null; readonly told: string | null };

/** To a writer. `holders`: NPUs that hold experts now. */
export type MapGrantMessage =
  | { readonly type: 'MAP_GRANTED'; readonly query: number; readonly entry: number; readonly holders: readonly number[] }
  | { readonly type: 'MAP_REFUSED'; readonly query: number; readonly error: ErrorRecord }
  /** With an error: experts lie as the last whole round left them, each somewhere, and holders are whoever holds any. */
  | { readonly type: 'EXPERTS_PLACED'; readonly entry: number; readonly holders: readonly number[]; readonly error: ErrorRecord | null }
  | { readonly type: 'MAP_TAKEN'; readonly entry: number; readonly error: ErrorRecord };

export const mapWanted = (writer: Address, query: number, change: ForeignMapChange, is_return = false, why = ''): MapWriterMessage => ({
  type: 'MAP_WANTED',
  writer,
  query,
  change,
  is_return,
  why,
});
export const placeExperts = (entry: number, holders: readonly number[]): MapWriterMessage => ({ type: 'PLACE_EXPERTS', entry, holders });
export const mapDone = (entry: number, error: ErrorRecord | null, told: string | null = null): MapWriterMessage => ({ type: 'MAP_DONE', entry, error, told });
export const mapGranted = (query: number, entry: number, holders: readonly number[]): MapGrantMessage => ({ type: 'MAP_GRANTED', query, entry, holders });
export const mapRefused = (query: number, error: ErrorRecord): MapGrantMessage => ({ type: 'MAP_REFUSED', query, error });
export const expertsPlaced = (entry: number, holders: readonly number[], error: ErrorRecord | null): MapGrantMessage => ({
  type: 'EXPERTS_PLACED',
  entry,
  holders,
  error,
});
export const mapTaken = (entry: number, error: ErrorRecord): MapGrantMessage => ({ type: 'MAP_TAKEN', entry, error });
