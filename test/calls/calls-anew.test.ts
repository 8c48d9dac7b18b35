/** Calls outlive the threads that computed them: each goes on with their successors from what its caller has, or is asked for once more. */
import { describe, expect, it } from 'vitest';
import { Calls } from '../../src/calls/calls.ts';
import { DeliveredRecords } from '../../src/flowserve/records/delivered-records.ts';
import { RequestRecords } from '../../src/flowserve/records/request-records.ts';
import { type GenerateOptions, generateOptionsSchema, parseOptions } from '../../src/options/options.ts';
import type { CallerToPod, ChunkRecord } from '../../src/protocol/caller.ts';
import type { MinipodError } from '../../src/protocol/errors.ts';
import { requestId } from '../../src/protocol/request-ids.ts';
import type { Generation } from '../../src/results.ts';
import { makeTable, sequencesOf } from '../flowserve/records/records.ts';

const TOKENS = 4;
const PROMPT_TOKENS = 3;
const GROUP = 0;

const chunkOf = (call: number, attempt: number, index: number): ChunkRecord => ({
  ...{ request: requestId(0, attempt, call), choice: 0, index, text: `${index} `, token_ids: [index], logprobs: null },
  ...{ finish: index === TOKENS - 1 ? 'length' : null, stop_string: null, stop_token: -1, cached: 0, drafted: 0, parsed: null },
});

/** The caller's side of a pod, and what it tells that. */
function openCaller() {
  let now_ms = 0;
  const told: CallerToPod[] = [];
  const { table } = makeTable(4, 400);
  let opened = new RequestRecords(table);
  const records = new DeliveredRecords(table);
  const calls = new Calls({ clock: { now_ms: () => now_ms }, random: { drawSeed: () => 5, below: () => 0 }, records, tell: (message) => told.push(message) });
  return {
    calls,
    told,
    ask: ({ signal, ...options }: GenerateOptions = {}): Generation => calls.submit([7, 8, 9], parseOptions(generateOptionsSchema, options, 'test'), signal),
    /** It is open in the pod. */
    open(call: number, isRecorded = true): void {
      const held = isRecorded ? opened.open(sequencesOf(requestId(0, 0, call), 1, PROMPT_TOKENS), 1, -1) : [];
      calls.receive({ type: 'PROMPT', request: call, token_ids: [7, 8, 9], records: held });
    },
    push(call: number, attempt: number, from: number, to: number): void {
      for (let index = from; index < to; index++) calls.receive({ type: 'CHUNKS', chunks: [chunkOf(call, attempt, index)] }, GROUP);
    },
    pass(ms: number): void {
      now_ms += ms;
    },
    /** All threads of the pod are lost, and have successors. */
    loseAll(after_ms = 1_000): void {
      now_ms += after_ms;
      told.length = 0;
      const successor = makeTable(4, 400).table;
      opened = new RequestRecords(successor);
      records.moveTo(successor);
      calls.goOnAnew();
    },
    left: () => opened.used,
  };
}

async function readAll(generation: Generation): Promise<{ text: string; error: string | null }> {
  let text = '';
  try {
    for await (const chunk of generation) text += chunk.text;
  } catch (error) {
    return { text, error: (error as MinipodError).code };
  }
  return { text, error: null };
}

const WHOLE = { text: '0 1 2 3 ', error: null };

