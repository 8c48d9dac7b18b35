/**
 * The prefix cache: how soon a first token comes where most of the prompt is known, in HBM, in host DRAM or at another DP group, and the cache by itself in trees of a thousand to a hundred thousand blocks.
 *
 * @example
 * node bench/prefix-cache.ts                       # everything, writes bench/results/prefix-cache.json
 * BENCH_ONLY=ttft node bench/prefix-cache.ts
 * BENCH_ONLY=tp node bench/prefix-cache.ts
 * BENCH_ONLY=dram node bench/prefix-cache.ts
 * BENCH_ONLY=remote node bench/prefix-cache.ts
 * @module
 */
import { RelationalTensorCache } from '../actors/policies/relational-tensor-cache.ts';
import { makeCopies } from '../src/fabric/copy.ts';
import { createPod, type Pod, type PodOptions } from '../src/index.ts';
import { openCheckpoint } from '../src/model/checkpoint.ts';
import { resolveModel } from '../src/model/registry.ts';
import { HOST_CORE, kvBlockBytes } from '../src/simulate/roofline.ts';
import { type BareLoop, loadBareLoop } from './bare-loop.ts';
import { atLeast, atMost, digits, isAsked, isWhole, ROUNDS, resultsPath, takeTurns } from './fabric-report.ts';
import { median, printTable, writeResults } from './harness.ts';

const BLOCK = 16;
/** Blocks of a prompt: half of them shared by a family of prompts, the rest its own. */
const PROMPT_BLOCKS = 8;
const SHARED_BLOCKS = 4;
const FAMILY = 64;
/** Of prompts that are asked for again and again, in trees of all sizes: the smallest has little more. */
const HOT_FAMILIES = 3;
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

/** Those of a few families, spread over the tree: as many nodes in a large tree as in a small one. */
function hotOf(prompts: Prompts): Prompts {
  const families = Math.floor(prompts.length / FAMILY);
  return Array.from({ length: HOT_FAMILIES }, (_, index) => Math.floor((index * families) / HOT_FAMILIES) * FAMILY).flatMap((first) =>
    prompts.slice(first, first + FAMILY),
  );
}

/** What is left of a match without a cache: each token is read, and hashed. */
function hashOf(tokens: readonly number[]): number {
  let hash = 0;
  for (const token of tokens) hash = Math.imul(hash ^ token, 0x01000193);
  return hash;
}

type TreeRates = Readonly<Record<'match' | 'hash' | 'hot' | 'hot_hash' | 'insert' | 'evict', number>>;

function measure(nodes: number): TreeRates {
  const prompts = promptsOf(nodes, 0);
  const hotPrompts = hotOf(prompts);
  const fresh = promptsOf(nodes, 1).slice(0, Math.floor(OPERATIONS / PROMPT_BLOCKS));
  const cache = new RelationalTensorCache({
    blocks: nodes + OPERATIONS,
    block_size: BLOCK,
    dram_blocks: 0,
    swap_low: 0,
    swap_high: 0,
    swap_blocks_max: 0,
    kv_event_batches: 0,
  });
  for (const prompt of prompts) keep(cache, prompt);
  const inTurn = (of: Prompts, work: (prompt: readonly number[]) => void): number =>
    rate(OPERATIONS, (index) => work(of[(index * 7_919) % of.length] as readonly number[]));
  const matchOne = (prompt: readonly number[]): void => cache.free(cache.matchByPrefixToken('', prompt, prompt.length));
  let sum = 0;
  const hashOne = (prompt: readonly number[]): void => {
    sum = (sum + hashOf(prompt)) | 0;
  };
  const match = inTurn(prompts, matchOne);
  const hash = inTurn(prompts, hashOne);
  const hot = inTurn(hotPrompts, matchOne);
  const hot_hash = inTurn(hotPrompts, hashOne);
  if (sum === 0) throw new Error('prompts were not hashed');
  // By block: what a sequence publishes, and what an allocation takes from the longest unused.
  const before = cache.cached;
  const start = performance.now();
  for (const prompt of fresh) keep(cache, prompt);
  const insert = (cache.cached - before) / (performance.now() - start);
  const all = cache.matchByPrefixToken('', [], 0);
  cache.allocBlocks(all, cache.blocks - cache.cached);
  const evict = rate(Math.min(OPERATIONS, cache.cached), () => cache.allocBlocks(all, 1));
  return { match, hash, hot, hot_hash, insert, evict };
}

