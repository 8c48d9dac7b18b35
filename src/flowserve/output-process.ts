/**
 * The output process: token ids in, text out, straight to the caller (xDeepServe §4, output shortcut).
 * One message a step brings the tokens of all its sequences; what they become leaves in one frame a turn.
 * @module
 */
import { Detokenizer } from '../model/detokenizer.ts';
import type { Tokenizer } from '../model/tokenizer.ts';
import type { ChunkRecord, PodToCaller, PositionRecord, TokenLogprobRecord } from '../protocol/caller.ts';
import type { ErrorRecord } from '../protocol/errors.ts';
import type { PositionLogprobs, Sequence, TokenOut } from '../protocol/messages.ts';
import { callOf } from '../protocol/request-ids.ts';
import { StopStrings } from './stop-strings.ts';

type Choice = {
  readonly sequence: Sequence;
  readonly detokenizer: Detokenizer;
  readonly stops: StopStrings;
  generated: number;
  /** Tokens that overtook those before them, as from another DP group, by their index. */
  readonly early: Map<number, { readonly out: TokenOut; readonly group: number }>;
  isFinished: boolean;
  /** By a stop string: its task has to be told. */
  isStopped: boolean;
  /** The DP group that its last token came from. */
  group: number | null;
};
type Request = {
  readonly id: number;
  readonly prompt: readonly number[];
  readonly choices: readonly Choice[];
  readonly promptLogprobs: (PositionRecord | undefined)[] | null;
  promptMissing: number;
  /** Prompt tokens whose KV was there; null: no choice has told yet. */
  cached: number | null;
  /** That it is done was heard before its last tokens: they come another way. How many looks have found it so. */
  awaited: number | null;
};

/** All that there is of it has come. */
const isWhole = ({ choices, promptMissing }: Request): boolean => promptMissing === 0 && choices.every(({ isFinished }) => isFinished);

/** What came and went. */
export type Counts = {
  /** Choices that finished, by how; requests that were cancelled or failed. */
  readonly finished: Record<string, number>;
  /** Of prompts that have been computed: their first token is there. */
  prompt_tokens: number;
  generation_tokens: number;
};

const nothingCounted = (): Counts => ({ finished: { stop: 0, length: 0, cancelled: 0, failed: 0 }, prompt_tokens: 0, generation_tokens: 0 });

export type OutputPorts = {
  readonly tell: (message: PodToCaller) => void;
  /** The caller gets this token of the call's choice; that was its last. */
  readonly keep: (call: number, choice: number, token: number) => void;
  readonly finish: (call: number, choice: number) => void;
  /** The caller hears no more of the call. */
  readonly ended: (call: number) => void;
  /** A DP group has computed the choice's prompt: its first token is there. */
  readonly began: (sequence: Sequence, group: number) => void;
  /** A stop string ended the choice: its tasks may let go. */
  readonly stopChoice: (call: number, choice: number) => void;
};

export class OutputProcess {
  readonly #tokenizer: Tokenizer;
  readonly #ports: OutputPorts;
  /** The model's own ends of sequence, which need no naming. */
  readonly #endOfSequence: ReadonlySet<number>;
  readonly #requests = new Map<number, Request>();
  #chunks: ChunkRecord[] = [];
  /** Of the whole pod: what ended before any DP group had answered is in none of theirs. */
  readonly counts: Counts = nothingCounted();
  readonly groups = new Map<number, Counts>();

  constructor(tokenizer: Tokenizer, eosTokenIds: readonly number[], ports: OutputPorts) {
    this.#tokenizer = tokenizer;
    this.#endOfSequence = new Set(eosTokenIds);
    this.#ports = ports;
  }

