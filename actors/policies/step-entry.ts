/**
 * A step's number, and one sequence's part of it, as the NPU is told of it.
 * @module
 */
import { LAST_SAMPLED, type Sequence, type StepEntry } from '../../src/protocol/messages.ts';
import { outputOf, type RunningSequence } from './running-sequence.ts';

/** So many tokens of a sequence are in a step, which `samples` a new one or does not. */
export type Launched = { readonly running: RunningSequence; readonly count: number; readonly samples: boolean };

/** Step numbers travel as int32, and 0 means none: after the last comes 1 again. */
const STEPS = 2 ** 31 - 1;
export const nextStep = (step: number): number => (step % STEPS) + 1;

const NOTHING: readonly number[] = [];
const ONE_SAMPLED: readonly number[] = [LAST_SAMPLED];

/** The next `count` tokens; `granted`: so many KV blocks at the end of its table are new. A sequence that is attached is told of its whole table: what it shares, and what came from elsewhere. */
export function stepEntry(running: RunningSequence, count: number, granted: number, attach: Sequence | null): StepEntry {
  const { holding, tokens, launched, sampling, sequence, slot } = running;
  const table = holding.blocks;
  const shared = attach === null ? 0 : holding.path.length;
  const first_block = attach === null ? table.length - granted : 0;
  return {
    slot,
    start: launched,
    tokens: launched === tokens.length ? ONE_SAMPLED : count === 1 ? [tokens[launched] as number] : tokens.slice(launched, launched + count),
    first_block,
    blocks: first_block === table.length ? NOTHING : table.slice(first_block),
    shared,
    generated: outputOf(running) + sampling,
    samples: launched + count === tokens.length + sampling,
    attach,
    output: attach === null ? NOTHING : tokens.slice(sequence.prompt.length),
  };
}
