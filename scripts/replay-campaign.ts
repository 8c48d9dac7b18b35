/**
 * Records runs of every sort and replays each of them, here and on the other runtime; and runs virtual seeds twice on both, which must give one hash each.
 * A seed says what is done in a run, so a live run that fails is tried again by its seed; its trace is kept. Exits with 1 if anything differs.
 *
 * @example
 * node scripts/replay-campaign.ts --runs 200 --seed 1
 * node scripts/replay-campaign.ts --runs 1 --seed 1017 --only live
 * @module
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createPod, type GenerateOptions, type Pod, type PodOptions } from '../src/index.ts';
import { KernelRecomputation } from '../src/trace/recompute.ts';
import { replayTrace } from '../src/trace/replay-trace.ts';
import { parseRunHeader } from '../src/trace/run-header.ts';
import { TraceReader } from '../src/trace/trace-reader.ts';
import { openRig } from '../test/system/rig.ts';
import { draws } from '../test/trace/files.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const SCRIPT = 'scripts/replay-campaign.ts';
const IS_DENO = 'Deno' in globalThis;
const HERE = IS_DENO ? 'Deno' : 'Node';
const THERE = IS_DENO ? 'Node' : 'Deno';
const BIN = join(ROOT, 'node_modules/.bin');
const OTHER = IS_DENO ? [join(BIN, 'node')] : [join(BIN, 'deno'), 'run', '-A', '--node-modules-dir=manual'];

// ── What a seed means ───────────────────────────────────────────────────────────────────────────────────────────────

type Call = { readonly prompt: readonly number[]; readonly options: GenerateOptions; readonly abort_after: number | null; readonly start_ms: number };
type Fault = { readonly kind: 'kill' | 'trap'; readonly at_ms: number; readonly index: number };
type Plan = { readonly pod: PodOptions; readonly calls: readonly Call[]; readonly faults: readonly Fault[] };

function planOf(seed: number): Plan {
  const below = draws(seed);
  const oneIn = (chances: number): boolean => below(chances) === 0;
  const npus = 1 + below(6);
  const workers = 1 + below(Math.min(3, npus));
  const isTight = oneIn(3);
  const pod: PodOptions = {
    npus,
    workers,
    max_batch_tokens: [16, 64, 256][below(3)] ?? 256,
    max_batch_requests: [2, 8, 64][below(3)] ?? 64,
    // Few: sequences are preempted, and some ask for more than there is.
    ...(isTight && { kv_blocks: 3 + below(6) }),
    ...(oneIn(4) && { max_queued: 4 + below(16) }),
    ...(oneIn(4) && { prefix_caching: false }),
  };
  const calls = Array.from({ length: 1 + below(32) }, () => callOf(below, isTight));
  const count = oneIn(5) ? 1 + below(2) : 0;
  const faults = Array.from({ length: count }, (): Fault => {
    const kind = oneIn(2) ? 'kill' : 'trap';
    return { kind, at_ms: 10 + below(120), index: below(kind === 'kill' ? workers : npus) };
  });
  return { pod, calls, faults };
}

function callOf(below: (limit: number) => number, isTight: boolean): Call {
  const own = Array.from({ length: below(12) === 0 ? 600 : 1 + below(isTight ? 40 : 90) }, () => 3 + below(1_500));
  // Some begin alike, so that what one has computed is used for another.
  const stem = below(2) === 0 ? Array.from({ length: 16 * (1 + below(2)) }, (_, at) => 3 + at) : [];
  const prompt = [...stem, ...own];
  const options: GenerateOptions = {
    max_tokens: 1 + below(40),
    n: below(4) === 0 ? 1 + below(4) : 1,
    seed: below(1_000),
    temperature: below(3) === 0 ? 0 : 1,
    stop: below(4) === 0 ? ['e', 'th'].slice(below(2)) : [],
    ignore_eos: below(2) === 0,
    ...(below(5) === 0 && { logprobs: below(3), prompt_logprobs: below(3) }),
  };
  return { prompt, options, abort_after: below(5) === 0 ? below(12) : null, start_ms: below(3) === 0 ? below(80) : 0 };
}

/** What a hash model has none of. */
function withoutLogprobs({ prompt, options, ...call }: Call): Call {
  const { logprobs: _l, prompt_logprobs: _p, ...others } = options;
  return { ...call, prompt, options: others };
}

