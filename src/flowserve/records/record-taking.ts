/**
 * Takes the open requests of a lost job executor over: each record's owner is exchanged, by compare-and-swap, for the taker, then the record is read.
 * @module
 */
import { type ErrorRecord, MinipodError, toErrorRecord } from '../../protocol/errors.ts';
import type { Sequence } from '../../protocol/messages.ts';
import { ATTEMPTS_MAX, attemptOf, callOf, jobExecutorOf, requestId } from '../../protocol/request-ids.ts';
import { Codec } from '../../protocol/wire.ts';
import { readChain } from './record-pages.ts';
import { type Owner, packOwner, RECORD, RECORD_STATE, type RecordTable, unpackOwner } from './record-table.ts';

/** A request as its taker goes on with it: under its new id, with the choices that are not finished. */
export type TakenRequest = {
  readonly request: number;
  readonly sequences: readonly Sequence[];
  readonly deadline_at_ms: number;
  readonly error: ErrorRecord | null;
};

/** Records are given out in no order. */
const byChoice = (a: Sequence, b: Sequence): number => a.choice - b.choice;

type Taken = { readonly request: number; readonly sequences: Sequence[]; readonly deadline_at_ms: number; error: ErrorRecord | null };

export class RecordTaking {
  readonly #table: RecordTable;
  readonly #codec = new Codec();

  constructor(table: RecordTable) {
    this.#table = table;
  }

  /** All that the job executor held in that life or an earlier one; who asks a second time gets what is left. In the order of their calls. */
  take(lost: number, life: number, taker: Pick<Owner, 'job_executor' | 'life'>): readonly TakenRequest[] {
    const taken = new Map<number, Taken>();
    for (let record = 0; record < this.#table.records; record++) this.#takeOne(record, lost, life, taker, taken);
    for (const { sequences } of taken.values()) sequences.sort(byChoice);
    return [...taken.values()].sort((a, b) => a.request - b.request);
  }

  /** What is left of a request that its job executor still holds. Null: it is not recorded, or its caller hears no more of it. */
  read(id: number): Omit<TakenRequest, 'request'> | null {
    const sequences: Sequence[] = [];
    let isKnown = false;
    let deadline_at_ms = -1;
    for (let record = 0; record < this.#table.records; record++) {
      const version = this.#load(record, RECORD.version);
      const { job_executor, attempt } = unpackOwner(this.#load(record, RECORD.owner));
      if (version % 2 !== 0 || job_executor !== jobExecutorOf(id) || attempt !== attemptOf(id) || this.#load(record, RECORD.call) !== callOf(id)) continue;
      const sequence = this.#read(record);
      const deadline = this.#load(record, RECORD.deadline_at);
      if (this.#load(record, RECORD.version) !== version) continue;
      isKnown = true;
      deadline_at_ms = deadline;
      if (sequence !== null) sequences.push({ ...sequence, request: id });
    }
    return isKnown ? { sequences: sequences.sort(byChoice), deadline_at_ms, error: null } : null;
  }

  #takeOne(record: number, lost: number, life: number, taker: Pick<Owner, 'job_executor' | 'life'>, taken: Map<number, Taken>): void {
    const version = this.#load(record, RECORD.version);
    const word = this.#load(record, RECORD.owner);
    const owner = unpackOwner(word);
    if (version % 2 !== 0 || owner.job_executor !== lost || owner.life > life) return;
    const attempt = Math.min(owner.attempt + 1, ATTEMPTS_MAX - 1);
    const own = packOwner({ ...taker, attempt });
    const { words } = this.#table;
    // Nobody opens a record for a life that is over: while it says so, it is the same call's.
    if (Atomics.compareExchange(words, this.#table.at(record, RECORD.owner), word, own) !== word) return;
    const call = this.#load(record, RECORD.call);
    const deadline_at_ms = this.#load(record, RECORD.deadline_at);
    const sequence = this.#read(record);
    // It has ended meanwhile, and its pages may be another's.
    if (this.#load(record, RECORD.version) !== version) return;
    const request = requestId(taker.job_executor, attempt, call);
    const known = taken.get(call) ?? { request, sequences: [], deadline_at_ms, error: null };
    taken.set(call, known);
    if (owner.attempt === attempt) known.error = movedTooOften();
    else if (sequence !== null) known.sequences.push({ ...sequence, request });
    if (known.error !== null) known.sequences.length = 0;
  }

  /** Null: the choice has all of its tokens. */
  #read(record: number): Sequence | null {
    const load = (word: number): number => this.#load(record, word);
    const [termsWords, terms_at] = [Math.ceil(load(RECORD.terms_bytes) / 4), load(RECORD.terms_at)];
    const prompt_tokens = load(RECORD.prompt_tokens);
    // The count first: what it counts lies there already.
    const tokens = load(RECORD.output_tokens);
    const shared = readChain(this.#table, terms_at, 0, termsWords + prompt_tokens);
    const output = tokens === 0 ? new Int32Array(0) : readChain(this.#table, load(RECORD.output_at), 0, tokens);
    // The state last: with its last token a choice is no longer open.
    if (shared === null || output === null || load(RECORD.state) !== RECORD_STATE.open) return null;
    const terms = this.#codec.decode(new Uint8Array(shared.buffer, 0, load(RECORD.terms_bytes))) as Sequence;
    const choice = load(RECORD.choice);
    // The prompt is scored once, with the first choice.
    const sampling = choice === terms.choice ? terms.sampling : { ...terms.sampling, prompt_logprobs: -1 };
    return { ...terms, choice, sampling, prompt: [...shared.subarray(termsWords)], output: [...output] };
  }

  #load(record: number, word: number): number {
    return this.#table.load(record, word);
  }
}

export const movedTooOften = (): ErrorRecord =>
  toErrorRecord(new MinipodError('worker_failed', `the request was moved ${ATTEMPTS_MAX - 1} times, since who had it died; it may be sent again`));
export const notKept = (who: string): ErrorRecord =>
  toErrorRecord(new MinipodError('worker_failed', `the ${who} of the request died, and there was no room to record all of it; the request may be sent again`));
