/**
 * Threads that are not to run: how soon one leaves a matrix when it is told to stop, and what a pod costs that has nothing to do.
 * @module
 */
import { setTimeout } from 'node:timers/promises';
import { createPod, type Pod } from '../src/index.ts';
import { instantiateKernels, type Kernels, loadKernelModule, packedBytes } from '../src/model/kernels/kernels.ts';
import { type Duo, HEAP_AT, HERE, type Side, THERE } from './fabric-duo.ts';
import { atMost, digits, ROUNDS } from './fabric-report.ts';
import { median, printTable } from './harness.ts';

const STOP_GOAL_MS = 50;
/** Into the matrix, far from its beginning. */
const WORKED_MS = 30;
const LOOK_MS = 0.05;
/** Rows that all lie at one place: hours of work in little memory. */
const ROWS = 2 ** 30;
const [IN_DIM, OUT_DIM] = [8192, 64];
const WORK = ['one row after the other by F32 weights', 'many rows by F32 weights', 'many rows by BF16 weights'] as const;

function compute(kernels: Kernels, memory: WebAssembly.Memory, work: number): void {
  const x = HEAP_AT;
  const y = x + IN_DIM * 4;
  const w = y + OUT_DIM * 4;
  if (w + packedBytes(OUT_DIM, IN_DIM, 'f32') > memory.buffer.byteLength) throw new RangeError('the matrix outgrows the memory');
  if (work === 0) kernels.matmulHeadsF32(y, 0, 0, x, 0, 0, 1, ROWS, w, 0, IN_DIM, OUT_DIM);
  else (work === 1 ? kernels.matmulF32 : kernels.matmulBf16)(y, 0, x, 0, ROWS, w, IN_DIM, OUT_DIM);
}

/** The other half: computes until it is stopped, as a worker does. */
export async function computeUntilStopped(side: Side, work: number): Promise<void> {
  const kernels = instantiateKernels(await loadKernelModule(), side.memory);
  kernels.setStopWord(side.control.stopWordOffset(THERE));
  side.meet();
  try {
    compute(kernels, side.memory, work);
  } catch (error) {
    if (!(error instanceof WebAssembly.RuntimeError && side.control.isStopped(THERE))) throw error;
  }
  side.control.acknowledgeStop(THERE);
  side.meet();
}

async function stop_ms(duo: Duo, work: number): Promise<number> {
  const computing = duo.there('computeUntilStopped', work);
  duo.meet();
  await setTimeout(WORKED_MS);
  const start = performance.now();
  duo.control.stop(THERE);
  // Asleep: a thread that spins here would take the core from the one that is to stop.
  while (!duo.control.hasAcknowledged(THERE)) {
    duo.control.nap(HERE, LOOK_MS);
    duo.mustGoOn();
  }
  const took_ms = performance.now() - start;
  duo.meet();
  await computing;
  duo.control.reset(THERE);
  return took_ms;
}

export async function measureStop(duo: Duo): Promise<unknown> {
  const rows = [];
  for (const [work, name] of WORK.entries()) {
    const took: number[] = [];
    for (let round = 0; round < ROUNDS; round++) took.push(await stop_ms(duo, work));
    rows.push({ name, stop_ms: median(took), stop_ms_max: Math.max(...took), goal_ms: STOP_GOAL_MS });
  }
  printTable(
    `A worker inside a matrix of ${IN_DIM} × ${OUT_DIM} is told to stop: ms until it has`,
    ['inside', 'median', 'most', 'goal of the most'],
    rows.map((row) => [row.name, digits(row.stop_ms), digits(row.stop_ms_max), atMost(row.goal_ms, row.stop_ms_max)]),
  );
  return rows;
}

// ---------------------------------------------------------------- an idle pod

const IDLE_MS = Number(process.env['BENCH_IDLE_MS'] ?? 10_000);
const SETTLE_MS = 2_000;
const IDLE_GOAL_PERCENT = 1;
const POD = { npus: 8, workers: 2 } as const;
const PROMPT = [1, 86, 1461, 613, 265, 531, 460, 315];
const AWAKE_REQUESTS = 9;

async function firstToken_ms(pod: Pod): Promise<number> {
  const start = performance.now();
  let first = Number.NaN;
  for await (const _ of pod.generate(PROMPT, { max_tokens: 2, temperature: 0, ignore_eos: true })) if (Number.isNaN(first)) first = performance.now() - start;
  return first;
}

export async function measureIdle(): Promise<unknown> {
  await using pod = await createPod(POD);
  for (let request = 0; request < AWAKE_REQUESTS; request++) await firstToken_ms(pod);
  const awake: number[] = [];
  for (let request = 0; request < AWAKE_REQUESTS; request++) awake.push(await firstToken_ms(pod));
  await setTimeout(SETTLE_MS);
  const before = process.cpuUsage();
  const start = performance.now();
  await setTimeout(IDLE_MS);
  const took_ms = performance.now() - start;
  const { user, system } = process.cpuUsage(before);
  const row = {
    idle_ms: took_ms,
    cpu_percent: (user + system) / 1000 / (took_ms / 100),
    goal_percent: IDLE_GOAL_PERCENT,
    first_token_after_ms: await firstToken_ms(pod),
    first_token_awake_ms: median(awake),
  };
  printTable(
    `A pod of ${POD.npus} NPUs on ${POD.workers} workers with nothing to do for ${(took_ms / 1000).toFixed(0)} s, and its first request then`,
    ['CPU, % of a core', 'goal', 'first token, ms', 'first token while awake, ms'],
    [[digits(row.cpu_percent), atMost(row.goal_percent, row.cpu_percent), digits(row.first_token_after_ms), digits(row.first_token_awake_ms)]],
  );
  return row;
}
