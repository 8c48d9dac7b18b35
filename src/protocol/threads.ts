/** What threads tell one another about themselves: role `worker`, control lane. @module */
import type { KvEventBatches } from './kv-events.ts';
import type { KvFabric } from './topology.ts';

/**
 * Drafts of a DP group: how often a step verified some for a sequence, how many they were, how many of them the model drew itself, and these by their place among
 * the drafts of a sequence; no places where nothing is drafted.
 */
export type DraftCounts = {
  readonly drafts: number;
  readonly draft_tokens: number;
  readonly accepted_tokens: number;
  readonly accepted_at: readonly number[];
};
export const NO_DRAFTS: DraftCounts = { drafts: 0, draft_tokens: 0, accepted_tokens: 0, accepted_at: [] };

export type NpuReport = {
  readonly npu: number;
  readonly state: string;
  readonly kv_blocks: number;
  readonly kv_blocks_used: number;
  /** Kept for requests that begin alike, until their room is needed. */
  readonly kv_blocks_cached: number;
  /** Went bad, and are given out no more: `kv_blocks` are without them. */
  readonly kv_blocks_mapped_out: number;
  readonly requests_running: number;
  readonly requests_waiting: number;
  readonly steps: number;
  readonly tokens_prefilled: number;
  readonly tokens_decoded: number;
  readonly preemptions: number;
  readonly drafting: DraftCounts;
  /** Prompt tokens that were looked up in the prefix cache, and found. */
  readonly prefix_queries: number;
  readonly prefix_hits: number;
  /** Sequences whose KV its group lends to a decode side; whose KV it awaits or receives; and leases that ended before anybody had pulled. */
  readonly kv_lent: number;
  readonly kv_expected: number;
  readonly kv_leases_expired: number;
  /** Offers and pulls of its memory that DistFlow has not ended. */
  readonly kv_transfers_open: number;
  /** KV blocks in host DRAM, and those copied there and back so far. */
  readonly dram_blocks_used: number;
  /** As of HBM: they went bad, and nobody gets them any more. */
  readonly dram_blocks_mapped_out: number;
  readonly blocks_swapped_out: number;
  readonly blocks_swapped_in: number;
  /** Hits in DRAM that would have taken longer to fetch than to compute. */
  readonly hits_refused: number;
  /** Blocks that came from other DP groups, and went to others; prefixes that came, were not worth fetching, and did not come though they were asked for. */
  readonly blocks_populated: number;
  readonly blocks_lent: number;
  readonly remote_hits: number;
  readonly remote_hits_refused: number;
  readonly remote_hits_missed: number;
  /** The die whose memory it has. */
  readonly die: number;
  /** KV blocks as its memory knows them: held now, and the most that ever were. */
  readonly kv_blocks_held: number;
  readonly kv_blocks_held_max: number;
  /** Fields that it wrote in its peers' metadata, and those of its own that were of an epoch that is over. */
  readonly fields_written: number;
  readonly fields_stale: number;
  /** Dispatches to its peers; those of its peers that it answered with rows, and that it refused, since their tables led out of the asker's area. */
  readonly dispatches_written: number;
  readonly dispatches_served: number;
  readonly dispatches_refused: number;
  /** Rows that were not what they had been: those that peers asked it with, and those of its answers. */
  readonly rows_damaged: number;
  /** Rows that it took from its peers' areas, as an expert NPU those to compute with, as an asker those of its answers. */
  readonly pulled_bytes: number;
  /** Of its reply area: what waits to be taken now, and the most that ever did. */
  readonly reply_bytes: number;
  readonly reply_bytes_max: number;
  /** Its steps that only decode, by how long they took: entry n counts those under 2ⁿ µs, the last one all others. And the sum of the same times. */
  readonly decode_steps_us: readonly number[];
  readonly decode_steps_us_sum: number;
  /** The same of the time between two steps, where the second goes on with a sequence of the first: the NPU stood still although it had work. */
  readonly step_gaps_us: readonly number[];
  readonly step_gaps_us_sum: number;
};

