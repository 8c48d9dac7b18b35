/**
 * What passes when the number of a task executor's DP groups, or of NPUs that have its experts, changes while requests run.
 *
 *   control ─ SCALE ─▶ scaling ─ SERVE ─▶ task executor ─ HAND_BACK, TAKE_PART ─▶ DP groups
 *      ▲                 │  ▲                 ▲    ▲                                 │  │
 *      └───── SCALED ────┘  └──── SERVING ────┘    └────────── GROUP_LEFT ───────────┘  └─ HANDED_BACK ─▶ tasks, which are placed anew
 *
 *                scaling ─ PLACE_EXPERTS ─▶ expert map ─ EXPERTS_PLACED ─▶ scaling        as a writer of its log (map-log.ts)
 *                                                 └── EXPERTS_HELD ──▶ task executor      who waits for no other expert NPU
 *
 *                scaling ◀─ GROUPS_GONE ─ task executor;  scaling ◀─ EXPERTS_LEFT ─ expert map      of losses that nobody makes up for
 * @module
 */
import type { Address } from './address.ts';
import type { ErrorRecord } from './errors.ts';
import type { WeightBroadcast } from './expert-maps.ts';
import type { MapGrantMessage } from './map-log.ts';
import type { KvOffer } from './messages.ts';
import type { ExpertsNowhere, ShapeLoanMessage } from './role-switch.ts';

/** Bytes that NPUs got of those that others have alike, by way. */
export type WeightsFurnished = { readonly broadcast_bytes: number; readonly pulled_bytes: number };
export const NOTHING_FURNISHED: WeightsFurnished = { broadcast_bytes: 0, pulled_bytes: 0 };

export type ScalingMessage =
  /** So many of its DP groups are to serve, and so many NPUs to have its experts; 0: as many as there are, those that there are. */
  | { readonly type: 'SCALE'; readonly attention: number; readonly experts: number; readonly deadline_ms: number }
  | MapGrantMessage
  | ShapeLoanMessage
  /** By an NPU: its weights are there, or why not. */
  | { readonly type: 'FURNISHED'; readonly npu: number; readonly query: number; readonly copied: WeightsFurnished; readonly error: ErrorRecord | null }
  /** Now perhaps it can be undone. */
  | { readonly type: 'SCALE_RETRY' }
  /** By the task executor: as SERVE had it, all that are left serve, and nothing is left at the others. */
  | { readonly type: 'SERVING'; readonly query: number }
  /** By the task executor, whenever it is news: these of its DP groups have lost an NPU, in whose place nobody comes for now. */
  | { readonly type: 'GROUPS_GONE'; readonly groups: readonly number[] }
  /** By the expert map, whenever it is news: NPUs that have experts; and those of all that sort tokens or may have experts that are gone for good. */
  | { readonly type: 'EXPERTS_LEFT'; readonly holders: readonly number[]; readonly gone: readonly number[] }
  /** It has taken too long; and so has the way back. */
  | { readonly type: 'SCALE_OVERDUE' }
  | { readonly type: 'RETURN_OVERDUE' };

/** To the control plane: what has become of SCALE; so many groups serve now, and so many NPUs have the experts. */
export type ScaledMessage = { readonly type: 'SCALED'; readonly attention: number; readonly experts: number; readonly error: ErrorRecord | null };

/** To a task executor. */
export type ShapeMessage =
  /** Of its DP groups these are to serve from now on, and the others are on standby. `query`: whoever asks knows the answer by it. */
  | { readonly type: 'SERVE'; readonly by: Address; readonly query: number; readonly groups: readonly number[] }
  /** Nothing is left at a group that is to stand by. */
  | { readonly type: 'GROUP_LEFT'; readonly group: number }
  /** By the expert map: these NPUs have experts that tokens may be sent to from now on, and no other one has any. */
  | { readonly type: 'EXPERTS_HELD'; readonly npus: readonly number[] }
  | ExpertsNowhere;

/** To a DP group. */
export type GroupShapeMessage =
  /**
   * Give all sequences back, each as soon as no step computes it, and whatever comes late. `lends`: with the KV of who decodes, to whoever goes on with it; else all is
   * computed anew there, and no step waits for who is lost.
   */
  | { readonly type: 'HAND_BACK'; readonly task_executor: Address; readonly lends: boolean }
  | { readonly type: 'TAKE_PART' }
  /** Steps from the next one on do without the experts that these NPUs alone had. */
  | { readonly type: 'MASK_EXPERTS'; readonly npus: readonly number[] };

/** To an NPU, and its host's answer. */
export type StandbyMessage =
  /** Weights are to be there before its group takes part: as NPU `source` has them, which serves. Null: it copies them, unless they are on their way. */
  | { readonly type: 'FURNISH'; readonly scaling: Address; readonly query: number; readonly source: number; readonly broadcast: WeightBroadcast | null }
  /** Send weights to those that were asked to get them. Nobody waits for an answer: they tell what has come. */
  | { readonly type: 'SEND_WEIGHTS'; readonly broadcast: WeightBroadcast }
  | {
      readonly type: 'WEIGHTS_COPIED';
      readonly scaling: Address;
      readonly query: number;
      readonly copied: WeightsFurnished;
      readonly error: ErrorRecord | null;
    }
  /** Its group stands by: nobody needs them. */
  | { readonly type: 'CLEAR_WEIGHTS' };

/** To a task: its group is on standby. It goes on elsewhere, behind `output`, with the KV that is on offer, if any is worth the way. */
export type HandedBack = { readonly type: 'HANDED_BACK'; readonly output: readonly number[]; readonly offer: KvOffer | null };
