/**
 * What a DP group tells its output process: the tokens of a step, all in one message; with a sequence's first token here what turns ids into text takes, and
 * once it is over without a token that says so, that nothing follows. The process lives on the group's own thread.
 * @module
 */
import { type Address, address, idOf } from '../../src/protocol/address.ts';
import { forget, tokens } from '../../src/protocol/constructors.ts';
import type { Commands, Sequence } from '../../src/protocol/messages.ts';
import type { Begun, TokenOut } from '../../src/protocol/output.ts';
import type { Drawn } from '../../src/protocol/steps.ts';
import { outputOf, outputTokens, type RunningSequence } from './running-sequence.ts';

/** How a token ends its sequence, if it does. */
export type End = Pick<TokenOut, 'finish' | 'stops'>;
export const GOES_ON: End = { finish: null, stops: false };

const NOTHING: readonly Commands['send'][] = [];
const NOBODY_BEGUN: readonly Begun[] = [];

export class OutputReports {
  readonly #output: Address;
  #tokens: TokenOut[] = [];
  #begun: Begun[] = [];
  #over: Commands['send'][] = [];

  /** `group`: the DP group's address. */
  constructor(group: Address) {
    this.#output = address('output', idOf(group));
  }

  /**
   * What a step found for a sequence: a token, or log-probabilities of a chunk of its prompt alone, from a position on. `drafted`: how the token was
   * (`TokenOut.drafted`).
   */
  add(
    running: RunningSequence,
    { token, logprobs }: Drawn,
    { finish, stops }: End,
    prompt_start: number,
    prompt_logprobs: TokenOut['prompt_logprobs'],
    drafted: number,
  ): void {
    const { sequence, stage } = running;
    const count = outputOf(running);
    const isToken = token >= 0;
    if (!running.isShown) this.#begun.push({ sequence: withoutPrompt(sequence), stage, output: isToken ? outputBefore(running) : outputTokens(running) });
    running.isShown = finish === null;
    const out: TokenOut = {
      request: sequence.request,
      choice: sequence.choice,
      index: isToken ? count - 1 : -1,
      token,
      finish,
      stops,
      logprobs,
      cached: isToken && count === 1 ? running.cached : 0,
      drafted,
      prompt_start,
      prompt_logprobs,
    };
    this.#tokens.push(running.isDegraded ? { ...out, degraded: true } : out);
  }

  /** It is over, and no token has said so. */
  forget(running: RunningSequence): void {
    if (!running.isShown) return;
    running.isShown = false;
    const { request, choice } = running.sequence;
    this.#over.push({ to: this.#output, message: forget(request, choice) });
  }

  /** What there is to tell since this was asked last, and what else is. */
  take(others: readonly Commands['send'][] = NOTHING): Commands['send'][] {
    const told: Commands['send'][] = [];
    if (this.#tokens.length > 0) {
      told.push({ to: this.#output, message: tokens(this.#tokens, this.#begun.length === 0 ? NOBODY_BEGUN : this.#begun) });
      this.#tokens = [];
    }
    if (this.#begun.length > 0) this.#begun = [];
    for (const one of this.#over) told.push(one);
    if (this.#over.length > 0) this.#over = [];
    for (const one of others) told.push(one);
    return told;
  }
}

const outputBefore = ({ tokens, sequence }: RunningSequence): number[] => tokens.slice(sequence.prompt.length, -1);

/** A trace has it often enough: it is named again only where its tokens are scored. */
const withoutPrompt = (sequence: Sequence): Sequence => (sequence.sampling.prompt_logprobs >= 0 ? sequence : { ...sequence, prompt: [] });
