/**
 * What a step that has come back means for a sequence: tokens that it has now, KV that is there, and who hears of it.
 * @module
 */
import type { Drawn, StepOutcome } from '../../src/protocol/steps.ts';
import { landMend } from './kv-mending.ts';
import { type End, GOES_ON, type OutputReports } from './output-reports.ts';
import { finishOf } from './running-batch.ts';
import type { RunningSequence } from './running-sequence.ts';
import type { Launched } from './step-entry.ts';

/** A step of the sequence is over, or will never be. */
export function leaveFlight({ running, samples, drafts }: Launched): RunningSequence {
  running.flights--;
  running.slack -= drafts;
  if (samples) running.sampling--;
  return running;
}

const NONE_FORESEEN: readonly number[] = [];

/** Tokens that a step drew for a sequence go to its output, up to one that ends it: what drafts led to behind that is for nobody. */
export function landed(entry: Launched, outcome: StepOutcome, output: OutputReports): End {
  const { running, count } = entry;
  const { tokens } = running;
  const start = running.computed;
  leaveFlight(entry);
  if (entry.masked === true) running.isDegraded = true;
  if (entry.mended !== undefined) {
    landMend(running, entry.mended);
    return GOES_ON;
  }
  running.foreseen = outcome.foreseen ?? NONE_FORESEEN;
  running.launched += outcome.more.length;
  const end = running.end === 'none' ? takeDrawn(running, outcome, start + 1, output) : GOES_ON;
  // Of one that is over, the tokens that it went on with are not known.
  running.computed = Math.min(start + count + outcome.more.length, tokens.length);
  if (outcome.error !== null) running.isSound = false;
  return end;
}

function takeDrawn(running: RunningSequence, outcome: StepOutcome, prompt_start: number, output: OutputReports): End {
  const { prompt_logprobs, drafts, more, error } = outcome;
  // Tokens before a draft whose own logits were not finite are as good as any; before others there are none.
  if (error !== null && drafts.length === 0) return GOES_ON;
  if (outcome.token < 0) {
    if (prompt_logprobs !== null) output.add(running, outcome, GOES_ON, prompt_start, prompt_logprobs, 0);
    return GOES_ON;
  }
  let end = takeToken(running, outcome, output, prompt_start, prompt_logprobs, drafts.length);
  for (let at = 0; at < more.length && end.finish === null; at++) end = takeToken(running, more[at] as Drawn, output, prompt_start, null, -1);
  return end;
}

function takeToken(
  running: RunningSequence,
  drawn: Drawn,
  output: OutputReports,
  prompt_start: number,
  prompt_logprobs: StepOutcome['prompt_logprobs'],
  drafted: number,
): End {
  running.tokens.push(drawn.token);
  const end = finishOf(running, drawn.token);
  output.add(running, drawn, end, prompt_start, prompt_logprobs, drafted);
  return end;
}
