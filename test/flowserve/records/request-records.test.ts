/** Request records: whoever takes requests over reads of each what its caller has, whatever the frontend's two halves do meanwhile. */
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { planMemory } from '../../../src/fabric/memory-plan.ts';
import { type DeliveredCall, DeliveredRecords } from '../../../src/flowserve/records/delivered-records.ts';
import { RecordTaking } from '../../../src/flowserve/records/record-taking.ts';
import { RequestRecords, recordsBytes } from '../../../src/flowserve/records/request-records.ts';
import { ATTEMPTS_MAX, attemptOf, callOf, jobExecutorOf, requestId } from '../../../src/protocol/request-ids.ts';
import { runs } from '../../property-runs.ts';
import type { TakerArgs, TakerResult } from './record-taker.ts';
import { makeTable, sequencesOf, tokenOf } from './records.ts';

const RECORDS = 12;

/** Counts one on; gives what it was. */
function next(counts: number[], at: number): number {
  const count = counts[at] as number;
  counts[at] = count + 1;
  return count;
}

it('is asked for none but the records that there are', () => {
  const { table } = makeTable(RECORDS, 8);
  expect([table.load(0, 0), table.load(RECORDS - 1, 0)]).toEqual([0, 0]);
  for (const record of [-1, RECORDS]) expect(() => table.load(record, 0)).toThrow(`record ${record} of ${RECORDS}`);
});

type Open = {
  id: number;
  readonly call: DeliveredCall;
  readonly life: number;
  readonly prompt: number;
  readonly deadline: number;
  readonly outputs: number[];
  readonly finished: boolean[];
};
type Op = { readonly kind: 'open' | 'append' | 'finish' | 'close' | 'take'; readonly call: number; readonly choice: number; readonly count: number };

const op: fc.Arbitrary<Op> = fc.record({
  kind: fc.constantFrom('open', 'open', 'append', 'append', 'append', 'finish', 'close', 'take'),
  call: fc.nat(7),
  choice: fc.nat(2),
  count: fc.integer({ min: 1, max: 150 }),
});