describe('when all threads of the pod are lost, a call', () => {
  it('should go on from its record, and be told once each token', async () => {
    const { calls, told, ask, open, push, loseAll, left } = openCaller();
    const generation = ask();
    open(1);
    push(1, 0, 0, 2);
    // This one overtook another, that is lost.
    push(1, 0, 3, 4);
    loseAll();
    expect(told).toEqual([{ type: 'RESUME_CALL', request: 1 }]);
    expect(left()).toMatchObject({ calls: 1, records: 1 });
    push(1, 1, 1, TOKENS);
    calls.receive({ type: 'ENDED', request: 1, error: null });
    expect(await readAll(generation)).toEqual(WHOLE);
    expect([calls.open, left()]).toEqual([0, { calls: 0, records: 0, pages: 0 }]);
  });

  it('should be asked for once more where nobody had opened it, in what is left of its time', async () => {
    const { calls, told, ask, open, push, loseAll } = openCaller();
    const generation = ask({ deadline_ms: 3_000, max_tokens: TOKENS });
    const [asked] = told;
    loseAll(1_000);
    expect(told).toEqual([{ ...asked, deadline_ms: 2_000 }]);
    loseAll(5_000);
    expect(told).toEqual([{ ...asked, deadline_ms: 0 }]);
    open(1);
    push(1, 0, 0, TOKENS);
    calls.receive({ type: 'ENDED', request: 1, error: null });
    expect(await readAll(generation)).toEqual(WHOLE);
  });

  it('should end where all of it is there, though nobody had said that it has ended', async () => {
    const { told, ask, open, push, loseAll } = openCaller();
    const generation = ask();
    open(1);
    push(1, 0, 0, TOKENS);
    loseAll();
    expect([told, await readAll(generation)]).toEqual([[], WHOLE]);
  });

  it('should go on where it had ended, and its last tokens were on their way', async () => {
    const { calls, told, ask, open, push, loseAll } = openCaller();
    const generation = ask();
    open(1);
    push(1, 0, 0, 2);
    calls.receive({ type: 'ENDED', request: 1, error: null });
    loseAll();
    expect(told).toEqual([{ type: 'RESUME_CALL', request: 1 }]);
    push(1, 1, 2, TOKENS);
    calls.receive({ type: 'ENDED', request: 1, error: null });
    expect(await readAll(generation)).toEqual(WHOLE);
  });

  it('should be over where its caller had cancelled it', async () => {
    const { told, ask, open, push, loseAll } = openCaller();
    const caller = new AbortController();
    const generation = ask({ signal: caller.signal });
    open(1);
    push(1, 0, 0, 1);
    caller.abort();
    loseAll();
    expect([told, await readAll(generation)]).toEqual([[], { text: '0 ', error: 'cancelled' }]);
  });

  it('should end while there are no threads yet where its caller cancels it, or its time is over, and no other', async () => {
    const { calls, told, ask, open, push, loseAll } = openCaller();
    const caller = new AbortController();
    const [cancelled, late, other] = [ask({ signal: caller.signal }), ask({ deadline_ms: 1_000 }), ask({ deadline_ms: 1_001 })];
    for (const call of [1, 2]) open(call);
    push(1, 0, 0, 1);
    loseAll(1_000);
    caller.abort();
    calls.endUntold();
    expect(await readAll(cancelled)).toEqual({ text: '0 ', error: 'cancelled' });
    expect(await readAll(late)).toEqual({ text: '', error: 'deadline_exceeded' });
    expect(calls.open).toBe(1);
    loseAll(0);
    expect(told).toMatchObject([{ type: 'GENERATE', request: 3, deadline_ms: 1 }]);
    open(3);
    push(3, 0, 0, TOKENS);
    calls.receive({ type: 'ENDED', request: 3, error: null });
    expect(await readAll(other)).toEqual(WHOLE);
  });

  it('should not wait for its turn longer than its deadline', async () => {
    const { calls, told, ask, loseAll, pass } = openCaller();
    const [, waiting] = [ask(), ask({ deadline_ms: 3_000 })];
    loseAll();
    loseAll();
    expect(told).toMatchObject([{ request: 1 }]);
    calls.look();
    expect(calls.open).toBe(2);
    pass(1_000);
    calls.look();
    expect([await readAll(waiting), calls.open]).toEqual([{ text: '', error: 'deadline_exceeded' }, 1]);
  });

  it('should fail where there was no room to record it', async () => {
    const { told, ask, open, push, loseAll } = openCaller();
    const generation = ask();
    open(1, false);
    push(1, 0, 0, 1);
    loseAll();
    expect([told, await readAll(generation)]).toEqual([[], { text: '0 ', error: 'worker_failed' }]);
  });

  it('should fail at the third time in a row without a token, since it may be what kills, and no sooner', async () => {
    const { told, ask, open, push, loseAll } = openCaller();
    const generation = ask();
    open(1);
    for (const index of [0, 1]) {
      loseAll();
      loseAll();
      push(1, 1, index, index + 1);
    }
    loseAll();
    loseAll();
    expect(told).toHaveLength(1);
    loseAll();
    expect([told, await readAll(generation)]).toEqual([[], { text: '0 1 ', error: 'worker_failed' }]);
  });

  it('should go on when others have a token, where one of them may be what kills, and outlive that', async () => {
    const { calls, told, ask, open, push, loseAll } = openCaller();
    const [first, killer, last] = [ask(), ask(), ask()];
    const requests = (): number[] => told.map(({ request }) => request);
    open(1);
    loseAll();
    expect(requests()).toEqual([1, 2, 3]);
    loseAll();
    // One after the other from here on.
    expect(requests()).toEqual([1]);
    push(1, 1, 0, 1);
    expect(requests()).toEqual([1, 2]);
    loseAll();
    expect([await readAll(killer), requests()]).toEqual([{ text: '', error: 'worker_failed' }, [1, 3]]);
    push(1, 1, 1, TOKENS);
    calls.receive({ type: 'ENDED', request: 1, error: null });
    open(3);
    push(3, 0, 0, TOKENS);
    calls.receive({ type: 'ENDED', request: 3, error: null });
    expect([await readAll(first), await readAll(last), calls.open]).toEqual([WHOLE, WHOLE, 0]);
  });

  it('should not wait for its turn where its caller cancels it', async () => {
    const { told, ask, loseAll } = openCaller();
    const [ofFirst, ofWaiting] = [new AbortController(), new AbortController()];
    const [first, waiting] = [ask({ signal: ofFirst.signal }), ask({ signal: ofWaiting.signal })];
    ask();
    loseAll();
    loseAll();
    ofWaiting.abort();
    expect(await readAll(waiting)).toEqual({ text: '', error: 'cancelled' });
    ofFirst.abort();
    // That one had its turn, and the pod knows of it.
    loseAll();
    expect(await readAll(first)).toEqual({ text: '', error: 'cancelled' });
    expect(told).toMatchObject([{ type: 'GENERATE', request: 3 }]);
  });
});