function measureTree(): unknown {
  const rows = [1_000, 10_000, 100_000].map((nodes) => {
    measure(nodes);
    const rounds = Array.from({ length: ROUNDS }, () => measure(nodes));
    const of = (what: keyof TreeRates): number => median(rounds.map((round) => round[what]));
    return {
      nodes,
      match_k_per_s: of('match'),
      hash_k_per_s: of('hash'),
      hot_match_k_per_s: of('hot'),
      hot_hash_k_per_s: of('hot_hash'),
      insert_k_per_s: of('insert'),
      evict_k_per_s: of('evict'),
      goal: GOAL_K,
    };
  });
  printTable(
    `The prefix cache: prompts of ${PROMPT_BLOCKS} blocks of ${BLOCK} tokens matched and let go, all in turn and ${HOT_FAMILIES * FAMILY} again and again, or hashed alone; blocks inserted, blocks given up; thousand a second, one core`,
    ['blocks in the tree', 'matches', 'goal', 'hashed', 'hot matches', 'goal', 'hashed', 'inserts', 'goal', 'evictions', 'goal'],
    rows.map(({ nodes, match_k_per_s, hash_k_per_s, hot_match_k_per_s, hot_hash_k_per_s, insert_k_per_s, evict_k_per_s, goal }) => [
      String(nodes),
      digits(match_k_per_s),
      atLeast(goal, match_k_per_s),
      digits(hash_k_per_s),
      digits(hot_match_k_per_s),
      atLeast(goal, hot_match_k_per_s),
      digits(hot_hash_k_per_s),
      digits(insert_k_per_s),
      atLeast(goal, insert_k_per_s),
      digits(evict_k_per_s),
      atLeast(goal, evict_k_per_s),
    ]),
  );
  return rows;
}

// ---------------------------------------------------------------- the first token of a prompt that is known but for its end

const PREFIX_TOKENS = 1_504;
const SUFFIXES = [1, 4, 16, 64] as const;
const WARM_ROUNDS = 12;
/** Before each request that is measured, whatever it finds: what came before is over then, cold blocks are copied, and the pod's threads sleep. */
const SETTLE_MS = 50;
/** Of a prompt that is the suffix alone, and so much more. */
const TTFT_GOAL = { times: 1.15, more_ms: 2 } as const;

/** To its end: the last step of one that is given up computes on, and the next request's first waits for it. */
async function firstToken_ms(pod: Pod, prompt: readonly number[], data_parallel_rank = 0): Promise<number> {
  const start = performance.now();
  let first_ms = Number.NaN;
  for await (const _ of pod.generate(prompt, { max_tokens: 2, temperature: 0, ignore_eos: true, data_parallel_rank }))
    if (Number.isNaN(first_ms)) first_ms = performance.now() - start;
  return first_ms;
}

const settle = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, SETTLE_MS));

async function restedFirstToken_ms(pod: Pod, prompt: readonly number[], data_parallel_rank = 0): Promise<number> {
  await settle();
  return firstToken_ms(pod, prompt, data_parallel_rank);
}

/** What the arithmetic of a suffix takes a bare kernel loop on this thread, which rested as the pod did: behind the prefix, whoever keeps that, and alone. */
type BareTurns = { readonly bareBehind: () => Promise<number>; readonly bareAlone: () => Promise<number> };

function bareTurns(loop: BareLoop, suffix: () => number[]): BareTurns {
  const step_ms = async (known: number): Promise<number> => {
    await settle();
    const tokens = suffix();
    const start = performance.now();
    loop.goOn(known, tokens);
    return performance.now() - start;
  };
  return { bareBehind: () => step_ms(PREFIX_TOKENS), bareAlone: () => step_ms(0) };
}

const prefixAttention_ms = (came: Readonly<Record<keyof BareTurns, number[]>>): number => median(came.bareBehind) - median(came.bareAlone);

/** One NPU attends to the whole prefix, or two of one DP group each with half of the heads, on a core of its own. */
const TENSOR_PARALLEL = { topology: 'colocated:dp=1,tp=2', workers: 2 } as const;

