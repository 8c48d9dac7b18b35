/** The recorder of live pods by itself: acts larger than its rings, and a reader that is too slow. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it, vi } from 'vitest';
import type { MinipodError } from '../../src/protocol/errors.ts';
import { monotonicClock } from '../../src/runtime/clock.ts';
import { ActLog, type WhenFull } from '../../src/trace/act-log.ts';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { LiveRecorder } from '../../src/trace/live-recorder.ts';
import { decodeRecord } from '../../src/trace/trace-codec.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { actOf } from './acts-of-size.ts';
import { traceFolder } from './files.ts';
import { liveHeader } from './live-header.ts';

const folder = traceFolder();
afterAll(() => {
  vi.unstubAllEnvs();
  folder[Symbol.dispose]();
});

const TROUBLED = new URL('./troubled-recorder.ts', import.meta.url);

/** A thread has the environment of who starts it. */
function withDisk(disk: { readonly pause_ms?: number | 'over' | 'told'; readonly fails_at_end?: string }): URL {
  vi.stubEnv('DISK_PAUSE_MS', disk.pause_ms === undefined ? '' : `${disk.pause_ms}`);
  vi.stubEnv('DISK_FAILS_AT_END', disk.fails_at_end ?? '');
  return TROUBLED;
}

type Reader = { readonly entry?: URL; readonly patience_ms?: number; readonly close_ms?: number };

async function record(
  name: string,
  whenFull: WhenFull,
  lengths: readonly number[],
  { close_ms, ...options }: Reader = {},
): Promise<{ path: string; ended: string[] }> {
  const path = folder.file(name);
  const ended: string[] = [];
  const recorder = await LiveRecorder.create({
    path,
    header: liveHeader,
    whenFull,
    onEnded: ({ message }: MinipodError) => ended.push(message),
    ...options,
  });
  const log = new ActLog(recorder.newRing(1), monotonicClock(performance.timeOrigin));
  for (const [index, length] of lengths.entries()) log.append(actOf(1, index + 1, length));
  await recorder.close(close_ms);
  return { path, ended };
}

const recordsOf = (path: string): (ActRecord | { kind: 'stopped'; reason: string })[] => {
  using reader = TraceReader.open(path);
  expect(reader.totals).not.toBeNull();
  return [...reader.records()].map(({ bytes }) => decodeRecord(bytes) as ActRecord);
};

describe('the recorder of a live pod', () => {
  it('takes acts that no ring holds at once, among others, and all of a burst: whoever acts waits for it', async () => {
    const lengths = [3, 1_000_000, 0, ...Array.from({ length: 200 }, (_, index) => 64 * index), 700_000, 1];
    const { path, ended } = await record('long.trace', 'wait', lengths);
    expect(ended).toEqual([]);
    const acts = recordsOf(path) as ActRecord[];
    expect(acts.map(({ number }) => number)).toEqual(lengths.map((_, index) => index + 1));
    expect(acts.map(({ message }) => message?.type === 'SUBMIT' && message.sequences[0]?.prompt.length)).toEqual(lengths);
  });

  it('that is not to be waited for takes a burst larger than its rings too, since a thread with a full one wakes it', async () => {
    const lengths = Array.from({ length: 300 }, () => 16_000);
    const { path, ended } = await record('burst.trace', 'stop', lengths);
    expect(ended).toEqual([]);
    expect((recordsOf(path) as ActRecord[]).length).toBe(lengths.length);
  });

  it('ends the recording where a ring stays full and nobody is to wait: it says so, in the trace too, and what came before is whole', async () => {
    const { path, ended } = await record('stopped.trace', 'stop', [3, 5, 2_000_000, 7], { entry: withDisk({ pause_ms: 'over' }), patience_ms: 100 });
    expect(ended).toEqual([expect.stringMatching(/stopped\.trace: recording has stopped: a thread found no room/)]);
    const records = recordsOf(path);
    expect(records.slice(0, -1).map((act) => 'number' in act && act.number)).toEqual([1, 2]);
    expect(records.at(-1)).toEqual({ kind: 'stopped', reason: expect.stringContaining('slower than the run') });
  });

  it('whose disk fails while it is closed says so: the trace is not whole', async () => {
    const { ended } = await record('late.trace', 'wait', [3], { entry: withDisk({ fails_at_end: 'late.trace: no space left' }) });
    expect(ended).toEqual(['late.trace: no space left']);
  });

  it('that keeps a thread waiting for long says so once, while it waits; and nothing is left out', async () => {
    const path = folder.file('waits.trace');
    const args = [...('Deno' in globalThis ? ['run', '-A'] : []), fileURLToPath(new URL('./waiting-run.ts', import.meta.url)), path];
    withDisk({ pause_ms: 'told' });
    const { stderr } = await promisify(execFile)(process.execPath, args);
    const told = stderr.split('\n').filter((line) => line.includes('waits.trace'));
    expect(told).toEqual([expect.stringMatching(/^\(minipod\) RecordingWaits: .*waits\.trace: thread 1 has waited 0\.2 s for its records to be written/)]);
    expect(recordsOf(path).length).toBe(60);
  });

  it('whose disk hangs is given up when it is closed, naming the file', async () => {
    const before_ms = performance.now();
    const { ended } = await record('hangs.trace', 'wait', [3], { entry: withDisk({ pause_ms: 30_000 }), close_ms: 200 });
    expect(performance.now() - before_ms).toBeLessThan(25_000);
    expect(ended).toEqual([expect.stringMatching(/hangs\.trace: what was left could not be written within 0\.2 s/)]);
  });

  it('lets no thread wait for all of another that is busy: their rings are read by turns', async () => {
    const path = folder.file('turns.trace');
    const recorder = await LiveRecorder.create({ path, header: liveHeader, whenFull: 'wait', onEnded: () => {}, entry: withDisk({ pause_ms: 300 }) });
    const clock = monotonicClock(performance.timeOrigin);
    const [busy, quiet] = [new ActLog(recorder.newRing(1), clock), new ActLog(recorder.newRing(2), clock)];
    // Most of a ring, while the recorder is held up by the first.
    for (let number = 1; number <= 60; number++) busy.append(actOf(1, number, 5_000));
    quiet.append(actOf(2, 1, 1));
    await recorder.close();
    const threads = (recordsOf(path) as ActRecord[]).map(({ thread }) => thread);
    expect(threads.length).toBe(61);
    expect(threads.indexOf(2)).toBeLessThan(30);
  });

  it('that cannot begin throws, and says nothing else', async () => {
    const ended: string[] = [];
    const options = {
      path: folder.file('nowhere/x.trace'),
      header: liveHeader,
      whenFull: 'wait',
      onEnded: ({ message }: MinipodError) => ended.push(message),
    } as const;
    await expect(LiveRecorder.create(options)).rejects.toMatchObject({ code: 'trace_not_written', message: expect.stringContaining('nowhere/x.trace') });
    expect(ended).toEqual([]);
    expect(existsSync(folder.file('nowhere'))).toBe(false);
  });
});
