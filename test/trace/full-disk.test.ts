/** A disk that is full or fails: an error that names the file, and a file that can be read up to there. */
import * as fs from 'node:fs';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { TraceWriter } from '../../src/trace/trace-writer.ts';
import { HEADER, range, readTrace, recordsLikeARuns, traceFolder } from './files.ts';

/** Bytes that the disk still takes, and whether it takes them in small bites. */
const disk = vi.hoisted(() => ({ free: Number.POSITIVE_INFINITY, bite: Number.POSITIVE_INFINITY, truncates: true }));

vi.mock('node:fs', async (original) => {
  const real = await original<typeof fs>();
  const full = (): never => {
    throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  };
  return {
    ...real,
    writeSync: (descriptor: number, bytes: Uint8Array, from: number, length: number, at: number): number => {
      const count = Math.min(length, disk.free, disk.bite);
      if (count === 0) full();
      disk.free -= count;
      return real.writeSync(descriptor, bytes, from, count, at);
    },
    ftruncateSync: (descriptor: number, length: number): void => (disk.truncates ? real.ftruncateSync(descriptor, length) : full()),
  };
});

beforeEach(() => Object.assign(disk, { free: Number.POSITIVE_INFINITY, bite: Number.POSITIVE_INFINITY, truncates: true }));

describe('a disk', () => {
  it('that fills up stops the recording with an error, now and afterwards; what was written whole can be read', () => {
    for (const truncates of [true, false]) {
      using folder = traceFolder();
      const path = folder.file('full.trace');
      const records = recordsLikeARuns(100, 21);
      using writer = TraceWriter.create(path, HEADER, { block_bytes: 1000 });
      Object.assign(disk, { free: 5000, truncates });
      const write = (): void => {
        for (const record of records) writer.append(record);
      };
      expect(write).toThrow(/full\.trace: cannot be written at byte [\d,]+; its first [\d,]+ bytes can be read: ENOSPC/);
      const whole = writer.file_bytes;
      disk.free = Number.POSITIVE_INFINITY;
      for (const call of [write, () => writer.flush(), () => writer.close()])
        expect(call).toThrow(expect.objectContaining({ code: 'trace_not_written', message: expect.stringContaining('ENOSPC') }));
      if (truncates) expect(fs.statSync(path).size).toBe(whole);
      const read = readTrace(path);
      expect(read.damage).toMatchObject({ kind: 'unfinished', byte: whole });
      expect(read.indices.length).toBeGreaterThan(20);
      expect(read.indices).toEqual(range(0, read.indices.length));
      expect(Buffer.concat(read.records).equals(Buffer.concat(records.slice(0, read.indices.length)))).toBe(true);
    }
  });

  it('that is full at once, or at the end, is an error too', () => {
    using folder = traceFolder();
    disk.free = 10;
    expect(() => TraceWriter.create(folder.file('first.trace'), HEADER)).toThrow(/first\.trace: cannot be written at byte 10/);
    disk.free = 300;
    using writer = TraceWriter.create(folder.file('last.trace'), HEADER);
    writer.append(Uint8Array.of(1));
    disk.free = 60;
    expect(() => writer.close()).toThrow(/last\.trace: cannot be written/);
    expect(readTrace(folder.file('last.trace'))).toMatchObject({ indices: [0], damage: { kind: 'unfinished' } });
  });

  it('that takes a few bytes at a time gets all of them', () => {
    using folder = traceFolder();
    disk.bite = 7;
    using writer = TraceWriter.create(folder.file('bites.trace'), HEADER, { block_bytes: 1000 });
    for (const record of recordsLikeARuns(50, 22)) writer.append(record);
    const identity = writer.close();
    expect(readTrace(folder.file('bites.trace'))).toMatchObject({ damage: null, identity });
  });
});
