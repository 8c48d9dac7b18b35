/**
 * How messages become bytes: msgpackr's records with fixed structures, declared here and nowhere negotiated. msgpackr reads them; what it would write is
 * written by record-writer.ts, since its own packing took three quarters of a send. Of a frame as short as a step's, what it reads by a native module takes it
 * twice as long as what it reads by itself, so it does without.
 *
 * msgpackr learns a structure from the first object it meets and tells its peer; a peer that learnt another shape decodes rubbish
 * without an error. So both ends start from this one list, and an object whose keys (or their order) are not in it is an error at the sender.
 * @module
 */
import { Unpackr } from 'msgpackr/unpack';
import { ROLES } from './address.ts';
import { MinipodError } from './errors.ts';
import { CHOICES_MAX } from './messages.ts';
import { RecordWriter } from './record-writer.ts';

/** Every shape that crosses a ring, keys in the order in which the constructors give them. */
const STRUCTURES: readonly (readonly string[])[] = [
  // each step, one for each of its tokens: the ids of the first 32 take one byte, and need not be put in behind the record (record-writer.ts)
  ['type', 'chunks'], // CHUNKS
  ['request', 'choice', 'index', 'text', 'token_ids', 'logprobs', 'finish', 'stop_string', 'stop_token', 'cached', 'drafted', 'parsed'],
  // nested records
  [
    'temperature',
    'top_p',
    'top_k',
    'min_p',
    'seed',
    'min_tokens',
    'stop_token_ids',
    'logprobs',
    'prompt_logprobs',
    'bias_ids',
    'bias_values',
    'presence_penalty',
    'frequency_penalty',
    'repetition_penalty',
  ],
  ['request', 'choice', 'prompt', 'max_tokens', 'sampling', 'cache_salt', 'data_parallel_rank', 'priority', 'context', 'output', 'held', 'drafts', 'text'],
  ['stop', 'skip_special_tokens', 'reasoning_parser', 'tool_call_parser', 'tools', 'prompt_tail'],
  ['group', 'tokens'],
  ['logprob', 'top_ids', 'top_logprobs'],
  ['code', 'message', 'param'],
  ['code', 'message', 'param', 'retry_after_ms'],
  // control → workers
  ['type', 'task', 'sequence', 'stage', 'handoff'], // ENQUEUE
  ['type', 'task'], // ABANDON, GROUP_UNWANTED, PREFIX_UNWANTED
  ['type', 'task_executor', 'term', 'groups', 'cost', 'long'], // LEAD
  ['base_us', 'token_us', 'attended_us'],
  ['tokens', 'groups'],
  ['type', 'wanted'], // GROUP_WANTED
  ['task', 'prompt_tokens', 'marks', 'priority'],
  // between workers
  ['type', 'leader', 'term'], // STATUS_WANTED
  ['type', 'state', 'task'], // GROUP_STATUS
  ['group', 'backlog_tokens', 'longest_tokens', 'decodes'],
  ['type', 'from', 'task', 'cache_salt', 'tokens', 'known'], // PREFIX_WANTED
  ['type', 'from', 'task', 'offer'], // PREFIX_LENT
  ['type'], // SCHEDULED, RECEIVING, DECODING, TRANSFERRED, PREEMPTED, GENERATED, ABANDONED, DRAIN, STEP_DUE, DROP_CACHE
  ['type', 'error'], // GENERATION_FAILED, FAIL, EXPERTS_LOST
  ['type', 'context', 'cache_salt', 'tokens'], // KEEP_CONTEXT
  ['type', 'context'], // FORGET_CONTEXT
  ['type', 'npu', 'error'], // NPU_LOST, NPU_GONE
  // workers → control
  ['type', 'npu', 'samples'], // NPU_READY
  ['tokens', 'attended', 'us'],
  ['type', 'task', 'group'], // GROUP_CHOSEN
  // controllers, wherever they live
  ['type', 'sequences', 'deadline_ms'], // SUBMIT
  ['type', 'choice'], // CHOICE_STOPPED
  ['type', 'task', 'data_parallel_rank', 'kv_positions', 'wanted'], // PLACE
  ['type', 'dp_group'], // PLACED
  ['type', 'task_executor'], // EXECUTOR_READY, EXECUTOR_UNREADY
  ['type', 'task_executor', 'error'], // EXECUTOR_GONE
  ['type', 'request', 'error'], // REQUEST_ENDED, ENDED
  ['type', 'term', 'serving'], // JOB_EXECUTORS
  ['type', 'serving', 'lost'], // MEMBERS
  ['type', 'member', 'life'], // JOIN, MEMBER_READY, MEMBER_LOST
  ['type', 'lost', 'life'], // DISOWN, TAKE_OVER, TAKEN_OVER
  ['member', 'life'],
  // between the ranks of a DP group, and their task executor (RANK_LOST is as NPU_LOST)
  ['type', 'from'], // PING
  ['type', 'member'], // PONG, TRUSTED
  ['type', 'member', 'life', 'silent_ms'], // SUSPECTED
  ['type', 'npu'], // RANK_BACK
  ['type', 'plan'], // STEP
  ['step', 'after', 'entries', 'detach'],
  ['slot', 'start', 'tokens', 'first_block', 'blocks', 'shared', 'generated', 'samples', 'drafts', 'foresees', 'attach', 'output'],
  ['type', 'slots'], // RELEASE_SLOTS
  ['type', 'step'], // LET_GO
  ['type', 'reset'], // RESET
  ['type', 'npu', 'reset'], // RANK_RESET
  ['type', 'npu', 'step', 'outcomes', 'digest', 'us', 'draft_us'], // STEP_DONE
  ['token', 'logprobs', 'more', 'drafts', 'prompt_logprobs', 'error'],
  ['token', 'logprobs', 'more', 'drafts', 'prompt_logprobs', 'error', 'foreseen'],
  ['token', 'logprobs'],
  ['type', 'npu', 'step', 'error', 'damaged'], // STEP_FAILED
  // threads
  ['type', 'worker'], // THREAD_STARTED, PEER_DETACHED
  ['type', 'reason', 'lost_weights'], // THREAD_FAILED
  ['type', 'worker', 'has_ended'], // PEER_LOST
  ['type', 'worker', 'thread', 'epoch', 'dies'], // PEER_RESTARTED
  ['type', 'query', 'experts'], // REPORT
  ['type', 'query', 'worker', 'npus', 'links', 'kv_links', 'experts', 'garbage', 'unexpected'], // REPORTED
  ['npu', 'layer', 'expert', 'queued', 'batches', 'tokens', 'us_sum', 'counts'],
  ['collections', 'collections_chosen', 'collections_us_sum', 'collections_us_max'],
  ['type', 'query', 'dp_group', 'from'], // READ_KV_EVENTS
  ['type', 'query', 'batches', 'next'], // KV_EVENTS_READ
  ['seq', 'events'],
  ['type', 'block_hashes', 'parent_block_hash', 'token_ids', 'block_size', 'lora_id', 'medium'], // BlockStored
  ['type', 'block_hashes', 'medium'], // BlockRemoved
  [
    'npu',
    'state',
    'kv_blocks',
    'kv_blocks_used',
    'kv_blocks_cached',
    'kv_blocks_mapped_out',
    'requests_running',
    'requests_waiting',
    'steps',
    'tokens_prefilled',
    'tokens_decoded',
    'preemptions',
    'drafting',
    'prefix_queries',
    'prefix_hits',
    'kv_lent',
    'kv_expected',
    'kv_leases_expired',
    'kv_transfers_open',
    'dram_blocks_used',
    'dram_blocks_mapped_out',
    'blocks_swapped_out',
    'blocks_swapped_in',
    'hits_refused',
    'blocks_populated',
    'blocks_lent',
    'remote_hits',
    'remote_hits_refused',
    'remote_hits_missed',
    'die',
    'kv_blocks_held',
    'kv_blocks_held_max',
    'fields_written',
    'fields_stale',
    'dispatches_written',
    'dispatches_served',
    'dispatches_refused',
    'rows_damaged',
    'pulled_bytes',
    'reply_bytes',
    'reply_bytes_max',
    'decode_steps_us',
    'decode_steps_us_sum',
    'step_gaps_us',
    'step_gaps_us_sum',
  ],
  ['drafts', 'draft_tokens', 'accepted_tokens', 'accepted_at'],
  [
    'peer',
    'lane',
    'frames',
    'bytes',
    'full',
    'wakes',
    'waiting',
    'waiting_bytes',
    'stalled_ms',
    'ring_free_bytes',
    'slab_free_bytes',
    'slab_bytes',
    'slab_bytes_max',
    'received_frames',
    'received_bytes',
    'stale',
    'latencies_us',
    'latency_us_sum',
  ],
  ['source', 'target', 'fabric', 'started', 'done', 'bytes', 'wasted_bytes', 'failed', 'probes_passed', 'probes_broken', 'probe_us_max'],
  ['cancelled', 'refused', 'expired', 'stale', 'corrupt', 'source_lost', 'fault', 'link_broken', 'given_up'],
  // caller ↔ pod
  ['kind', 'text', 'tokens', 'messages', 'variables'],
  [
    'type',
    'request',
    'prompt',
    'add_special_tokens',
    'skip_special_tokens',
    'reasoning_parser',
    'tool_call_parser',
    'n',
    'max_tokens',
    'ignore_eos',
    'stop',
    'sampling',
    'cache_salt',
    'data_parallel_rank',
    'priority',
    'deadline_ms',
    'context_id',
    'drafts',
  ], // GENERATE
  ['type', 'request'], // CANCEL_CALL, FAIL_CALL, RESUME_CALL, GO_ON, SCHEDULED_CALL, PROMPT_COMPUTED
  ['token_id', 'token', 'bytes', 'logprob'],
  ['chosen', 'top'],
  ['parts', 'reasoning_tokens'],
  ['kind', 'text'], // reasoning, content
  ['kind', 'index', 'name', 'id'], // call
  ['kind', 'index', 'text'], // arguments
  ['type', 'request', 'token_ids', 'records'], // PROMPT
  ['type', 'request', 'start', 'logprobs'], // PROMPT_LOGPROBS
  // expert map ↔ NPUs
  ['type', 'expert_map', 'work'], // EXPERT_WORK
  ['kind'],
  ['kind', 'epoch', 'slots', 'experts'],
  ['kind', 'change', 'layer', 'slot', 'expert', 'source', 'is_free', 'broadcast'],
  ['kind', 'layer', 'slot', 'broadcast'],
  ['kind', 'before'],
  ['kind', 'layer', 'slot'],
  ['number', 'npus'],
  ['kind', 'change', 'layer', 'slot', 'epoch'],
  ['kind', 'change', 'epoch'],
  ['type', 'npu', 'tokens'], // LOADS_COLLECTED
  ['type', 'npu', 'epoch'], // MAP_INSTALLED
  ['type', 'npu', 'change', 'bytes'], // SLOT_DONE
  ['type', 'npu', 'change', 'error'], // SLOT_FAILED, BROADCAST_FAILED
  ['type', 'epoch'], // REPLICAS_CHANGING
  ['type', 'epoch', 'npus'], // REPLICAS_CHANGED
  // prefill → decode
  ['type', 'handoff'], // LENT, PREFILLED
  ['output', 'offer', 'ahead'],
  ['output', 'offer', 'ahead', 'drafts'],
  ['type', 'output', 'drafts'], // HANDED_OVER
  ['type', 'task', 'output'], // HANDED_OVER, to a DP group
  ['type', 'task', 'output', 'drafts'],
  ['npu', 'die', 'epoch', 'slot', 'serial', 'blocks'],
  // groups that stand by: TAKE_PART is as SCHEDULED
  ['type', 'task_executor', 'lends'], // HAND_BACK
  ['type', 'output', 'offer'], // HANDED_BACK
  ['type', 'group'], // GROUP_LEFT
  ['type', 'npus'], // EXPERTS_HELD, MASK_EXPERTS
  ['type', 'scaling', 'query', 'source', 'broadcast'], // FURNISH
  ['type', 'broadcast'], // SEND_WEIGHTS
  ['type', 'npu', 'query', 'copied', 'error'], // FURNISHED
  ['broadcast_bytes', 'pulled_bytes'],
  // without all experts
  ['type', 'error', 'npus', 'needed'], // EXPERTS_NOWHERE
  ['step', 'after', 'entries', 'detach', 'masked'],
  ['output', 'offer', 'ahead', 'degraded'],
  ['output', 'offer', 'ahead', 'drafts', 'degraded'],
  ['request', 'choice', 'index', 'text', 'token_ids', 'logprobs', 'finish', 'stop_string', 'stop_token', 'cached', 'drafted', 'parsed', 'degraded'],
  // of a sequence that begins with the KV of others, and drafts
  ['slot', 'start', 'tokens', 'first_block', 'blocks', 'shared', 'generated', 'samples', 'drafts', 'foresees', 'attach', 'output', 'kept'],
  // caller → control
  ['type', 'worker', 'epoch', 'reason'], // PEER_CORRUPT
];

