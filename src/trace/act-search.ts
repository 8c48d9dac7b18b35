/**
 * Finds acts by what other acts say of them, without holding a trace in memory: a thread's acts lie in the order of their numbers, so a cause is found by
 * halving. The acts of several threads are merged as they came to the recorder, so there a cause may lie behind what it led to.
 * @module
 */
import { type ActRecord, commandChecksum } from './act-record.ts';
import { actsOf, type Pause, type TracedAct } from './acts.ts';
import type { TraceReader } from './trace-reader.ts';

export type ActName = { readonly thread: number; readonly number: number };

/** Fewer records than this are read one by one: about a block. */
const READ_ON = 512;
/** Behind most causes there are fewer records before what came of them. */
const NEAR = 128;
/** Entries of a causal chain: about 40 steps of decoding. */
const CHAIN_MAX = 120;

/** The act of that name, sought backwards from record `records` on; null: the trace does not hold it, and all of it was read. */
export async function findAct(reader: TraceReader, name: ActName, records: number, pause?: Pause): Promise<TracedAct | null> {
  const isIt = ({ thread, number }: ActRecord): boolean => thread === name.thread && number === name.number;
  const isOfThread = ({ thread }: ActRecord): boolean => thread === name.thread;
  const near = await firstWhere(reader, isIt, Math.max(0, records - NEAR), records, pause);
  if (near !== null) return near;
  let [low, high] = [0, records];
  while (high - low > READ_ON) {
    const middle = Math.floor((low + high) / 2);
    const found = await firstWhere(reader, isOfThread, middle, high, pause);
    if (found === null || found.act.number > name.number) high = middle;
    else if (found.act.number === name.number) return found;
    else low = found.index + 1;
  }
  return (await firstWhere(reader, isIt, low, high, pause)) ?? (await firstWhere(reader, isIt, 0, Number.POSITIVE_INFINITY, pause));
}

async function firstWhere(reader: TraceReader, isIt: (act: ActRecord) => boolean, from: number, until: number, pause?: Pause): Promise<TracedAct | null> {
  for (const traced of actsOf(reader, from)) {
    if (traced.index >= until) return null;
    const waiting = pause?.(traced.offset);
    if (waiting) await waiting;
    if (isIt(traced.act)) return traced;
  }
  return null;
}

/** What an act came of; null: it came from outside. */
const causeOf = ({ cause_thread, cause }: ActRecord): ActName | null => (cause === 0 ? null : { thread: cause_thread, number: cause });

/** The acts that led to this one, the nearest first, itself not among them. `isWhole`: it ends at what came from outside. */
export async function causalChain(
  reader: TraceReader,
  { act, index }: TracedAct,
  pause?: Pause,
): Promise<{ readonly acts: readonly TracedAct[]; readonly isWhole: boolean }> {
  const acts: TracedAct[] = [];
  for (let [name, records] = [causeOf(act), index]; name !== null; ) {
    const found = acts.length < CHAIN_MAX ? await findAct(reader, name, records, pause) : null;
    if (found === null) return { acts, isWhole: false };
    acts.push(found);
    [name, records] = [causeOf(found.act), found.index];
  }
  return { acts, isWhole: true };
}

/**
 * What came of an act. `limit`: how many there can be; then the search ends.
 * On a virtual clock they lie behind it; the acts of several threads are gone through from the beginning.
 */
export async function consequencesOf(
  reader: TraceReader,
  { act: { thread, number }, index }: TracedAct,
  { limit = Number.POSITIVE_INFINITY, pause }: { readonly limit?: number; readonly pause?: Pause } = {},
): Promise<TracedAct[]> {
  const found: TracedAct[] = [];
  if (limit === 0) return found;
  for (const traced of actsOf(reader, reader.header['clock'] === 'virtual' ? index + 1 : 0)) {
    const waiting = pause?.(traced.offset);
    if (waiting) await waiting;
    if (traced.act.cause !== number || traced.act.cause_thread !== thread) continue;
    found.push(traced);
    if (found.length === limit) break;
  }
  return found;
}

/** The checksum that a send of this act's message has among its cause's commands. */
export const sendChecksum = ({ to, message }: ActRecord): number => (message === null ? -1 : commandChecksum({ name: 'send', to, message }));