async function measureTtft(options: PodOptions = {}): Promise<unknown> {
  await using pod = await createPod(options);
  const loop = await loadBareLoop();
  let fresh = 3;
  // Never the same suffix twice, so that it is always computed.
  const suffix = (length: number): number[] => Array.from({ length }, (_, at) => 3 + ((fresh++ * 7 + at * 13) % 1_900));
  const prefix = Array.from({ length: PREFIX_TOKENS }, (_, at) => 3 + ((at * 31) % 1_900));
  const rows = [];
  for (const length of SUFFIXES) {
    await firstToken_ms(pod, [...prefix, ...suffix(length)]);
    const came = await takeTurns(
      {
        hot: () => restedFirstToken_ms(pod, [...prefix, ...suffix(length)]),
        alone: () => restedFirstToken_ms(pod, suffix(length)),
        cold: () => restedFirstToken_ms(pod, [...suffix(1), ...prefix.slice(1), ...suffix(length)]),
        ...bareTurns(loop, () => suffix(length)),
      },
      WARM_ROUNDS,
    );
    const [known_ms, alone_ms, unknown_ms] = [median(came.hot), median(came.alone), median(came.cold)];
    const goal_ms = TTFT_GOAL.times * alone_ms + TTFT_GOAL.more_ms;
    rows.push({ suffix: length, alone_ms, known_ms, unknown_ms, attention_ms: prefixAttention_ms(came), goal_ms });
  }
  printTable(
    `The first token of a prompt of ${PREFIX_TOKENS} tokens that are known and a suffix that is not${options.topology === undefined ? '' : `, ${options.topology}`}: ms`,
    ['suffix, tokens', 'the suffix alone', 'known', 'goal', 'later than alone', 'bare kernels', 'nothing known'],
    rows.map((row) => [
      String(row.suffix),
      digits(row.alone_ms),
      digits(row.known_ms),
      atMost(Number(row.goal_ms.toFixed(1)), row.known_ms),
      digits(row.known_ms - row.alone_ms),
      digits(row.attention_ms),
      digits(row.unknown_ms),
    ]),
  );
  return rows;
}

// ---------------------------------------------------------------- the same prefix in host DRAM

/** Room for the prompt at hand, and in DRAM for it and the one that drives it out. */
const DRAM_POD = { kv_blocks: 132, dram_blocks: 264 } as const;

/** A turn that gives the ms of `memory.copy` for as many blocks, one by one, scattered as a cache's are, on a thread that rested as the pod did. */
function copyTurn(blocks: number, block_bytes: number): () => Promise<number> {
  const memory = new WebAssembly.Memory({ initial: 1 + Math.ceil((4 * blocks * block_bytes) / 65_536), maximum: 65_536, shared: true });
  const { copy } = makeCopies(memory, memory);
  return async () => {
    await settle();
    const start = performance.now();
    for (let block = 0; block < blocks; block++) copy((2 * blocks + ((block * 37) % blocks)) * block_bytes, ((block * 53) % blocks) * block_bytes, block_bytes);
    return performance.now() - start;
  };
}

async function measureDram(): Promise<unknown> {
  await using pod = await createPod(DRAM_POD);
  const loop = await loadBareLoop();
  let fresh = 3;
  const suffix = (length: number): number[] => Array.from({ length }, (_, at) => 3 + ((fresh++ * 7 + at * 13) % 1_900));
  const prefix = Array.from({ length: PREFIX_TOKENS }, (_, at) => 3 + ((at * 31) % 1_900));
  const swappedIn = async (): Promise<number> => (await pod.stats()).npus[0]?.blocks_swapped_in ?? 0;
  const dram = (await pod.stats()).memory.regions.find(({ kind }) => kind === 'dram');
  const blocks = PREFIX_TOKENS / BLOCK;
  const copy = copyTurn(blocks, (dram?.bytes ?? 0) / DRAM_POD.dram_blocks);
  const rows = [];
  for (const length of SUFFIXES) {
    await firstToken_ms(pod, [...prefix, ...suffix(length)]);
    let brought = 0;
    let rounds = 0;
    const came = await takeTurns(
      {
        dram: async () => {
          await firstToken_ms(pod, [...suffix(1), ...prefix.slice(1), ...suffix(length)]);
          await settle();
          const before = await swappedIn();
          const took = await restedFirstToken_ms(pod, [...prefix, ...suffix(length)]);
          brought += (await swappedIn()) - before;
          rounds++;
          return took;
        },
        alone: () => restedFirstToken_ms(pod, suffix(length)),
        copy,
        ...bareTurns(loop, () => suffix(length)),
      },
      WARM_ROUNDS,
    );
    const blocks_brought = brought / rounds;
    const [dram_ms, alone_ms, copy_ms] = [median(came.dram), median(came.alone), (median(came.copy) * blocks_brought) / blocks];
    const goal_ms = TTFT_GOAL.times * alone_ms + TTFT_GOAL.more_ms + 2 * copy_ms;
    rows.push({ suffix: length, alone_ms, dram_ms, copy_ms, attention_ms: prefixAttention_ms(came), goal_ms, blocks_brought });
  }
  printTable(
    `The same where the prefix is in host DRAM (${blocks} blocks): ms`,
    ['suffix, tokens', 'the suffix alone', 'from DRAM', 'goal', 'later than alone', 'bare kernels', 'blocks brought', 'by memory.copy'],
    rows.map((row) => [
      String(row.suffix),
      digits(row.alone_ms),
      digits(row.dram_ms),
      atMost(Number(row.goal_ms.toFixed(1)), row.dram_ms),
      digits(row.dram_ms - row.alone_ms),
      digits(row.attention_ms),
      digits(row.blocks_brought),
      digits(row.copy_ms),
    ]),
  );
  return rows;
}

