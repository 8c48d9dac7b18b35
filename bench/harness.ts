/**
 * Measuring in pairs: contestants take turns in short slices, round after round, so that a noisy machine disturbs all alike, and what is reported
 * are ratios within one run.
 * @module
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname } from 'node:path';
import { Bench } from 'tinybench';

export type Contestant = {
  name: string;
  /** Work of one call, in the unit of the rate (floating-point operations, bytes, items). */
  work: number;
  run: () => void;
};

export type Rate = {
  name: string;
  /** Best over the rounds, in work a second: the round that the machine disturbed least. */
  best: number;
  /** Median over the rounds of (own rate / the first contestant's rate in the same round). */
  ratio: number;
};

export type Effort = { rounds: number; slice_ms: number };

/** How many calls fill a slice, found by doubling; this also warms the code up. */
function callsPerSlice(run: () => void, slice_ms: number): number {
  for (let calls = 1; ; calls *= 2) {
    const start = performance.now();
    for (let i = 0; i < calls; i++) run();
    const took = performance.now() - start;
    if (took >= slice_ms / 2) return Math.max(1, Math.round((calls * slice_ms) / took));
  }
}

export function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

/** Rates of all contestants; the first is what the others are compared with. Each round is one tinybench run over all of them. */
export async function race(contestants: readonly Contestant[], effort: Effort): Promise<Rate[]> {
  const calls = contestants.map((c) => callsPerSlice(c.run, effort.slice_ms / 8));
  const rates: number[][] = contestants.map(() => []);
  for (let round = 0; round < effort.rounds; round++) {
    const bench = new Bench({ time: effort.slice_ms, iterations: 4, warmup: false });
    for (const [index, { name, run }] of contestants.entries()) {
      const batch = calls[index] ?? 1;
      bench.add(`${index} ${name}`, () => {
        for (let call = 0; call < batch; call++) run();
      });
    }
    const tasks = await bench.run();
    for (const [index, { result }] of tasks.entries()) {
      if (!('latency' in result)) throw new Error(`${contestants[index]?.name} was not measured: ${result.state}`);
      rates[index]?.push(((contestants[index]?.work ?? 0) * (calls[index] ?? 1) * 1000) / result.latency.p50);
    }
  }
  return contestants.map(({ name }, i) => {
    const mine = rates[i] ?? [];
    return { name, best: Math.max(...mine), ratio: median(mine.map((rate, round) => rate / (rates[0]?.[round] ?? Number.NaN))) };
  });
}

/** Prints a table with columns as wide as their longest cell. */
export function printTable(title: string, header: readonly string[], rows: readonly (readonly string[])[]): void {
  const widths = header.map((_, c) => Math.max(...[header, ...rows].map((row) => row[c]?.length ?? 0)));
  const line = (row: readonly string[]): string => row.map((cell, c) => (c === 0 ? cell.padEnd(widths[c] ?? 0) : cell.padStart(widths[c] ?? 0))).join('  ');
  console.log(`\n${title}\n${line(header)}\n${widths.map((w) => '-'.repeat(w)).join('  ')}`);
  for (const row of rows) console.log(line(row));
}

/** Where the numbers were made. */
export function machine(): Record<string, string | number> {
  return {
    runtime: `${'Deno' in globalThis ? 'Deno, Node API ' : 'Node '}${process.versions.node}, V8 ${process.versions.v8}`,
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
  };
}

export function writeResults(path: string, results: unknown): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify({ machine: machine(), results }, null, 2)}\n`);
}
