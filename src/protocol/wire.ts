/**
 * How messages become bytes: msgpackr with fixed structures, declared here and nowhere negotiated.
 *
 * msgpackr learns a structure from the first object it meets and tells its peer; a peer that learnt another shape decodes rubbish
 * without an error. So both ends start from this one list, and an object whose keys (or their order) are not in it is an error at the sender.
 * @module
 */
import { Packr } from 'msgpackr';
import { ROLES } from './address.ts';
import { MinipodError } from './errors.ts';
import { CHOICES_MAX } from './messages.ts';

/** Every shape that crosses a ring, keys in the order in which the constructors give them. */
const STRUCTURES: readonly (readonly string[])[] = [
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
  ['request', 'choice', 'prompt', 'max_tokens', 'sampling'],
  ['logprob', 'top_ids', 'top_logprobs'],
  ['code', 'message', 'param'],
  ['request', 'choice', 'token', 'finish', 'stops', 'logprobs', 'prompt_start', 'prompt_logprobs'],
  // control → workers
  ['type', 'task', 'sequence'], // ENQUEUE
  ['type', 'task'], // ABANDON
  ['type'], // SCHEDULED, DECODING, PREEMPTED, GENERATED, ABANDONED, DRAIN
  ['type', 'error'], // GENERATION_FAILED
  ['type', 'npu', 'error'], // NPU_LOST
  // workers → control
  ['type', 'npu'], // NPU_READY
  // threads
  ['type', 'worker'], // THREAD_STARTED, PEER_LOST, PEER_DETACHED, PEER_RESTARTED
  ['type', 'query'], // INSPECT
  ['type', 'query', 'worker', 'npus', 'links', 'unexpected'], // INSPECTED
  ['npu', 'state', 'kv_blocks', 'kv_blocks_used', 'requests_running', 'requests_waiting', 'steps', 'tokens_prefilled', 'tokens_decoded', 'preemptions'],
  ['peer', 'lane', 'frames', 'bytes', 'full'],
  ['type', 'tokens'], // TOKENS
  // caller ↔ pod
  ['kind', 'text', 'tokens', 'roles', 'contents'],
  ['type', 'request', 'prompt', 'add_special_tokens', 'n', 'max_tokens', 'ignore_eos', 'stop', 'sampling'], // GENERATE
  ['type', 'request'], // CANCEL_CALL, SCHEDULED_CALL
  ['token_id', 'token', 'bytes', 'logprob'],
  ['chosen', 'top'],
  ['request', 'choice', 'text', 'token_ids', 'logprobs', 'finish', 'stop_string', 'stop_token'],
  ['type', 'request', 'token_ids'], // PROMPT
  ['type', 'request', 'logprobs'], // PROMPT_LOGPROBS
  ['type', 'chunks'], // CHUNKS
  ['type', 'request', 'error', 'generated'], // ENDED
];

/** Ids below belong to the structures above; msgpackr gives one from here on to a shape that it met and did not know. */
const FIRST_OWN_ID = 0x40 + STRUCTURES.length;

/** Identifies this protocol in the handshake of two threads: a worker built from other sources refuses to start. */
export const PROTOCOL_HASH = [...JSON.stringify([STRUCTURES, ROLES, CHOICES_MAX])].reduce(
  (hash, letter) => Math.imul(hash ^ letter.charCodeAt(0), 0x01000193) >>> 0,
  0x811c9dc5,
);

export class Codec {
  /** `nextId` is msgpackr's next id for a structure of its own making; a test holds that it still counts so. */
  readonly #structures: string[][] & { nextId?: number };
  readonly #packr: Packr;

  constructor() {
    this.#structures = STRUCTURES.map((keys) => [...keys]);
    this.#packr = new Packr({
      structures: this.#structures,
      maxSharedStructures: STRUCTURES.length,
      saveStructures: () => {
        throw new MinipodError('internal', 'msgpackr wants to negotiate structures; they are fixed in src/protocol/wire.ts');
      },
    });
  }

  /** @throws `internal` when the message's shape, key order included, is not declared. */
  encode(message: unknown): Uint8Array {
    const bytes = this.#packr.pack(message);
    if ((this.#structures.nextId ?? 0) > FIRST_OWN_ID) {
      this.#structures.nextId = FIRST_OWN_ID;
      throw new MinipodError('internal', `src/protocol/wire.ts does not declare the shape of ${JSON.stringify(message)?.slice(0, 200)}`);
    }
    return bytes;
  }

  decode(bytes: Uint8Array): unknown {
    return this.#packr.unpack(bytes);
  }
}
