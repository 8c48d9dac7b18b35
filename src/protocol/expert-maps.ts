/**
 * How the experts of an EP group come to lie elsewhere while steps run (xDeepServe §4.5, reconfigure): what its expert map and its NPUs say to one another.
 * @module
 */
import type { Address } from './address.ts';
import type { ErrorRecord } from './errors.ts';
import type { MapCause, MapOutcome, MapWriterMessage } from './map-log.ts';

/** The same weights on their way to several NPUs at once (XCCL broadcast). `npus`: who has them, then who gets them. `number`: no other under way between them has it. */
export type WeightBroadcast = { readonly number: number; readonly npus: readonly number[] };

/** Who has not got them by then copies them for itself. A third of what copying may take, so that there is time for that. */
export const BROADCAST_MS_MAX = 20_000;

/** What an NPU does for an expert map. Layers are those that have experts, counted from 0; slots are the group's. */
export type ExpertWork =
  /** Tokens that its gates sent to each expert since it was last asked. */
  | { readonly kind: 'collect' }
  /** From now on it sorts its tokens by this map: the first one of the pod but for these slots. */
  | { readonly kind: 'install'; readonly epoch: number; readonly slots: readonly number[]; readonly experts: readonly number[] }
  /** Sets an expert's weights aside, from the slot that has them, and sees to it that they are whole. `source`: −1: none has, they are read from the checkpoint. */
  | {
      readonly kind: 'stage';
      readonly change: number;
      readonly layer: number;
      readonly slot: number;
      readonly expert: number;
      readonly source: number;
      /** The slot holds nothing: they go straight there. */
      readonly is_free: boolean;
      /** Several NPUs get them at once; null: it copies them. */
      readonly broadcast: WeightBroadcast | null;
    }
  /** Sends an expert's weights, which others are asked to set aside. Nobody waits for its answer: they tell what has come. */
  | { readonly kind: 'broadcast'; readonly layer: number; readonly slot: number; readonly broadcast: WeightBroadcast }
  /** Sends no more of broadcasts with lower numbers: nobody waits for them. */
  | { readonly kind: 'withdraw'; readonly before: number }
  /** Holds a slot of its own against its sum: somebody got other weights from there. Nobody waits for its answer: whoever finds them bad ends. */
  | { readonly kind: 'look'; readonly layer: number; readonly slot: number }
  /** Puts what is set aside into its slot; `epoch`: of the map by which it may be asked for. */
  | { readonly kind: 'load'; readonly change: number; readonly epoch: number }
  /** The slot holds nothing from now on. */
  | { readonly kind: 'empty'; readonly change: number; readonly layer: number; readonly slot: number; readonly epoch: number };

/** What starts a rebalance: time, somebody, or more imbalance than is borne. */
export type RebalanceTrigger = 'period' | 'asked';

/** A slot that got another expert. `layer`: the model's number; `expert`: null: it was emptied; `source`: whose weights were copied; `replaced`: what it held. */
export type ExpertMove = {
  readonly layer: number;
  readonly expert: number | null;
  readonly npu: number;
  readonly source: number | null;
  readonly replaced: number | null;
};

/** What became of one. `entry`: of the map's log; 0: it came to none. `installed`: whether any slot changed. */
export type RebalanceOutcome = {
  readonly entry: number;
  readonly trigger: RebalanceTrigger;
  readonly installed: boolean;
  readonly outcome: MapOutcome;
  readonly cause: MapCause;
  readonly reason: string;
  /** Busiest rank over mean, predicted: a mean over layers. 0: nothing was planned. */
  readonly before: number;
  readonly after: number;
  /** Slots that got another expert, and the map's epoch afterwards. */
  readonly slots: number;
  readonly epoch: number;
};

/** To whoever asked, with what has moved. */
export type RebalanceReport = RebalanceOutcome & { readonly task_executor: number; readonly moves: readonly ExpertMove[] };