describe('request records', () => {
  it('give whoever takes a request over what its caller has of it, each request to one taker; and nothing is left of what is closed', () => {
    fc.assert(
      fc.property(fc.array(op, { maxLength: 80 }), (ops) => {
        const { table } = makeTable(RECORDS, 4_000);
        const [records, delivered, taking] = [new RequestRecords(table), new DeliveredRecords(table), new RecordTaking(table)];
        const open = new Map<number, Open>();
        const lives = [1, 1, 1];
        for (const { kind, call, choice, count } of ops) {
          const known = open.get(call);
          if (kind === 'open' && known === undefined) {
            const owner = count % 3;
            const id = requestId(owner, 0, call);
            const opened = records.open(sequencesOf(id, choice + 1, count), lives[owner] as number, count * 10);
            const isOpen = opened.length > 0;
            const used = [...open.values()].reduce((sum, { outputs }) => sum + outputs.length, 0);
            expect(isOpen).toBe(used + choice + 1 <= RECORDS);
            if (isOpen)
              open.set(call, {
                ...{ id, call: delivered.of(opened), life: lives[owner] as number, prompt: count, deadline: count * 10 },
                ...{ outputs: Array(choice + 1).fill(0), finished: Array(choice + 1).fill(false) },
              });
          } else if (kind === 'append' && known !== undefined && known.finished[choice] === false) {
            for (let left = count; left > 0; left--) known.call.append(choice, tokenOf(call, choice, next(known.outputs, choice)), false);
          } else if (kind === 'finish' && known?.finished[choice] === false) {
            known.call.append(choice, tokenOf(call, choice, next(known.outputs, choice)), true);
            known.finished[choice] = true;
          } else if (kind === 'close' && known !== undefined) {
            known.call.close();
            open.delete(call);
          } else if (kind === 'take') {
            const [lost, taker] = [count % 3, (count + 1 + (choice % 2)) % 3];
            const life = lives[lost] as number;
            lives[lost] = life + 1;
            const expected = [...open.entries()].filter(([, { id, life: of }]) => jobExecutorOf(id) === lost && of <= life);
            const taken = taking.take(lost, life, { job_executor: taker, life: lives[taker] as number });
            expect(taken.map(({ request }) => callOf(request)).sort()).toEqual(expected.map(([number]) => number).sort());
            for (const { request, sequences, deadline_at_ms, error } of taken) {
              const of = open.get(callOf(request)) as Open;
              const attempt = attemptOf(of.id) + 1;
              expect(error === null).toBe(attempt < ATTEMPTS_MAX);
              expect(request).toBe(requestId(taker, Math.min(attempt, ATTEMPTS_MAX - 1), callOf(request)));
              expect(deadline_at_ms).toBe(of.deadline);
              const unfinished = sequencesOf(request, of.outputs.length, of.prompt).flatMap((sequence) => {
                const output = Array.from({ length: of.outputs[sequence.choice] as number }, (_, index) => tokenOf(callOf(request), sequence.choice, index));
                return of.finished[sequence.choice] ? [] : [{ ...sequence, output }];
              });
              expect(sequences).toEqual(error === null ? unfinished : []);
              if (error === null) expect(taking.read(request)).toEqual({ sequences: unfinished, deadline_at_ms: of.deadline, error: null });
              open.set(callOf(request), { ...of, id: request, life: lives[taker] as number });
            }
            expect(taking.take(lost, life, { job_executor: taker, life: lives[taker] as number })).toEqual([]);
          }
        }
        for (const { call } of open.values()) call.close();
        expect(records.used).toEqual({ calls: 0, records: 0, pages: 0 });
      }),
      { numRuns: runs(150) },
    );
  });

  it('let a call that has ended go on under the next attempt, as often as it may, and no other', () => {
    const { table } = makeTable(4, 300);
    const [records, taking] = [new RequestRecords(table), new RecordTaking(table)];
    records.open(sequencesOf(requestId(1, 0, 5), 2, 10), 1, -1);
    records.open(sequencesOf(requestId(1, 0, 6), 1, 10), 1, -1);
    for (let attempt = 1; attempt < ATTEMPTS_MAX; attempt++) {
      const id = records.reopen(5, { job_executor: 2, life: 3 });
      expect(id).toBe(requestId(2, attempt, 5));
      expect(taking.read(id)?.sequences.map(({ choice }) => choice)).toEqual([0, 1]);
    }
    expect(() => records.reopen(5, { job_executor: 2, life: 3 })).toThrow();
    expect(() => records.reopen(9, { job_executor: 2, life: 3 })).toThrow();
    expect(taking.read(requestId(1, 0, 6))?.sequences).toHaveLength(1);
  });

  it('go on from what there was room for, and take nothing from others', () => {
    const { table } = makeTable(4, 300);
    const [records, delivered, taking] = [new RequestRecords(table), new DeliveredRecords(table), new RecordTaking(table)];
    const first = delivered.of(records.open(sequencesOf(requestId(1, 0, 1), 1, 40), 1, -1));
    expect(records.open(sequencesOf(requestId(1, 0, 2), 1, 10), 1, -1)).toHaveLength(1);
    expect(records.open(sequencesOf(requestId(1, 0, 3), 1, 5_000), 1, -1)).toEqual([]);
    for (let index = 0; index < 400; index++) first.append(0, tokenOf(1, 0, index), false);
    const [cut, other] = taking.take(1, 1, { job_executor: 0, life: 1 });
    expect(other).toMatchObject({ request: requestId(0, 1, 2), sequences: [{ output: [] }], error: null });
    expect(cut).toMatchObject({ request: requestId(0, 1, 1), error: null });
    const output = cut?.sequences[0]?.output ?? [];
    expect(output.length).toBeGreaterThan(0);
    expect(output.length).toBeLessThan(400);
    expect(output).toEqual(Array.from(output, (_, index) => tokenOf(1, 0, index)));
    first.close();
    expect(records.open(sequencesOf(requestId(1, 0, 4), 1, 40), 2, -1)).toHaveLength(1);
  });

  it('are whole to a thread that takes them while another writes: no token out of place, none doubled', async () => {
    const calls = 60;
    const { table, memory } = makeTable(calls, 60 * 600);
    const [records, delivered] = [new RequestRecords(table), new DeliveredRecords(table)];
    const open: DeliveredCall[] = [];
    const flag = new Int32Array(new SharedArrayBuffer(4));
    const args: TakerArgs = { memory, records: calls, base: 0, bytes: 0, flag, calls };
    const plan = planMemory([{ owner: 'pod', kind: 'records', bytes: recordsBytes(calls, 60 * 600) }], 2 ** 28, 2 ** 28);
    const region = plan.regions.find(({ kind }) => kind === 'records');
    const worker = new Worker(new URL('./record-taker.ts', import.meta.url), { workerData: { ...args, base: region?.base, bytes: region?.bytes } });
    const heard = (): Promise<TakerResult> =>
      new Promise((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
      });
    await heard();
    const result = heard();
    const written = Array<number>(calls).fill(0);
    let taken = 0;
    for (let turn = 0; taken < 8; turn++) {
      const call = turn % calls;
      // Each life of job executor 1 has all calls once, some of them closed and opened anew.
      if (written[call] === 0 || turn % 7 === 0) {
        open[call]?.close();
        written[call] = 0;
        open[call] = delivered.of(records.open(sequencesOf(requestId(1, 0, call), 1, 50 + (turn % 40)), Atomics.load(flag, 0) + 1, -1));
      }
      if ((written[call] as number) < 150) open[call]?.append(0, tokenOf(call, 0, next(written, call)), false);
      if (turn % 500 === 499) {
        // The life is over before it is taken over: what is opened from now on is of the next.
        taken = Atomics.add(flag, 0, 1) + 1;
        const until = performance.now() + 5;
        while (performance.now() < until) {
          const busy = Math.floor(Math.random() * calls);
          if ((written[busy] as number) > 0 && (written[busy] as number) < 150) open[busy]?.append(0, tokenOf(busy, 0, next(written, busy)), false);
        }
      }
    }
    Atomics.store(flag, 0, -1);
    const { errors, requests } = await result;
    expect(errors).toEqual([]);
    expect(requests).toBeGreaterThan(0);
  });
});
