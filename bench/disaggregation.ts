/**
 * Prefill and decode on executors of their own against the two together, on the same two workers: tokens a second, who wins by length of prompt and output
 * (DeepServe §3.3), and how steady the stream is while others' prompts are computed.
 *
 * @example
 * BENCH_ONLY=gaps node bench/disaggregation.ts          # throughput, map or gaps alone
 * @module
 */
import { createPod, type Pod, type PodOptions } from '../src/index.ts';
import {
  arrivalsOf,
  completion,
  firstToken,
  gapsBesidePrefill,
  mean,
  play,
  quantile,
  type Served,
  type Shape,
  shapesOf,
  span_s,
  TRACES,
} from './disaggregation-load.ts';
import { atMost, digits, isAsked, isWhole, resultsPath } from './fabric-report.ts';
import { median, printTable, writeResults } from './harness.ts';

const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 3);
/** Of a trace, a round. */
const REQUESTS = Number(process.env['BENCH_REQUESTS'] ?? 80);
/** As in pod.ts: V8 compiles on the same cores for about ten seconds. */
const WARM_MS = Number(process.env['BENCH_WARM_MS'] ?? 12_000);
const GOAL = 0.7;

const COLOCATED: PodOptions = { topology: 'colocated:dp=2', workers: 2 };
const APART: PodOptions = { topology: 'pd:prefill=1,decode=1', workers: 2 };
const BY_LAYER: PodOptions = { ...APART, kv_transfer: 'layer' };
const CHUNKS = [16, 32, 64, 128, 256];
const PROMPTS = [32, 128, 512, 1_536];
const OUTPUTS = [4, 16, 64, 256];
/** Of what the colocated pod can serve of the cell's requests. */
const LOADS = [0.4, 0.8];
/** How long the requests of a cell arrive at each load. */
const CELL_MS = Number(process.env['BENCH_CELL_MS'] ?? 2_000);
const CELL_REQUESTS_MAX = 64;
/** Of what the slower of the two can serve. */
const STEADY_LOAD = 0.5;

const evenly = (count: number, prompt: number, output: number): Shape[] => Array.from({ length: count }, (_, at) => ({ at, prompt, output }));
const tokensOf = (served: readonly Served[]): number => served.reduce((sum, { tokens }) => sum + tokens.length, 0);
const contextOf = (pod: Pod): number => pod.model.context_length;

async function warmed(options: PodOptions): Promise<Pod> {
  const pod = await createPod(options);
  for (const end = performance.now() + WARM_MS; performance.now() < end; ) await play(pod, arrivalsOf(evenly(8, 100, 24), 0));
  return pod;
}

type Rates = { readonly tokens_per_s: number; readonly requests_per_s: number };
/** Of all requests at once. */
async function saturated(pod: Pod, shapes: readonly Shape[]): Promise<Rates> {
  const served = await play(pod, arrivalsOf(shapes, 0));
  return { tokens_per_s: tokensOf(served) / span_s(served), requests_per_s: served.length / span_s(served) };
}

async function throughput(together: Pod, apart: Pod): Promise<object[]> {
  const rows: { trace: string; together: number; apart: number; requests: number; ratio: number }[] = [];
  for (const trace of TRACES) {
    const shapes = shapesOf(trace, REQUESTS, contextOf(together));
    const pairs: [Rates, Rates][] = [];
    for (let round = 0; round < ROUNDS; round++) pairs.push([await saturated(together, shapes), await saturated(apart, shapes)]);
    rows.push({
      trace,
      together: median(pairs.map(([one]) => one.tokens_per_s)),
      apart: median(pairs.map(([, other]) => other.tokens_per_s)),
      requests: median(pairs.map(([, other]) => other.requests_per_s)),
      ratio: median(pairs.map(([one, other]) => other.tokens_per_s / one.tokens_per_s)),
    });
  }
  printTable(
    `Throughput: ${REQUESTS} requests of a trace at once (medians of ${ROUNDS} paired rounds)`,
    ['trace, scaled', 'colocated dp=2, tokens/s', 'pd 1 + 1, tokens/s', 'requests/s', 'pd / colocated'],
    rows.map((row) => [row.trace, digits(row.together), digits(row.apart), digits(row.requests), digits(row.ratio)]),
  );
  return rows;
}

type Cell = { readonly prompt: number; readonly output: number; readonly gains: readonly number[] };

async function cellOf(together: Pod, apart: Pod, prompt: number, output: number): Promise<Cell> {
  const { requests_per_s } = await saturated(together, evenly(8, prompt, output));
  const gains: number[] = [];
  for (const load of LOADS) {
    const rate = load * requests_per_s;
    const shapes = evenly(Math.min(CELL_REQUESTS_MAX, Math.max(6, Math.round((rate * CELL_MS) / 1_000))), prompt, output);
    const [colocated, disaggregated] = await inTurn([together, apart], async (pod) => mean((await play(pod, arrivalsOf(shapes, rate))).map(completion)));
    gains.push((colocated as number) / (disaggregated as number) - 1);
  }
  return { prompt, output, gains };
}

