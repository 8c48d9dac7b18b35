/**
 * A sequence on its way through the steps of one NPU. What is asked of it is asked in numbers of tokens, never in tokens, so a step can be planned
 * while the one before it still computes (DeepServe §4.2):
 *
 *   position   0 ─────────── computed ─────────── launched ─────── length
 *              KV is there    in steps that run    to be launched
 *
 * `length` counts the token that a running step samples, though nobody knows it yet. Where it verifies drafts there may be more, up to as many as it has drafts:
 * `slack` of them in all steps that run. By so much what follows may be further on; blocks are there for that too.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import type { Sequence, Stage } from '../../src/protocol/messages.ts';
import { cacheSpace, emptyHolding, type Holding } from './cache-holding.ts';
import { type DraftHistory, newDraftHistory } from './drafting.ts';
import { reachOf } from './foresight.ts';
import type { Mend } from './kv-mending.ts';
import type { Turn } from './waiting-line.ts';

export type RunningSequence = {
  readonly task: Address;
  readonly sequence: Sequence;
  /** Its turn among those who wait and those who run: the lower one goes first. */
  readonly rank: number;
  readonly arrival: number;
  readonly stage: Stage;
  /** Prompt and output, as far as it is known. */
  readonly tokens: number[];
  computed: number;
  launched: number;
  /** Positions whose KV is there, where some of them are computed again nevertheless (foresight.ts). */
  there: number;
  /** Tokens that launched steps sample. */
  sampling: number;
  /** Drafts in launched steps. */
  slack: number;
  readonly drafting: DraftHistory;
  /** Where drafts are computed: so many positions behind its tokens those take room in. */
  readonly foresight: number;
  /** So many layers compute them. */
  readonly foreseers: number;
  /** What they are computed from is missing from this position on, or some of it; −1: it is all there. */
  hole: number;
  /** Drafts that the step which was launched last computes behind it. */
  coming: number;
  /** Drafts behind its last token that another group has computed. */
  foreseen: readonly number[];
  /** Launched steps that compute it and have not come back. */
  flights: number;
  holding: Holding;
  slot: number;
  /** Its slot is known to no NPU. */
  mustAttach: boolean;
  /** What of its KV is missing since memory went bad, in the order of positions. */
  damage: readonly Mend[];
  /** Prompt tokens whose KV was there when it was scheduled first; −1: it was not. */
  cached: number;
  /** It waits until blocks have come for it; such were once fetched for it. */
  isAside: boolean;
  wasFetched: boolean;
  isDecoding: boolean;
  /** Its KV can be trusted. */
  isSound: boolean;
  /** Some of its KV was computed without all experts: nobody else may begin with that, and whoever reads its tokens hears so. */
  isDegraded: boolean;
  /** The group's output process knows of it. */
  isShown: boolean;
  /** It is over, and what still flies of it is dropped. `abandoned`: its task waits to hear that nothing is left of it. */
  end: 'none' | 'told' | 'abandoned';
};

export const noHolding = ({ cache_salt }: Sequence): Holding => emptyHolding(cacheSpace(cache_salt));

/** Missing: drafts are not computed, or by one layer. */
type Foresight = { readonly foresight?: number | undefined; readonly foreseers?: number | undefined };

/** `output`: what another DP group has generated of it. */
export const newRunningSequence = (
  task: Address,
  sequence: Sequence,
  stage: Stage,
  output: readonly number[],
  { rank, arrival, foresight = 0, foreseers = 1 }: Turn & Foresight,
): RunningSequence => ({
  task,
  sequence,
  rank,
  arrival,
  stage,
  tokens: [...sequence.prompt, ...output],
  computed: 0,
  launched: 0,
  there: 0,
  sampling: 0,
  slack: 0,
  drafting: newDraftHistory(),
  foresight,
  foreseers,
  hole: -1,
  coming: 0,
  foreseen: [],
  flights: 0,
  holding: noHolding(sequence),
  slot: -1,
  mustAttach: false,
  damage: [],
  cached: -1,
  isAside: false,
  wasFetched: false,
  isDecoding: false,
  isSound: true,
  isDegraded: false,
  isShown: false,
  end: 'none',
});