// ---------------------------------------------------------------- the same prefix at another task executor

const REMOTE_POD = { topology: 'mixed:colocated=2xdp1', workers: 2, prefix_sharing: true } as const;

async function measureRemote(): Promise<unknown> {
  await using pod = await createPod(REMOTE_POD);
  const loop = await loadBareLoop();
  let fresh = 3;
  const suffix = (length: number): number[] => Array.from({ length }, (_, at) => 3 + ((fresh++ * 7 + at * 13) % 1_900));
  // Another prefix each time: once fetched, it is here.
  const prefix = (): number[] => [...suffix(8), ...Array.from({ length: PREFIX_TOKENS - 8 }, (_, at) => 3 + ((at * 31) % 1_900))];
  const fetched = async (): Promise<number> => (await pod.stats()).npus[1]?.blocks_populated ?? 0;
  using checkpoint = openCheckpoint(resolveModel(pod.model.name));
  const blocks = PREFIX_TOKENS / BLOCK;
  const copy = copyTurn(blocks, kvBlockBytes(checkpoint.config, BLOCK, HOST_CORE, {}));
  const rows = [];
  for (const length of SUFFIXES) {
    const before = await fetched();
    let rounds = 0;
    const came = await takeTurns(
      {
        remote: async () => {
          const known = prefix();
          await firstToken_ms(pod, [...known, ...suffix(length)], 0);
          rounds++;
          return restedFirstToken_ms(pod, [...known, ...suffix(length)], 1);
        },
        alone: () => restedFirstToken_ms(pod, suffix(length), 1),
        cold: () => restedFirstToken_ms(pod, [...prefix(), ...suffix(length)], 1),
        copy,
        ...bareTurns(loop, () => suffix(length)),
      },
      WARM_ROUNDS,
    );
    const [remote_ms, alone_ms, unknown_ms, copy_ms] = [median(came.remote), median(came.alone), median(came.cold), median(came.copy)];
    const goal_ms = TTFT_GOAL.times * alone_ms + TTFT_GOAL.more_ms + 2 * copy_ms;
    const attention_ms = prefixAttention_ms(came);
    rows.push({ suffix: length, alone_ms, remote_ms, unknown_ms, copy_ms, attention_ms, goal_ms, blocks_fetched: ((await fetched()) - before) / rounds });
  }
  printTable(
    `The same where the prefix is at another task executor (${blocks} blocks): ms`,
    ['suffix, tokens', 'the suffix alone', 'fetched', 'goal', 'later than alone', 'bare kernels', 'nothing known', 'blocks fetched', 'by memory.copy'],
    rows.map((row) => [
      String(row.suffix),
      digits(row.alone_ms),
      digits(row.remote_ms),
      atMost(Number(row.goal_ms.toFixed(1)), row.remote_ms),
      digits(row.remote_ms - row.alone_ms),
      digits(row.attention_ms),
      digits(row.unknown_ms),
      digits(row.blocks_fetched),
      digits(row.copy_ms),
    ]),
  );
  return rows;
}

const PARTS: Readonly<Record<string, () => unknown>> = {
  ttft: () => measureTtft(),
  tp: () => measureTtft(TENSOR_PARALLEL),
  dram: measureDram,
  remote: measureRemote,
  tree: measureTree,
};

const results: Record<string, unknown> = {};
for (const [part, run] of Object.entries(PARTS)) if (isAsked(part)) results[part] = await run();
if (isWhole) writeResults(resultsPath('prefix-cache'), results);
