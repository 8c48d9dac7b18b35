/** Rounds of gathers as a group of ranks makes them: what each rank computes depends on the seed alone, so that threads need not tell one another. */
import { offsetOf } from '../../src/fabric/address.ts';
import type { AddressSpace } from '../../src/fabric/address-space.ts';
import { AllGather, type Table } from '../../src/xccl/all-gather.ts';
import type { Endpoint } from '../../src/xccl/endpoint.ts';
import type { Operation, Poll } from '../../src/xccl/operation.ts';
import { type DiesOfThread, runOnThread } from './rig-threads.ts';

export type Split = { readonly rows: number; readonly words: number; readonly bounds: readonly number[] };
/** Tables take turns; a guard word lies before and behind each. */
export const TABLE_AT = [64, 4_096] as const;
const GUARD = 0x5a5a5a5a;

export const tableOf = ({ rows, words, bounds }: Split, gatherArea: number, round: number): Table => ({
  address: gatherArea + (TABLE_AT[round % 2] as number),
  rows,
  stride: 4 * words,
  bounds,
});

/** What every rank finds in its table in the end. */
export const wordOf = (seed: number, round: number, row: number, word: number): number => Math.imul(seed + 1, 0x9e3779b1) ^ ((round << 16) | (row << 8) | word);

const wordsFrom = (space: AddressSpace, address: number): { words: Int32Array; at: number } => ({ words: space.wordsOf(address), at: offsetOf(address) / 4 });

/** The rank computes its part; all else of the table is cleared, so that nothing of an earlier round can pass for this one's. */
export function computePart(space: AddressSpace, table: Table, split: Split, rank: number, seed: number, round: number): void {
  const { words, at } = wordsFrom(space, table.address);
  words[at - 1] = GUARD;
  words[at + split.rows * split.words] = GUARD;
  words.fill(0, at, at + split.rows * split.words);
  for (let row = 0; row < split.rows; row++)
    for (let word = (split.bounds[rank] as number) / 4; word < (split.bounds[rank + 1] as number) / 4; word++)
      words[at + row * split.words + word] = wordOf(seed, round, row, word);
}

/** What is wrong with a table that is gathered; an empty text: nothing. */
export function faultOf(space: AddressSpace, table: Table, split: Split, seed: number, round: number): string {
  const { words, at } = wordsFrom(space, table.address);
  if (words[at - 1] !== GUARD || words[at + split.rows * split.words] !== GUARD) return `round ${round}: words beside the table were written`;
  for (let row = 0; row < split.rows; row++)
    for (let word = 0; word < split.words; word++)
      if (words[at + row * split.words + word] !== wordOf(seed, round, row, word)) return `round ${round}: row ${row}, word ${word} is another one`;
  return '';
}

/** One rank's rounds as an operation: computes, gathers, looks. */
export function gatherRounds(gather: AllGather, endpoint: Endpoint, splits: readonly Split[], seed: number, timeout_ms: number, faults: string[]): Operation {
  let round = -1;
  const next = (): Poll | null => {
    if (++round === splits.length) return { state: 'done' };
    const split = splits[round] as Split;
    const table = tableOf(split, endpoint.areas.gather, round);
    computePart(endpoint.space, table, split, gather.rank, seed, round);
    gather.start(1 + Math.floor(round / 3), 'a table', table, timeout_ms);
    return null;
  };
  let end = next();
  return {
    poll: (): Poll => {
      if (end !== null) return end;
      const poll = gather.poll();
      if (poll.state === 'pending') return poll;
      if (poll.state === 'done') {
        const split = splits[round] as Split;
        const fault = faultOf(endpoint.space, tableOf(split, endpoint.areas.gather, round), split, seed, round);
        if (fault !== '') faults.push(`rank ${gather.rank}, ${fault}`);
        end = next();
        return end ?? { state: 'pending', missing: [] };
      }
      end = poll;
      return end;
    },
  };
}

export type GatherArgs = { readonly splits: readonly Split[]; readonly seed: number; readonly timeout_ms: number };

/** A program of all-gather.test.ts: this thread's ranks; rank = die. */
export default function program(thread: DiesOfThread, { splits, seed, timeout_ms }: GatherArgs): string[] {
  const faults: string[] = [];
  const operations = thread.dies.map((die) => {
    const endpoint = thread.endpoints[die] as Endpoint;
    const gather = new AllGather(endpoint, die, thread.apps.length, (rank) => rank);
    return gatherRounds(gather, endpoint, splits, seed, timeout_ms, faults);
  });
  for (const end of runOnThread(thread, operations)) if (end.state === 'failed') faults.push(end.error.message);
  return faults;
}
