/**
 * A client of a run: asks, reads, holds each token that comes against what it must be, and goes away or dawdles as a fault has it.
 * @module
 */
import type { Pod } from '../pod.ts';
import { MinipodError } from '../protocol/errors.ts';
import { breathe } from '../runtime/event-loop.ts';
import type { ChaosCall } from './fault-plan.ts';
import { type Answer, optionsOf, promptOf } from './undisturbed.ts';

export type ClientTerms = {
  /** Goes away when so many chunks have come; −1: stays. */
  readonly leaves: number;
  /** Turns of the event loop that it takes before it reads on. */
  readonly turns: number;
};

/** `code`: finished, or the error's. `wrong`: what it was told that it should not have been. */
export type CallReport = {
  readonly id: string;
  readonly code: string;
  readonly message: string;
  readonly tokens: number;
  readonly chunks: number;
  readonly wrong: readonly string[];
};

export async function playClient(
  pod: Pick<Pod, 'generate'>,
  call: ChaosCall,
  expected: readonly Answer[],
  { leaves, turns }: ClientTerms,
): Promise<CallReport> {
  const abort = new AbortController();
  const wrong: string[] = [];
  const got = expected.map(() => 0);
  const finished = expected.map((): string | null => null);
  const texts = expected.map(() => '');
  let chunks = 0;
  if (leaves === 0) abort.abort();
  const deadline = call.deadline_ms === undefined ? {} : { deadline_ms: call.deadline_ms };
  const generation = pod.generate(promptOf(call), { ...optionsOf(call), ...deadline, signal: abort.signal });
  const report = (code: string, message = ''): CallReport => ({
    id: generation.id,
    code,
    message,
    tokens: got.reduce((sum, tokens) => sum + tokens, 0),
    chunks,
    wrong,
  });
  try {
    for await (const { choice, text, token_ids, finish_reason } of generation) {
      chunks++;
      const right = expected[choice];
      if (right === undefined) wrong.push(`choice ${choice} of ${expected.length} choices`);
      else {
        if (finished[choice] !== null) wrong.push(`choice ${choice} went on after it had finished`);
        for (const id of token_ids) {
          const index = got[choice] as number;
          if (id !== right.tokens[index]) wrong.push(`choice ${choice}, token ${index} is ${id}, undisturbed it is ${right.tokens[index] ?? 'none'}`);
          got[choice] = index + 1;
        }
        texts[choice] += text;
        if (finish_reason !== null) finished[choice] = finish_reason;
      }
      for (let turn = 0; turn < turns; turn++) await breathe();
      if (chunks === leaves) abort.abort();
    }
  } catch (error) {
    return report(error instanceof MinipodError ? error.code : 'crash', error instanceof Error ? error.message : String(error));
  }
  for (const [choice, right] of expected.entries()) {
    if (got[choice] !== right.tokens.length) wrong.push(`choice ${choice} finished with ${got[choice]} of ${right.tokens.length} tokens`);
    if (texts[choice] !== right.text) wrong.push(`choice ${choice} reads ${JSON.stringify(texts[choice])}, undisturbed ${JSON.stringify(right.text)}`);
    if (finished[choice] !== right.finish) wrong.push(`choice ${choice} ended by ${finished[choice]}, undisturbed by ${right.finish}`);
  }
  return report('finished');
}