export const outputTokens = ({ tokens, sequence }: RunningSequence): number[] => tokens.slice(sequence.prompt.length);

/** Output tokens that are known. */
export const outputOf = ({ tokens, sequence }: RunningSequence): number => tokens.length - sequence.prompt.length;

/** Tokens that it generates here at most: prefill ends with the first. */
const lastOutputOf = ({ stage, sequence }: RunningSequence): number => (stage === 'prefill' ? sequence.output.length + 1 : sequence.max_tokens);

/** Tokens that the next step could compute: none where the last of its output is being sampled already. */
export const tokensToLaunch = (running: RunningSequence): number =>
  outputOf(running) + running.sampling >= lastOutputOf(running) ? 0 : running.tokens.length + running.sampling - running.launched;

/** Drafts that could lead to tokens which it still wants, beside one for each step that is launched: none while its prompt is computed, up to `launched`. */
export function draftsLeft(running: RunningSequence, launched = running.launched): number {
  const { sequence, stage, sampling, slack, foresight } = running;
  if (stage === 'prefill' || !sequence.drafts || launched < sequence.prompt.length) return 0;
  // Who computes drafts knows how far it has got, and computes no more than are wanted.
  const further = foresight > 0 ? 0 : slack;
  return Math.max(0, lastOutputOf(running) - outputOf(running) - sampling - further - 1);
}

/** Once its prompt is computed, a decode group has more of it to generate. */
export const goesOnElsewhere = ({ stage, sequence }: RunningSequence): boolean => stage === 'prefill' && sequence.output.length + 1 < sequence.max_tokens;

/** How a cache is cut into blocks. */
type BlockSizes = { readonly blocksFor: (positions: number) => number };
type BlockCount = { readonly blocks: number; readonly block_size: number };

/** Why it could never run here, since it needs more blocks than there are; null: it could. */
export function neverFits({ prompt, max_tokens }: Pick<Sequence, 'prompt' | 'max_tokens'>, cache: BlockSizes & BlockCount): ErrorRecord | null {
  const { blocks, block_size } = cache;
  const needed = cache.blocksFor(prompt.length + max_tokens);
  if (needed <= blocks) return null;
  const positions = blocks * block_size;
  const has = `KV blocks of ${block_size} positions, the NPU has ${blocks}`;
  const room = positions - prompt.length;
  if (room > 0) {
    const message = `prompt and max_tokens need ${needed} ${has}: use max_tokens of at most ${room} with these ${prompt.length} tokens, or more kv_blocks`;
    return { code: 'out_of_memory', message, param: 'max_tokens' };
  }
  const alone = `prompt: its ${prompt.length} tokens and one to generate need ${cache.blocksFor(prompt.length + 1)} ${has}`;
  return { code: 'out_of_memory', message: `${alone}: use at most ${Math.max(0, positions - 1)} tokens, or more kv_blocks`, param: 'prompt' };
}

/** Blocks that a sequence lacks for its next `count` tokens. */
export const missingBlocks = (running: RunningSequence, count: number, cache: BlockSizes): number =>
  Math.max(0, cache.blocksFor(reachOf(running, running.launched + running.slack + count)) - running.holding.blocks.length);

/** Blocks that a step of these lacks, with so many tokens at most. */
export function blocksForStep(inOrder: readonly RunningSequence[], batch_tokens_max: number, cache: BlockSizes): number {
  let budget = batch_tokens_max;
  let missing = 0;
  for (const running of inOrder) {
    if (budget === 0) break;
    const count = Math.min(tokensToLaunch(running), budget);
    missing += missingBlocks(running, count, cache);
    budget -= count;
  }
  return missing;
}
