/** A recorded run that has its end, and is the same when it is replayed. */
import { expect } from 'vitest';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { Replay } from '../../src/trace/replay.ts';
import { decodeRecord } from '../../src/trace/trace-codec.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';

function actsOf(path: string): ActRecord[] {
  using reader = TraceReader.open(path);
  expect(reader.totals).not.toBeNull();
  return [...reader.records()].map(({ bytes }) => decodeRecord(bytes) as ActRecord).filter(({ kind }) => kind === 'act');
}

/** Replays it, and finds of every message between actors who sent it. */
export function expectWhole(path: string): ActRecord[] {
  const acts = actsOf(path);
  const replay = new Replay();
  for (const [index, act] of acts.entries()) expect(replay.feed(act, index)).toBeNull();
  const known = new Set(acts.map(({ thread, number }) => `${thread}/${number}`));
  const FROM_OUTSIDE = /^(?:frontend|control|caller)\//;
  const orphans = acts.filter(
    (act) => act.cause === 0 && act.message !== null && !FROM_OUTSIDE.test(act.from) && !['STARTED', 'NPU_READY', 'LOADED'].includes(act.message.type),
  );
  expect(orphans.map(({ from, to, message }) => `${from} → ${to} ${message?.type}`)).toEqual([]);
  expect(acts.filter((act) => act.cause !== 0 && !known.has(`${act.cause_thread}/${act.cause}`))).toEqual([]);
  return acts;
}