export type ExpertMapMessage =
  | MapWriterMessage
  | { readonly type: 'PERIOD_OVER' }
  /** `force`: install the plan though it is predicted no better. */
  | { readonly type: 'REBALANCE'; readonly query: number; readonly force: boolean }
  | { readonly type: 'LOADS_COLLECTED'; readonly npu: number; readonly tokens: readonly number[] }
  /** The NPU goes by the map of that epoch. */
  | { readonly type: 'MAP_INSTALLED'; readonly npu: number; readonly epoch: number }
  /** Its weights are set aside, or in their slot. `bytes`: that have come from another slot for it. */
  | { readonly type: 'SLOT_DONE'; readonly npu: number; readonly change: number; readonly bytes: number }
  | { readonly type: 'SLOT_FAILED'; readonly npu: number; readonly change: number; readonly error: ErrorRecord }
  /** Its weights did not come by broadcast: it has yet to be asked to copy them. */
  | { readonly type: 'BROADCAST_FAILED'; readonly npu: number; readonly change: number; readonly error: ErrorRecord }
  /** The state has lasted for too long; `turn`: the how manieth state it is. */
  | { readonly type: 'STATE_OVERDUE'; readonly turn: number }
  /** So have its broadcasts: who has not got weights by them copies them. */
  | { readonly type: 'BROADCASTS_OVERDUE'; readonly turn: number }
  | { readonly type: 'NPU_LOST'; readonly npu: number; readonly error: ErrorRecord }
  /** It begins with the pod's first map. */
  | { readonly type: 'NPU_BACK'; readonly npu: number }
  /** It is lost, and no successor has come for as long as one is waited for. */
  | { readonly type: 'NPU_GONE'; readonly npu: number }
  /** A rehoming that failed is tried again. */
  | { readonly type: 'REHOME_AGAIN' }
  /** Of `claim`: the time. */
  | { readonly type: 'TIME_TOLD'; readonly now_ms: number };

export type RebalancedMessage = { readonly type: 'REBALANCED'; readonly query: number; readonly report: RebalanceReport };

/** To an NPU, and its host's answer. */
export type ExpertWorkMessage =
  | { readonly type: 'EXPERT_WORK'; readonly expert_map: Address; readonly work: ExpertWork }
  | { readonly type: 'EXPERT_WORK_DONE'; readonly expert_map: Address; readonly message: ExpertMapMessage };

export const periodOver = (): ExpertMapMessage => ({ type: 'PERIOD_OVER' });
export const rebalance = (query: number, force: boolean): ExpertMapMessage => ({ type: 'REBALANCE', query, force });
export const loadsCollected = (npu: number, tokens: readonly number[]): ExpertMapMessage => ({ type: 'LOADS_COLLECTED', npu, tokens });
export const mapInstalled = (npu: number, epoch: number): ExpertMapMessage => ({ type: 'MAP_INSTALLED', npu, epoch });
export const slotDone = (npu: number, change: number, bytes: number): ExpertMapMessage => ({ type: 'SLOT_DONE', npu, change, bytes });
export const slotFailed = (npu: number, change: number, error: ErrorRecord): ExpertMapMessage => ({ type: 'SLOT_FAILED', npu, change, error });
export const broadcastFailed = (npu: number, change: number, error: ErrorRecord): ExpertMapMessage => ({ type: 'BROADCAST_FAILED', npu, change, error });
export const stateOverdue = (turn: number): ExpertMapMessage => ({ type: 'STATE_OVERDUE', turn });
export const broadcastsOverdue = (turn: number): ExpertMapMessage => ({ type: 'BROADCASTS_OVERDUE', turn });
export const npuBack = (npu: number): ExpertMapMessage => ({ type: 'NPU_BACK', npu });
export const npuGone = (npu: number): ExpertMapMessage => ({ type: 'NPU_GONE', npu });
export const rehomeAgain = (): ExpertMapMessage => ({ type: 'REHOME_AGAIN' });
export const timeTold = (now_ms: number): ExpertMapMessage => ({ type: 'TIME_TOLD', now_ms });
export const rebalanced = (query: number, report: RebalanceReport): RebalancedMessage => ({ type: 'REBALANCED', query, report });
export const expertWork = (expert_map: Address, work: ExpertWork): ExpertWorkMessage => ({ type: 'EXPERT_WORK', expert_map, work });
export const expertWorkDone = (expert_map: Address, message: ExpertMapMessage): ExpertWorkMessage => ({ type: 'EXPERT_WORK_DONE', expert_map, message });
export const collectLoads = (): ExpertWork => ({ kind: 'collect' });
export const installMap = (epoch: number, slots: readonly number[], experts: readonly number[]): ExpertWork => ({ kind: 'install', epoch, slots, experts });
export const stageSlot = (
  change: number,
  layer: number,
  slot: number,
  expert: number,
  source: number,
  is_free: boolean,
  broadcast: WeightBroadcast | null,
): ExpertWork => ({
  kind: 'stage',
  change,
  layer,
  slot,
  expert,
  source,
  is_free,
  broadcast,
});
export const broadcastSlot = (layer: number, slot: number, broadcast: WeightBroadcast): ExpertWork => ({ kind: 'broadcast', layer, slot, broadcast });
export const withdrawBroadcasts = (before: number): ExpertWork => ({ kind: 'withdraw', before });
export const lookAtSlot = (layer: number, slot: number): ExpertWork => ({ kind: 'look', layer, slot });
export const emptySlot = (change: number, layer: number, slot: number, epoch: number): ExpertWork => ({ kind: 'empty', change, layer, slot, epoch });
export const loadSlot = (change: number, epoch: number): ExpertWork => ({ kind: 'load', change, epoch });
