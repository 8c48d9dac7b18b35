/**
 * The prefix tree and cache by themselves: matching, keeping and giving up blocks, in trees of a thousand and of a hundred thousand of them.
 *
 * @example
 * node bench/prefix-cache.ts          # writes bench/results/prefix-cache.json
 * @module
 */
import { RelationalTensorCache } from '../actors/policies/relational-tensor-cache.ts';
import { atLeast, digits, ROUNDS, resultsPath } from './fabric-report.ts';
import { median, printTable, writeResults } from './harness.ts';

const BLOCK = 16;
/** Blocks of a prompt: half of them shared by a family of prompts, the rest its own. */
const PROMPT_BLOCKS = 8;
const SHARED_BLOCKS = 4;
const FAMILY = 64;
const OPERATIONS = 20_000;
const GOAL_K = 100;

type Prompts = readonly (readonly number[])[];

/** As many prompts as fill a tree of so many blocks. */
function promptsOf(nodes: number, salt: number): Prompts {
  const own = PROMPT_BLOCKS - SHARED_BLOCKS;
  const count = Math.floor((nodes - (nodes / (own * FAMILY)) * SHARED_BLOCKS) / own);
  return Array.from({ length: count }, (_, index) =>
    Array.from({ length: PROMPT_BLOCKS * BLOCK + 1 }, (_, position) =>
      position < SHARED_BLOCKS * BLOCK ? (Math.floor(index / FAMILY) * 31 + position * 7) % 50_021 : (index * 97 + position * 13 + salt) % 50_021,
    ),
  );
}

function keep(cache: RelationalTensorCache, tokens: readonly number[]): void {
  const holding = cache.matchByPrefixToken('', tokens, tokens.length);
  cache.allocBlocks(holding, PROMPT_BLOCKS - holding.blocks.length);
  cache.publish(holding, tokens, PROMPT_BLOCKS * BLOCK);
  cache.free(holding);
}

/** Thousand operations a second. */
function rate(operations: number, work: (index: number) => void): number {
  const start = performance.now();
  for (let index = 0; index < operations; index++) work(index);
  return operations / (performance.now() - start);
}

function measure(nodes: number): { readonly match: number; readonly insert: number; readonly evict: number } {
  const prompts = promptsOf(nodes, 0);
  const fresh = promptsOf(nodes, 1).slice(0, Math.floor(OPERATIONS / PROMPT_BLOCKS));
  const cache = new RelationalTensorCache({ blocks: nodes + OPERATIONS, block_size: BLOCK });
  for (const prompt of prompts) keep(cache, prompt);
  const match = rate(OPERATIONS, (index) => {
    const prompt = prompts[(index * 7_919) % prompts.length] as readonly number[];
    cache.free(cache.matchByPrefixToken('', prompt, prompt.length));
  });
  // By block: what a sequence publishes, and what an allocation takes from the longest unused.
  const before = cache.cached;
  const start = performance.now();
  for (const prompt of fresh) keep(cache, prompt);
  const insert = (cache.cached - before) / (performance.now() - start);
  const all = cache.matchByPrefixToken('', [], 0);
  cache.allocBlocks(all, cache.blocks - cache.cached);
  const evict = rate(Math.min(OPERATIONS, cache.cached), () => cache.allocBlocks(all, 1));
  return { match, insert, evict };
}

const rows = [1_000, 10_000, 100_000].map((nodes) => {
  measure(nodes);
  const rounds = Array.from({ length: ROUNDS }, () => measure(nodes));
  const of = (what: 'match' | 'insert' | 'evict'): number => median(rounds.map((round) => round[what]));
  return { nodes, match_k_per_s: of('match'), insert_k_per_s: of('insert'), evict_k_per_s: of('evict'), goal: GOAL_K };
});
printTable(
  `The prefix cache: prompts of ${PROMPT_BLOCKS} blocks of ${BLOCK} tokens matched and let go, blocks inserted, blocks given up; thousand a second, one core`,
  ['blocks in the tree', 'matches', 'goal', 'inserts', 'goal', 'evictions', 'goal'],
  rows.map(({ nodes, match_k_per_s, insert_k_per_s, evict_k_per_s, goal }) => [
    String(nodes),
    digits(match_k_per_s),
    atLeast(goal, match_k_per_s),
    digits(insert_k_per_s),
    atLeast(goal, insert_k_per_s),
    digits(evict_k_per_s),
    atLeast(goal, evict_k_per_s),
  ]),
);
writeResults(resultsPath('prefix-cache'), rows);