/** Garbage collections of a worker thread. */
export type CollectionReport = {
  /** All, and those of them whose moment the worker chose: in a rest, or between two steps. */
  readonly collections: number;
  readonly collections_chosen: number;
  /** For how long they held the thread up in all, and the longest one did. */
  readonly collections_us_sum: number;
  readonly collections_us_max: number;
};

/** What a thread's DP groups have pulled from one task executor for another (DistFlow). */
export type KvLinkReport = {
  /** Task executors. */
  readonly source: number;
  readonly target: number;
  /** By which it comes: the memory that both share, or TCP, the stand-in for RoCE (`kv_fabric`). */
  readonly fabric: KvFabric;
  readonly started: number;
  readonly done: number;
  /** Of transfers that are done, and of those that failed underway. */
  readonly bytes: number;
  readonly wasted_bytes: number;
  /** By reason (docs/distflow.md). */
  readonly failed: Readonly<Record<string, number>>;
  /** Dummy payloads over a network that came, and that ended with their link; and the longest that one took. Of a shared memory none: it has no link. */
  readonly probes_passed: number;
  readonly probes_broken: number;
  readonly probe_us_max: number;
};

/** An expert on the NPU that reports. */
export type ExpertReport = {
  readonly npu: number;
  readonly layer: number;
  readonly expert: number;
  /** Its tokens in dispatches that have come and wait to be served. */
  readonly queued: number;
  /** Batches that were timed (expert-times.ts), their tokens, how long they took in all, and by how long they took; no buckets: none was. */
  readonly batches: number;
  readonly tokens: number;
  readonly us_sum: number;
  readonly counts: readonly number[];
};

export type Lane = 'control' | 'data';

/** What the writer of a ring counts. */
export type LinkWritten = {
  /** Frames written to the ring, and the bytes of their payloads. A payload in parts is several frames. */
  readonly frames: number;
  readonly bytes: number;
  /** Payloads that found no room and went to the outbox. */
  readonly full: number;
  /** Times that the reader slept and was woken for this link. */
  readonly wakes: number;
  /** Payloads in the outbox now, and their bytes. */
  readonly waiting: number;
  readonly waiting_bytes: number;
  /** For how long the reader has read nothing although published frames are unread or payloads wait; counted from the first look that saw it. */
  readonly stalled_ms: number;
  /** Credits: what ring and slab take at this moment. */
  readonly ring_free_bytes: number;
  readonly slab_free_bytes: number;
  /** Of the slab: taken now, and the most that ever was. */
  readonly slab_bytes: number;
  readonly slab_bytes_max: number;
};

/** What the reader of a ring counts. */
export type LinkRead = {
  /** Frames handed out or gathered, and their bytes. */
  readonly received_frames: number;
  readonly received_bytes: number;
  /** Times that it let go of the ring at a frame of an epoch that is over: what its writer had left in it is dropped. */
  readonly stale: number;
  /** Sampled frames by the time from send to receive: entry n counts those under 2ⁿ µs, the last one all others. */
  readonly latencies_us: readonly number[];
  /** The sum of the same times. */
  readonly latency_us_sum: number;
};

/** A thread's view of one of its links: the ring to the peer, which it writes, and the one from it, which it reads. Keys in this order (wire.ts). */
export type LinkReport = { readonly peer: number; readonly lane: Lane } & LinkWritten & LinkRead;

/** Who has a thread's rings: `caller`, `control`, `worker/0`; `thread/4`: no worker, as `die/4` is memory that no NPU has. */
export type ThreadReport = {
  readonly thread: number;
  readonly name: string;
  /** `quarantined`: a worker that was given up may still write its rings; `free`: a spare one. */
  readonly state: 'held' | 'free' | 'quarantined';
  readonly epoch: number;
  /** Times it slept and was woken. */
  readonly wakes: number;
  /** Messages that it had for threads that it has no rings with: of a worker that is lost, or that it has not been told of. Who sent them hears of the loss by itself. */
  readonly dropped: number;
  /** Of a worker that is lost: for what its successor waits, `its end`, or who has not let go of its rings yet, `worker/1` or `caller`. */
  readonly waits_for: readonly string[];
};