  open(id: number, sequences: readonly Sequence[], stop: readonly string[], skipSpecialTokens: boolean): void {
    const [first] = sequences;
    if (first === undefined) return;
    const positions = first.sampling.prompt_logprobs >= 0 ? first.prompt.length - 1 : 0;
    this.#requests.set(id, {
      id,
      prompt: first.prompt,
      choices: sequences.map((sequence) => ({
        sequence,
        detokenizer: new Detokenizer(this.#tokenizer, { skipSpecialTokens }),
        stops: new StopStrings(stop),
        generated: 0,
        early: new Map(),
        isFinished: false,
        isStopped: false,
        group: null,
      })),
      promptLogprobs: first.sampling.prompt_logprobs >= 0 ? new Array(positions).fill(undefined) : null,
      promptMissing: positions,
      cached: null,
      awaited: null,
    });
    this.#ports.tell({ type: 'PROMPT', request: id, token_ids: first.prompt });
    if (first.sampling.prompt_logprobs >= 0 && positions === 0) this.#ports.tell({ type: 'PROMPT_LOGPROBS', request: id, logprobs: [] });
  }

  has(id: number): boolean {
    return this.#requests.has(id);
  }

  open_ids(): number[] {
    return [...this.#requests.keys()];
  }

  get open_requests(): number {
    return this.#requests.size;
  }

  /** `group`: the DP group that they come from. */
  push(tokens: readonly TokenOut[], group: number): void {
    for (const out of tokens) {
      const request = this.#requests.get(callOf(out.request));
      const choice = request?.choices[out.choice];
      if (request === undefined || choice === undefined || choice.isFinished) continue;
      if (out.prompt_logprobs !== null) this.#keepPromptLogprobs(request, out.prompt_start, out.prompt_logprobs);
      if (out.token >= 0) this.#inOrder(request, choice, out, group);
      if (request.awaited !== null && isWhole(request)) this.end(request.id, null);
    }
  }

  /** Each index is delivered once and in order, whichever groups they come from. */
  #inOrder(request: Request, choice: Choice, out: TokenOut, group: number): void {
    if (out.index > choice.generated) choice.early.set(out.index, { out, group });
    if (out.index !== choice.generated) return;
    this.#deliver(request, choice, out, group);
    for (let next = choice.early.get(choice.generated); next !== undefined && !choice.isFinished; next = choice.early.get(choice.generated)) {
      choice.early.delete(choice.generated);
      this.#deliver(request, choice, next.out, next.group);
    }
  }

  #deliver(request: Request, choice: Choice, out: TokenOut, group: number): void {
    const ofGroup = this.#countsOf(group);
    if (request.cached === null) {
      this.counts.prompt_tokens += request.prompt.length;
      ofGroup.prompt_tokens += request.prompt.length;
    }
    if (choice.generated === 0) {
      this.#keepCached(request, out.cached);
      this.#ports.began(choice.sequence, group);
    }
    if (choice.group !== group) {
      choice.group = group;
      this.#ports.tell({ type: 'CHOICE_MOVED', request: request.id, choice: out.choice, dp_group: group });
    }
    this.#pushToken(request.id, choice, out, ofGroup);
  }

  /** The call goes on with another job, which may not have heard which choices have ended. */
  stopFinished(id: number): void {
    const choices = this.#requests.get(id)?.choices ?? [];
    for (const [choice, { isStopped }] of choices.entries()) if (isStopped) this.#ports.stopChoice(id, choice);
  }

  /** The request's first task is computed. */
  running(id: number): void {
    this.#ports.tell({ type: 'SCHEDULED_CALL', request: id });
  }

  /** It has ended, or ends with its last token. */
  end(id: number, error: ErrorRecord | null): void {
    const request = this.#requests.get(id);
    if (request === undefined) return;
    if (error === null && !isWhole(request)) {
      request.awaited = 0;
      return;
    }
    this.#requests.delete(id);
    this.#ports.ended(id);
    this.flush();
    if (error !== null) {
      const how = error.code === 'cancelled' ? 'cancelled' : 'failed';
      const group = request.choices.find((choice) => choice.group !== null)?.group ?? null;
      this.#noteEnd(how, group === null ? null : this.#countsOf(group));
    }
    const generated = request.choices.reduce((sum, choice) => sum + choice.generated, 0);
    this.#ports.tell({ type: 'ENDED', request: id, error, generated });
  }

  /** Fails requests that two of these looks find waiting for tokens of a group that said they were sent: its thread died before they were read. */
  failStranded(error: ErrorRecord): void {
    for (const request of this.#requests.values()) if (request.awaited !== null && request.awaited++ > 0) this.end(request.id, error);
  }

  /** Sends the turn's chunks, all in one frame. */
  flush(): void {
    if (this.#chunks.length === 0) return;
    const chunks = this.#chunks;
    this.#chunks = [];
    this.#ports.tell({ type: 'CHUNKS', chunks });
  }

  #countsOf(group: number): Counts {
    const known = this.groups.get(group);
    if (known !== undefined) return known;
    const counts = nothingCounted();
    this.groups.set(group, counts);
    return counts;
  }

  #noteEnd(how: string, ofGroup: Counts | null): void {
    this.counts.finished[how] = (this.counts.finished[how] ?? 0) + 1;
    if (ofGroup !== null) ofGroup.finished[how] = (ofGroup.finished[how] ?? 0) + 1;
  }

  /** The prompt is one, however many choices continue it: what the first of them found counts, since the others find what it computed too. */
  #keepCached(request: Request, cached: number): void {
    const known = request.cached;
    if (known !== null && cached >= known) return;
    request.cached = cached;
    if (cached > 0 || known !== null) this.#ports.tell({ type: 'PROMPT_CACHED', request: request.id, tokens: cached });
  }

  #pushToken(call: number, choice: Choice, out: TokenOut, ofGroup: Counts): void {
    choice.generated++;
    this.#ports.keep(call, out.choice, out.token);
    this.counts.generation_tokens++;
    ofGroup.generation_tokens++;
    // The token that ends a sequence by itself is no part of its text; stop strings count from min_tokens on.
    let { text, stop } = out.stops ? { text: '', stop: null } : this.#shown(choice, choice.detokenizer.push(out.token));
    let finish = stop === null ? out.finish : 'stop';
    if (stop === null && out.finish !== null) {
      const rest = choice.stops.push(choice.detokenizer.flush());
      stop = rest.stop;
      text += rest.text + (stop === null ? choice.stops.flush() : '');
      if (stop !== null) finish = 'stop';
    }
    if (finish !== null) {
      choice.isFinished = true;
      this.#ports.finish(call, out.choice);
      this.#noteEnd(finish, ofGroup);
    }
    if (stop !== null && out.finish === null) {
      choice.isStopped = true;
      this.#ports.stopChoice(call, out.choice);
    }
    this.#chunks.push({
      request: call,
      choice: out.choice,
      text,
      token_ids: [out.token],
      logprobs: out.logprobs === null ? null : [this.#describe(out.token, out.logprobs)],
      finish,
      stop_string: stop,
      stop_token: stop === null && out.stops && !this.#endOfSequence.has(out.token) ? out.token : -1,
    });
  }

  #shown(choice: Choice, piece: string): { text: string; stop: string | null } {
    if (choice.generated <= choice.sequence.sampling.min_tokens) return { text: piece, stop: null };
    return choice.stops.push(piece);
  }

  #keepPromptLogprobs(request: Request, start: number, logprobs: readonly PositionLogprobs[]): void {
    const kept = request.promptLogprobs;
    if (kept === null || request.promptMissing === 0) return;
    logprobs.forEach((position, index) => {
      const at = start - 1 + index;
      if (kept[at] === undefined) request.promptMissing--;
      kept[at] = this.#describe(request.prompt[start + index] as number, position);
    });
    if (request.promptMissing === 0) this.#ports.tell({ type: 'PROMPT_LOGPROBS', request: request.id, logprobs: kept as PositionRecord[] });
  }

  #describe(token: number, { logprob, top_ids, top_logprobs }: PositionLogprobs): PositionRecord {
    return { chosen: this.#describeToken(token, logprob), top: top_ids.map((id, index) => this.#describeToken(id, top_logprobs[index] ?? Number.NaN)) };
  }

  #describeToken(token_id: number, logprob: number): TokenLogprobRecord {
    return { token_id, token: this.#tokenizer.tokenText(token_id), bytes: [...this.#tokenizer.tokenBytes(token_id)], logprob };
  }
}
