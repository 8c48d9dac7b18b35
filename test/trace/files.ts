/** Traces to be written, spoilt and read: records like a run's, and a folder that goes with the test. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TraceDamage } from '../../src/trace/damage.ts';
import type { TraceIdentity } from '../../src/trace/identity.ts';
import { type ReadOptions, TraceReader } from '../../src/trace/trace-reader.ts';
import { TraceWriter, type TraceWriterOptions } from '../../src/trace/trace-writer.ts';

export const HEADER = { code: '0.1.0', model: { digest: '5f…', name: 'tiny' }, clock: 'virtual', seed: 7 };

/** A folder of its own, removed at the end of its block. */
export function traceFolder(): Disposable & { file: (name: string) => string } {
  const folder = mkdtempSync(join(tmpdir(), 'minipod-trace-'));
  return { file: (name) => join(folder, name), [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) };
}

/** Numbers below `limit`, the same for the same seed. */
export function draws(seed: number): (limit: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) % limit;
  };
}

/** Records of 40 to 200 bytes, half of them words that come again, half noise. */
export function recordsLikeARuns(count: number, seed: number): Uint8Array[] {
  const below = draws(seed);
  const words = ['request/7f', 'task/17', 'npu/3', 'expert/4.12', 'LAUNCH_DONE', 'STEP_DONE', 'TOKENS'];
  return Array.from({ length: count }, () => {
    const record = new Uint8Array(40 + below(161)).map(() => below(256));
    record.set(Buffer.from(Array.from({ length: 3 }, () => words[below(words.length)]).join(' ')).subarray(0, 30), 4);
    return record;
  });
}

export function writeTrace(path: string, records: Iterable<Uint8Array>, options: TraceWriterOptions = {}, header: object = HEADER): TraceIdentity {
  using writer = TraceWriter.create(path, header, options);
  for (const record of records) writer.append(record);
  return writer.close();
}

export type ReadTrace = {
  header: object;
  indices: number[];
  records: Uint8Array[];
  damage: TraceDamage | null;
  identity: TraceIdentity | null;
  totals: TraceReader['totals'];
};

export function readTrace(path: string, from = 0, options: ReadOptions = {}): ReadTrace {
  using reader = TraceReader.open(path);
  const pass = reader.records(from, options);
  const read = [...pass];
  return {
    header: reader.header,
    indices: read.map(({ index }) => index),
    records: read.map(({ bytes }) => bytes),
    damage: pass.damage,
    identity: pass.identity,
    totals: reader.totals,
  };
}

export const range = (from: number, to: number): number[] => Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