// ── Runs ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const REFUSALS = new Set(['cancelled', 'worker_failed', 'out_of_memory', 'overloaded', 'context_length_exceeded', 'not_finite']);
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function make(pod: Pod, { prompt, options, abort_after, start_ms }: Call, isLive: boolean): Promise<void> {
  // Time of a virtual pod does not wait for this one's.
  if (isLive && start_ms > 0) await sleep(start_ms);
  const abort = new AbortController();
  let chunks = 0;
  if (abort_after === 0) abort.abort();
  try {
    for await (const _chunk of pod.generate(prompt, { ...options, signal: abort.signal })) if (++chunks === abort_after) abort.abort();
  } catch (error) {
    if (!REFUSALS.has((error as { code: string }).code)) throw error;
  }
}

async function recordLive(seed: number, path: string): Promise<string> {
  const { pod: options, calls, faults } = planOf(seed);
  if (faults.length === 0) {
    await using pod = await createPod({ ...options, record: path });
    await Promise.all(calls.map((call) => make(pod, call, true)));
  } else {
    await using rig = await openRig({ ...options, record: path });
    const breaking = faults.map(async ({ kind, at_ms, index }) => {
      await sleep(at_ms);
      if (kind === 'kill') rig.killWorker(index);
      else rig.poisonBlockTables(index);
    });
    await Promise.all([...breaking, ...calls.map((call) => make(rig.pod, call, true))]);
  }
  const said = Object.entries(options).map(([name, value]) => `${name} ${value}`);
  return [`${calls.length} calls`, ...said, ...faults.map(({ kind, index, at_ms }) => `${kind} ${index} after ${at_ms} ms`)].join(', ');
}

/** The hash of the trace. */
async function recordVirtual(seed: number, path: string): Promise<string> {
  const { pod: options, calls } = planOf(seed);
  const kernels = seed % 4 === 0 ? 'real' : 'hash';
  {
    await using pod = await createPod({ ...options, clock: 'virtual', kernels, seed, record: path });
    await Promise.all(calls.map((call) => make(pod, kernels === 'hash' ? withoutLogprobs(call) : call, false)));
  }
  using reader = TraceReader.open(path);
  return reader.totals?.hash ?? 'none';
}

/** What differs; null: nothing. */
async function replay(path: string): Promise<{ readonly difference: string | null; readonly acts: number; readonly launches: number }> {
  using reader = TraceReader.open(path);
  const header = parseRunHeader(reader.header, path);
  const report = await replayTrace(reader, header, { recompute: await KernelRecomputation.create(header, undefined) });
  const { outcome, divergence, damage, acts } = report;
  const what = divergence && `step ${divergence.record}, ${divergence.actor} on ${divergence.message?.type}: ${divergence.difference}`;
  return { difference: outcome === 'reproduced' ? null : (what ?? damage?.message ?? outcome), acts, launches: report.launches ?? 0 };
}

// ── The other runtime: it reads a line, and answers with one ────────────────────────────────────────────────────────

type Order = { readonly replay: string } | { readonly record: string; readonly seed: number };

const carryOut = async (order: Order): Promise<string | null> =>
  'replay' in order ? (await replay(order.replay)).difference : recordVirtual(order.seed, order.record);

