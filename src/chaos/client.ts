/**
 * A client of a run: asks, reads, holds each token that comes against what it must be, and goes away or dawdles as a fault has it.
 * @module
 */
import type { LiveGeneration } from '../calls/generation.ts';
import type { GenerateOptions } from '../options/options.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Chunk } from '../results.ts';
import { breathe } from '../runtime/event-loop.ts';
import type { ChaosCall } from './fault-plan.ts';
import { type Answer, optionsOf, promptOf } from './undisturbed.ts';

/** What a client reads: of a pod, or of a server before it. */
export type Asked = { readonly id: string } & AsyncIterable<Pick<Chunk, 'choice' | 'text' | 'token_ids' | 'finish_reason' | 'degraded'>>;
export type AskedPod = { readonly generate: (prompt: readonly number[], options: GenerateOptions) => Asked };

export type ClientTerms = {
  /** Goes away when so many chunks have come, 0: as soon as it has asked; −1: stays. */
  readonly leaves: number;
  /** Turns of the event loop that it takes before it reads on. */
  readonly turns: number;
  /** It has asked, and its call has an id: it may be made to leave from now on. */
  readonly onAsked?: (id: string, abort: AbortController) => void;
};

/** `code`: finished, or the error's. `wrong`: what it was told that it should not have been. */
export type CallReport = {
  readonly id: string;
  readonly code: string;
  readonly message: string;
  readonly tokens: number;
  readonly chunks: number;
  readonly wrong: readonly string[];
  /** By choice, in a pod that may do without some experts: what is still to be held against what it makes of that. */
  readonly told?: readonly Told[];
};

/** What a call has been told of one of its choices. By token, `isMarked`: as computed without all experts; `attempts`: of the request's owner that drew it (masked-reference.ts). */
export type Told = { readonly tokens: number[]; readonly isMarked: boolean[]; readonly attempts: number[]; finish: string | null };

export async function playClient(
  pod: AskedPod,
  call: ChaosCall,
  expected: readonly Answer[],
  { leaves, turns, onAsked }: ClientTerms,
  attemptOf: ((request: number) => number) | null = null,
): Promise<CallReport> {
  const abort = new AbortController();
  const wrong: string[] = [];
  const got = expected.map(() => 0);
  const finished = expected.map((): string | null => null);
  const texts = expected.map(() => '');
  const told = expected.map((): Told => ({ tokens: [], isMarked: [], attempts: [], finish: null }));
  let chunks = 0;
  const deadline = call.deadline_ms === undefined ? {} : { deadline_ms: call.deadline_ms };
  const generation = pod.generate(promptOf(call), { ...optionsOf(call), ...deadline, signal: abort.signal });
  if (attemptOf !== null) noteAttempts(generation as LiveGeneration, told, attemptOf);
  onAsked?.(generation.id, abort);
  if (leaves === 0) abort.abort();
  const report = (code: string, message = ''): CallReport => ({
    id: generation.id,
    code,
    message,
    tokens: got.reduce((sum, tokens) => sum + tokens, 0),
    chunks,
    wrong,
    ...(attemptOf !== null && { told }),
  });
  try {
    for await (const { choice, text, token_ids, finish_reason, degraded = false } of generation) {
      chunks++;
      const right = expected[choice];
      if (right === undefined) wrong.push(`choice ${choice} of ${expected.length} choices`);
      else {
        if (finished[choice] !== null) wrong.push(`choice ${choice} went on after it had finished`);
        for (const id of token_ids) {
          const index = got[choice] as number;
          told[choice]?.tokens.push(id);
          told[choice]?.isMarked.push(degraded);
          if (id !== right.tokens[index] && !degraded)
            wrong.push(`choice ${choice}, token ${index} is ${id}, undisturbed it is ${right.tokens[index] ?? 'none'}`);
          got[choice] = index + 1;
        }
        texts[choice] += text;
        if (finish_reason !== null) finished[choice] = finish_reason;
        (told[choice] as Told).finish = finished[choice] ?? null;
      }
      for (let turn = 0; turn < turns; turn++) await breathe();
      if (chunks === leaves) abort.abort();
    }
  } catch (error) {
    return report(error instanceof MinipodError ? error.code : 'crash', error instanceof Error ? error.message : String(error));
  }
  for (const [choice, right] of expected.entries()) {
    if (told[choice]?.isMarked.at(-1) === true) continue;
    if (got[choice] !== right.tokens.length) wrong.push(`choice ${choice} finished with ${got[choice]} of ${right.tokens.length} tokens`);
    if (texts[choice] !== right.text) wrong.push(`choice ${choice} reads ${JSON.stringify(texts[choice])}, undisturbed ${JSON.stringify(right.text)}`);
    if (finished[choice] !== right.finish) wrong.push(`choice ${choice} ended by ${finished[choice]}, undisturbed by ${right.finish}`);
  }
  return report('finished');
}

/** Chunks do not say whose they are. */
function noteAttempts(generation: LiveGeneration, told: readonly Told[], attemptOf: (request: number) => number): void {
  const push = generation.push.bind(generation);
  generation.push = (record) => {
    told[record.choice]?.attempts.push(attemptOf(record.request));
    push(record);
  };
}
