/**
 * What streams feel of a pod that changes its shape: 4 → 2 → 4 → 2 DP groups with attention, or expert NPUs, under 16 streams, against the same pod left as it is. Rounds
 * take turns, so that a noisy machine disturbs both alike. Tokens must be the same, and nobody may fail.
 * @module
 */
import { createPod, type Pod, type PodOptions } from '../src/index.ts';
import { machine, median, printTable, writeResults } from './harness.ts';
import { promptOf } from './prompts.ts';

const STREAMS = 16;
const TOKENS = Number(process.env['BENCH_TOKENS'] ?? 192);
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 5);
/** Until V8 has optimised the pod's JavaScript (bench/pod.ts). */
const WARM_MS = Number(process.env['BENCH_WARM_MS'] ?? 6_000);
const GOAL_MS = 100;
const [FEW, MANY] = [2, 4];

const COMMON = { workers: 2, load_balancing: 'round_robin' } as const;
const APART = { ...COMMON, topology: 'moe-attention:domains=1x2,experts=2', scale_max: { attention: 4, experts: 4 } } as const;
type Row = { readonly options: PodOptions; readonly what: 'attention' | 'experts' };
const ROWS: readonly Row[] = [
  { options: { ...COMMON, topology: 'colocated:dp=2', scale_max: { attention: 4 } }, what: 'attention' },
  { options: APART, what: 'attention' },
  { options: APART, what: 'experts' },
];

type Served = { readonly stall_ms: number; readonly tokens: string };

/** The longest that any stream waited between two of its tokens. `onToken`: called with how many have come of all. */
async function serve(pod: Pod, onToken: (count: number) => void = () => {}): Promise<Served> {
  let [stall_ms, count] = [0, 0];
  const streams = Array.from({ length: STREAMS }, async (_, index) => {
    const ids: number[] = [];
    let last_ms = Number.NaN;
    for await (const { token_ids } of pod.generate(promptOf(index), { max_tokens: TOKENS, temperature: 0, ignore_eos: true })) {
      const now_ms = performance.now();
      if (ids.length > 0) stall_ms = Math.max(stall_ms, now_ms - last_ms);
      last_ms = now_ms;
      ids.push(...token_ids);
      count += token_ids.length;
      onToken(count);
    }
    return ids;
  });
  const tokens = JSON.stringify(await Promise.all(streams));
  return { stall_ms, tokens };
}

/** Many serve at first, so that streams run on all of them, few from a quarter of all tokens on, many from half of them, few from three quarters. */
async function serveScaled(pod: Pod, what: Row['what']): Promise<Served & { readonly changes_ms: readonly number[]; readonly moved: number }> {
  const before = await pulled(pod);
  const quarter = (STREAMS * TOKENS) / 4;
  const asked: Promise<number>[] = [];
  const scaleTo = async (count: number): Promise<number> => (await pod.scale({ [what]: count })).duration_ms;
  const first = await scaleTo(MANY);
  const served = await serve(pod, (count) => {
    if (asked.length === 3 || count < quarter * (asked.length + 1)) return;
    const next = asked.length % 2 === 0 ? FEW : MANY;
    asked.push(asked.at(-1)?.then(() => scaleTo(next)) ?? scaleTo(next));
  });
  const changes_ms = [first, ...(await Promise.all(asked))];
  return { ...served, changes_ms, moved: (await pulled(pod)) - before };
}

/** Sequences that went on elsewhere with their KV. */
const pulled = async (pod: Pod): Promise<number> => (await pod.stats()).kv_links.reduce((sum, { done }) => sum + done, 0);

const rows: { pod: string; still_ms: number; scaled_ms: number; worst_ms: number; longest_change_ms: number; moved: number }[] = [];
for (const { options, what } of ROWS) {
  await using pod = await createPod(options);
  const name = `${options.topology}, ${what}`;
  for (const warm = performance.now(); performance.now() - warm < WARM_MS; ) await serve(pod);
  const rounds: { still: Served; scaled: Awaited<ReturnType<typeof serveScaled>> }[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const [still, scaled] = [await serve(pod), await serveScaled(pod, what)];
    if (still.tokens !== scaled.tokens) throw new Error(`${name}: other tokens where its shape changes`);
    rounds.push({ still, scaled });
  }
  const { requests_finished } = await pod.stats();
  if ((requests_finished['failed'] ?? 0) > 0) throw new Error(`${name}: ${requests_finished['failed']} requests failed`);
  rows.push({
    pod: name,
    still_ms: median(rounds.map(({ still }) => still.stall_ms)),
    scaled_ms: median(rounds.map(({ scaled }) => scaled.stall_ms)),
    worst_ms: Math.max(...rounds.map(({ scaled }) => scaled.stall_ms)),
    longest_change_ms: Math.max(...rounds.flatMap(({ scaled }) => scaled.changes_ms)),
    moved: rounds.reduce((sum, { scaled }) => sum + scaled.moved, 0),
  });
}

printTable(
  `Longest wait of a stream between two tokens, ms: ${STREAMS} streams of ${TOKENS} tokens while ${MANY} → ${FEW} → ${MANY} → ${FEW} of them serve (${ROUNDS} rounds; ${machine()['cpu']}, ${machine()['cores']} cores)`,
  ['pod, what changes', 'unchanged, median', 'changing, median', 'changing, worst', 'goal', 'longest change', 'moved with KV'],
  rows.map(({ pod, still_ms, scaled_ms, worst_ms, longest_change_ms, moved }) => [
    pod,
    ...[still_ms, scaled_ms, worst_ms].map((ms) => ms.toFixed(1)),
    String(GOAL_MS),
    longest_change_ms.toFixed(1),
    String(moved),
  ]),
);
writeResults('bench/results/scale.json', rows);