/** Cells as the paper has them: JCT colocated / JCT disaggregated − 1, above 0 where disaggregated wins, and their sum over the loads. */
async function heatMap(together: Pod, apart: Pod): Promise<Cell[]> {
  const cells: Cell[] = [];
  for (const prompt of PROMPTS) for (const output of OUTPUTS) cells.push(await cellOf(together, apart, prompt, output));
  const text = ({ gains }: Cell): string => `${signed(gains.reduce((sum, gain) => sum + gain, 0))} (${gains.map(signed).join(', ')})`;
  printTable(
    `Who wins: JCT colocated / JCT pd − 1, summed over loads of ${LOADS.join(' and ')} of what colocated serves (each load in brackets); above 0: pd`,
    ['prompt \\ output', ...OUTPUTS.map(String)],
    PROMPTS.map((prompt) => [String(prompt), ...cells.filter((cell) => cell.prompt === prompt).map(text)]),
  );
  const stable = cells.filter(({ gains }) => gains.every((gain) => gain > 0) || gains.every((gain) => gain < 0)).length;
  console.log(`${stable} of ${cells.length} cells have one sign at all loads (the paper: over 80 %).`);
  return cells;
}

const signed = (value: number): string => `${value >= 0 ? '+' : '−'}${Math.abs(value).toFixed(2)}`;

type Steadiness = {
  readonly pod: string;
  readonly gaps: number;
  readonly gap_p50: number;
  readonly gap_p99: number;
  readonly ttft_p99: number;
  readonly tokens_per_s: number;
};

function steadiness(pod: string, runs: readonly (readonly Served[])[]): Steadiness {
  const gaps = runs.flatMap(gapsBesidePrefill);
  return {
    ...{ pod, gaps: gaps.length, gap_p50: quantile(gaps, 0.5), gap_p99: quantile(gaps, 0.99) },
    ttft_p99: quantile(runs.flat().map(firstToken), 0.99),
    tokens_per_s: runs.reduce((sum, run) => sum + tokensOf(run), 0) / runs.reduce((sum, run) => sum + span_s(run), 0),
  };
}

const steadiest = (rows: readonly Steadiness[]): Steadiness => rows.reduce((least, row) => (row.gap_p99 < least.gap_p99 ? row : least));

/** All serve the same arrivals in turn; the colocated pod with each size of chunks, the other with both ways of moving KV. */
async function gaps(apart: Pod): Promise<object[]> {
  const chunked = await Promise.all(
    CHUNKS.map(async (max_batch_tokens) => ({ name: `colocated, chunks of ${max_batch_tokens}`, pod: await createPod({ ...COLOCATED, max_batch_tokens }) })),
  );
  const byLayer = { name: 'pd 1 + 1, KV by layer', pod: await createPod(BY_LAYER) };
  const all = [...chunked, { name: 'pd 1 + 1, KV by request', pod: apart }, byLayer];
  for (const { pod } of [...chunked, byLayer])
    for (const end = performance.now() + WARM_MS / 2; performance.now() < end; ) await play(pod, arrivalsOf(evenly(8, 100, 24), 0));
  const results: object[] = [];
  for (const trace of TRACES) {
    const shapes = shapesOf(trace, REQUESTS, contextOf(apart));
    const slowest = Math.min(...(await inTurn([apart, chunked.at(-1)?.pod ?? apart], async (pod) => (await saturated(pod, shapes)).requests_per_s)));
    const rate = STEADY_LOAD * slowest;
    const runs = all.map((): Served[][] => []);
    for (let round = 0; round < ROUNDS; round++) for (const [index, { pod }] of all.entries()) runs[index]?.push(await play(pod, arrivalsOf(shapes, rate)));
    const rows = all.map(({ name }, index) => steadiness(name, runs[index] as Served[][]));
    const best = steadiest(rows.slice(0, chunked.length));
    const steadier = steadiest(rows.slice(chunked.length));
    printTable(
      `${trace} at ${digits(rate)} requests/s, ${ROUNDS} rounds of ${shapes.length}: gaps between tokens that overlap the prefill of another request, ms`,
      ['pod', 'gaps', 'p50', 'p99', 'TTFT p99', 'tokens/s', 'p99 / best colocated', 'goal'],
      rows.map((row, index) => [
        ...[row.pod, String(row.gaps), digits(row.gap_p50), digits(row.gap_p99), digits(row.ttft_p99), digits(row.tokens_per_s)],
        ...(row === best ? ['best', ''] : index < chunked.length ? ['', ''] : [digits(row.gap_p99 / best.gap_p99), atMost(GOAL, row.gap_p99 / best.gap_p99)]),
      ]),
    );
    results.push({ trace, rate, best: best.pod, steadier: steadier.pod, ratio: steadier.gap_p99 / best.gap_p99, goal: GOAL, rows });
  }
  for (const { pod } of [...chunked, byLayer]) await pod.close();
  return results;
}

async function inTurn<Item, Value>(items: readonly Item[], use: (item: Item) => Promise<Value>): Promise<Value[]> {
  const values: Value[] = [];
  for (const item of items) values.push(await use(item));
  return values;
}

await using together = await warmed(COLOCATED);
await using apart = await warmed(APART);
const results = {
  ...(isAsked('throughput') && { throughput: await throughput(together, apart) }),
  ...(isAsked('map') && { map: await heatMap(together, apart) }),
  ...(isAsked('gaps') && { gaps: await gaps(apart) }),
};
if (isWhole) writeResults(resultsPath('disaggregation'), results);