/** Identifies this protocol in the handshake of two threads: a worker built from other sources refuses to start. */
export const PROTOCOL_HASH = [...JSON.stringify([STRUCTURES, ROLES, CHOICES_MAX])].reduce(
  (hash, letter) => Math.imul(hash ^ letter.charCodeAt(0), 0x01000193) >>> 0,
  0x811c9dc5,
);

/** An encoded message: the first `bytes` bytes of `words`, there until the next one is encoded. */
export type Packed = { words: Int32Array; bytes: number };

export class Codec {
  readonly #writer = new RecordWriter(STRUCTURES);
  readonly #unpackr: Unpackr;
  readonly #packed: Packed = { words: this.#writer.words, bytes: 0 };

  constructor() {
    this.#unpackr = new Unpackr({
      // Not as `structures`: of those it would not know which have ids of two bytes.
      getStructures: () => STRUCTURES.map((keys) => [...keys]),
      // What is decoded must not point into memory that the next frame overwrites.
      copyBuffers: true,
    });
  }

  /**
   * Encodes in place: neither a view nor a copy is made, which would cost as much as the encoding.
   * @throws `internal` when the message's shape, key order included, is not declared.
   */
  pack(message: unknown): Packed {
    const packed = this.#packed;
    packed.bytes = this.#writer.write(message);
    if (packed.bytes < 0) throw new MinipodError('internal', `src/protocol/wire.ts does not declare the shape of ${JSON.stringify(message)?.slice(0, 200)}`);
    packed.words = this.#writer.words;
    return packed;
  }

  /** The same as bytes of their own. @throws as `pack`. */
  encode(message: unknown): Uint8Array {
    const { words, bytes } = this.pack(message);
    return new Uint8Array(words.buffer, 0, bytes).slice();
  }

  /** Decodes the first `length` bytes. */
  decode(bytes: Uint8Array, length = bytes.length): unknown {
    return this.#unpackr.unpack(bytes, length);
  }
}
