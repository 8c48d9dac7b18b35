/** Memory is that of a block, however long the trace. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { TraceWriter } from '../../src/trace/trace-writer.ts';
import { HEADER, recordsLikeARuns, traceFolder } from './files.ts';

/**
 * Bytes that somebody holds. V8 lets some 70 MB of dead buffers lie, so they are collected first; twice, because it frees them on a thread
 * of its own after the first collection has returned, and the second waits for that.
 */
function heldMeter(): () => number {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  return () => {
    collect();
    collect();
    const { external, heapUsed } = process.memoryUsage();
    return external + heapUsed;
  };
}

const HELD_BYTES_MAX = 4e6;

it('a trace of 200 MB is written and read by who holds 4 MB at most', () => {
  using folder = traceFolder();
  const held = heldMeter();
  const record = Buffer.alloc(20_000, Buffer.concat(recordsLikeARuns(4, 31)));
  const before = held();
  let most = 0;
  let buffered = 0;
  using writer = TraceWriter.create(folder.file('long.trace'), HEADER);
  for (let i = 0; i < 10_000; i++) {
    writer.append(record);
    buffered = Math.max(buffered, writer.buffered_bytes);
    if (i % 1000 === 999) most = Math.max(most, held() - before);
  }
  const identity = writer.close();
  using reader = TraceReader.open(folder.file('long.trace'));
  const records = reader.records();
  for (const { index } of records) if (index % 1000 === 999) most = Math.max(most, held() - before);
  expect(records).toMatchObject({ damage: null, identity });
  expect(identity.raw_bytes).toBeGreaterThan(200e6);
  expect(buffered).toBeLessThanOrEqual(64 * 1024);
  expect(most).toBeLessThan(HELD_BYTES_MAX);
  // That the meter would have seen it: now somebody does hold a block in ten.
  const kept: Uint8Array[] = [];
  for (const { index, bytes } of reader.records()) if (index % 30 === 0) kept.push(bytes);
  expect(held() - before).toBeGreaterThan(HELD_BYTES_MAX);
  expect(kept.length).toBeGreaterThan(300);
});
