/** The recorder of live pods by itself: acts larger than its rings, and a reader that is too slow. */
import { existsSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import type { MinipodError } from '../../src/protocol/errors.ts';
import { type Act, firstAct } from '../../src/runtime/cast.ts';
import { monotonicClock } from '../../src/runtime/clock.ts';
import { ActLog, type WhenFull } from '../../src/trace/act-log.ts';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { LiveRecorder } from '../../src/trace/live-recorder.ts';
import { runHeader } from '../../src/trace/run-header.ts';
import { decodeRecord } from '../../src/trace/trace-codec.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { traceFolder } from './files.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

const header = runHeader({
  clock: 'live',
  seed: null,
  kernels: 'real',
  model: { name: 'tiny', digest: '5f' },
  npus: 1,
  workers: 1,
  options: { kv_blocks: 1, kv_block_size: 16, max_batch_tokens: 1, max_batch_requests: 1, max_queued: 1 },
});

/** Of a prompt of so many tokens, each of three bytes in the record. */
const actOf = (number: number, length: number): Act => ({
  number: firstAct(1, 1) + number,
  to: 'request/1',
  from: 'frontend/0',
  message: { type: 'SUBMIT', sequences: [{ request: 1, choice: 0, prompt: Array.from({ length }, () => 1_000), max_tokens: 1 } as never] },
  cause: 0,
  birth: null,
  before: null,
  after: null,
  isExpected: true,
  commands: [],
});

async function record(name: string, whenFull: WhenFull, lengths: readonly number[]): Promise<{ path: string; ended: string[] }> {
  const path = folder.file(name);
  const ended: string[] = [];
  const recorder = await LiveRecorder.create({ path, header, whenFull, onEnded: ({ message }: MinipodError) => ended.push(message) });
  const log = new ActLog(recorder.newRing(1), monotonicClock(performance.timeOrigin));
  for (const [index, length] of lengths.entries()) log.append(actOf(index + 1, length));
  // What the recorder has to say of itself comes between two turns of the event loop.
  if (whenFull === 'stop') await expect.poll(() => ended.length).toBe(1);
  await recorder.close();
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

  it('ends the recording where it is full and nobody is to wait: it says so, in the trace too, and what came before is whole', async () => {
    const { path, ended } = await record('stopped.trace', 'stop', [3, 5, 2_000_000, 7]);
    expect(ended).toEqual([expect.stringContaining('stopped.trace: recording has stopped, since the disk is slower than the run')]);
    const records = recordsOf(path);
    expect(records.slice(0, -1).map((act) => 'number' in act && act.number)).toEqual([1, 2]);
    expect(records.at(-1)).toEqual({ kind: 'stopped', reason: expect.stringContaining('faster than the disk') });
  });

  it('that cannot begin throws, and says nothing else', async () => {
    const ended: string[] = [];
    const options = { path: folder.file('nowhere/x.trace'), header, whenFull: 'wait', onEnded: ({ message }: MinipodError) => ended.push(message) } as const;
    await expect(LiveRecorder.create(options)).rejects.toMatchObject({ code: 'trace_not_written', message: expect.stringContaining('nowhere/x.trace') });
    expect(ended).toEqual([]);
    expect(existsSync(folder.file('nowhere'))).toBe(false);
  });
});