async function serveOrders(): Promise<void> {
  for await (const line of createInterface({ input: process.stdin })) {
    const answer = await carryOut(JSON.parse(line) as Order).catch((error: Error) => `failed: ${error.stack}`);
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
}

class OtherRuntime implements Disposable {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor() {
    const [command = '', ...args] = OTHER;
    this.#process = spawn(command, [...args, SCRIPT, '--orders'], { cwd: ROOT, stdio: ['pipe', 'pipe', 'inherit'] });
    if (this.#process.stdout === null) throw new Error('no pipe');
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  async ask(order: Order): Promise<string | null> {
    this.#process.stdin?.write(`${JSON.stringify(order)}\n`);
    const { done, value } = await this.#lines.next();
    if (done) throw new Error(`${THERE} has ended before it answered ${JSON.stringify(order)}`);
    return JSON.parse(value) as string | null;
  }

  [Symbol.dispose](): void {
    this.#process.stdin?.end();
  }
}

// ── The campaign ────────────────────────────────────────────────────────────────────────────────────────────────────

type Sum = { runs: number; failures: number; acts: number; launches: number };
const grouped = (count: number): string => String(count).replace(/\B(?=(\d{3})+$)/g, ',');

function report(sum: Sum, kind: 'live' | 'virtual', seed: number, differences: readonly string[], path: string, text: string): void {
  sum.runs++;
  console.log(`${differences.length === 0 ? 'same  ' : 'DIFFER'} ${kind.padEnd(7)} seed ${seed}: ${text}`);
  if (differences.length === 0) {
    rmSync(path, { force: true });
    return;
  }
  sum.failures++;
  for (const difference of differences) console.log(`       ${difference}`);
  console.log(`       kept: ${path}\n       again: node ${SCRIPT} --runs 1 --seed ${seed} --only ${kind}`);
}

async function liveRun(seed: number, folder: string, other: OtherRuntime, sum: Sum): Promise<void> {
  const path = join(folder, `live-${seed}.trace`);
  const text = await recordLive(seed, path);
  const [here, there] = await Promise.all([replay(path), other.ask({ replay: path })]);
  sum.acts += here.acts;
  sum.launches += here.launches;
  const differences = [...(here.difference === null ? [] : [`${HERE}: ${here.difference}`]), ...(there === null ? [] : [`${THERE}: ${there}`])];
  report(sum, 'live', seed, differences, path, `${grouped(here.acts)} acts, ${text}`);
}

async function virtualRun(seed: number, folder: string, other: OtherRuntime, sum: Sum): Promise<void> {
  const paths = ['here', 'again', 'there', 'there-again'].map((name) => join(folder, `virtual-${seed}-${name}.trace`));
  const [a = '', b = '', c = '', d = ''] = paths;
  const here = async (): Promise<string[]> => [await recordVirtual(seed, a), await recordVirtual(seed, b)];
  const there = async (): Promise<(string | null)[]> => [await other.ask({ record: c, seed }), await other.ask({ record: d, seed })];
  const hashes = (await Promise.all([here(), there()])).flat();
  const isOne = new Set(hashes).size === 1;
  const differences = isOne ? [] : [`hashes on ${HERE}, ${HERE}, ${THERE}, ${THERE}: ${hashes.join(' ')}; compare with minipod trace diff ${a} ${c}`];
  if (isOne) for (const path of paths) rmSync(path, { force: true });
  report(sum, 'virtual', seed, differences, a, `${hashes[0]?.slice(0, 16)}, twice on ${HERE} and ${THERE}`);
}

async function campaign(runs: number, seed: number, only: string | undefined): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'minipod-campaign-'));
  using other = new OtherRuntime();
  const began_ms = performance.now();
  console.log(`${runs} runs from seed ${seed}, recorded on ${HERE}, replayed on ${HERE} and ${THERE}; traces in ${folder}`);
  const live: Sum = { runs: 0, failures: 0, acts: 0, launches: 0 };
  const virtual: Sum = { runs: 0, failures: 0, acts: 0, launches: 0 };
  const attempt = async (kind: 'live' | 'virtual', run: number, sum: Sum): Promise<void> => {
    const perform = kind === 'live' ? liveRun : virtualRun;
    const failed = (error: Error): void => report(sum, kind, run, [`${error.stack}`], folder, 'the run itself failed');
    await perform(run, folder, other, sum).catch(failed);
  };
  for (let run = 0; run < runs && only !== 'virtual'; run++) await attempt('live', seed + run, live);
  for (let run = 0; run < runs && only !== 'live'; run++) await attempt('virtual', seed + run, virtual);
  const seconds = Math.round((performance.now() - began_ms) / 1000);
  console.log(`live: ${live.runs} runs of ${grouped(live.acts)} acts and ${grouped(live.launches)} launches computed again: ${live.failures} differ`);
  console.log(`virtual: ${virtual.runs} seeds, each run four times: ${virtual.failures} differ; ${seconds} s in all`);
  const failures = live.failures + virtual.failures;
  if (failures === 0) rmSync(folder, { recursive: true, force: true });
  return failures === 0 ? 0 : 1;
}

const { values } = parseArgs({
  options: { runs: { type: 'string', default: '200' }, seed: { type: 'string', default: '1' }, only: { type: 'string' }, orders: { type: 'boolean' } },
});
if (values.orders) await serveOrders();
else process.exitCode = await campaign(Number(values.runs), Number(values.seed), values.only);
