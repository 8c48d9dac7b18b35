/**
 * How soon a thread leaves a matrix when it is told to stop.
 * @module
 */
import { setTimeout } from 'node:timers/promises';
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