/** What a report tells of experts: nothing; how they are; or that too, and it begins to time them. */
export type ExpertsAsked = 'none' | 'look' | 'measure';

export type ThreadMessage =
  | { readonly type: 'THREAD_STARTED'; readonly worker: number }
  /** The last that it says: it ends, since something threw. `lost_weights`: what lies there cannot be gone on with. */
  | { readonly type: 'THREAD_FAILED'; readonly reason: string; readonly lost_weights: boolean }
  /** `has_ended`: its thread is proven to have ended, so that what lies whole in its rings may be read still. */
  | { readonly type: 'PEER_LOST'; readonly worker: number; readonly has_ended: boolean }
  /** The sender has let go of the lost worker's rings. */
  | { readonly type: 'PEER_DETACHED'; readonly worker: number }
  /** In a ring of that worker the caller has found rubbish, and reads on nothing: it cannot end itself, so the writer has to. `epoch`: of the thread that wrote it. */
  | { readonly type: 'PEER_CORRUPT'; readonly worker: number; readonly epoch: number; readonly reason: string }
  /** Its successor runs, on this thread's rings and these dies. `epoch`: the thread's as its successor, which may be raised before this is read. */
  | { readonly type: 'PEER_RESTARTED'; readonly worker: number; readonly thread: number; readonly epoch: number; readonly dies: readonly number[] }
  | { readonly type: 'REPORT'; readonly query: number; readonly experts: ExpertsAsked }
  | {
      readonly type: 'REPORTED';
      readonly query: number;
      readonly worker: number;
      readonly npus: readonly NpuReport[];
      readonly links: readonly LinkReport[];
      readonly kv_links: readonly KvLinkReport[];
      readonly experts: readonly ExpertReport[];
      readonly garbage: CollectionReport;
      /** Messages that no state expected: `role TYPE state`. */
      readonly unexpected: readonly string[];
    }
  | { readonly type: 'READ_KV_EVENTS'; readonly query: number; readonly dp_group: number; readonly from: number }
  | ({ readonly type: 'KV_EVENTS_READ'; readonly query: number } & KvEventBatches);

/** Of a worker that is lost, to all who have rings with it. */
export type PeerNews = Extract<ThreadMessage, { type: 'PEER_LOST' | 'PEER_RESTARTED' }>;

export const threadFailed = (reason: string, lost_weights: boolean): ThreadMessage => ({ type: 'THREAD_FAILED', reason, lost_weights });
export const threadStarted = (worker: number): ThreadMessage => ({ type: 'THREAD_STARTED', worker });
export const threadPeerLost = (worker: number, has_ended: boolean): ThreadMessage => ({ type: 'PEER_LOST', worker, has_ended });
export const threadPeerDetached = (lost: number): ThreadMessage => ({ type: 'PEER_DETACHED', worker: lost });
export const threadPeerCorrupt = (worker: number, epoch: number, reason: string): ThreadMessage => ({ type: 'PEER_CORRUPT', worker, epoch, reason });
export const threadPeerRestarted = (worker: number, thread: number, epoch: number, dies: readonly number[]): ThreadMessage => ({
  type: 'PEER_RESTARTED',
  worker,
  thread,
  epoch,
  dies,
});
export const threadReport = (query: number, experts: ExpertsAsked): ThreadMessage => ({ type: 'REPORT', query, experts });
export const readKvEvents = (query: number, dp_group: number, from: number): ThreadMessage => ({ type: 'READ_KV_EVENTS', query, dp_group, from });
export const kvEventsRead = (query: number, { batches, next }: KvEventBatches): ThreadMessage => ({ type: 'KV_EVENTS_READ', query, batches, next });
export const threadReported = (
  query: number,
  worker: number,
  npus: readonly NpuReport[],
  links: readonly LinkReport[],
  kv_links: readonly KvLinkReport[],
  experts: readonly ExpertReport[],
  garbage: CollectionReport,
  unexpected: readonly string[],
): ThreadMessage => ({
  type: 'REPORTED',
  query,
  worker,
  npus,
  links,
  kv_links,
  experts,
  garbage,
  unexpected,
});
