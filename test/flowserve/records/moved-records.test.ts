/** Request records move to the memory of a lost pod's successor: what goes on from them there is what its caller has, and nothing else is taken there. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { type DeliveredCall, DeliveredRecords } from '../../../src/flowserve/records/delivered-records.ts';
import { RecordTaking } from '../../../src/flowserve/records/record-taking.ts';
import { RequestRecords } from '../../../src/flowserve/records/request-records.ts';
import { attemptOf, requestId } from '../../../src/protocol/request-ids.ts';
import { runs } from '../../property-runs.ts';
import { makeTable, sequencesOf, tokenOf } from './records.ts';

const RECORDS = 12;
const TOKENS = 12_000;
const LIFE = 1;
const OWNER = 1;

type Asked = { readonly choices: number; readonly prompt: number; readonly outputs: readonly number[]; readonly isClosed: boolean };
const asked: fc.Arbitrary<Asked> = fc.record({
  choices: fc.integer({ min: 1, max: 3 }),
  prompt: fc.integer({ min: 1, max: 200 }),
  outputs: fc.array(fc.nat(150), { minLength: 3, maxLength: 3 }),
  isClosed: fc.boolean(),
});

const append = (call: DeliveredCall, number: number, choice: number, from: number, to: number): void => {
  for (let index = from; index < to; index++) call.append(choice, tokenOf(number, choice, index), false);
};

it('go on where they have moved from what their caller had, and from what it gets there', () => {
  fc.assert(
    fc.property(fc.array(asked, { maxLength: 8 }), fc.nat(40), fc.boolean(), (calls, more, isCleared) => {
      const [lost, successor] = [makeTable(RECORDS, TOKENS).table, makeTable(RECORDS, TOKENS).table];
      const [records, delivered] = [new RequestRecords(lost), new DeliveredRecords(lost)];
      const open = new Map<number, DeliveredCall>();
      for (const [number, { choices, prompt, outputs, isClosed }] of calls.entries()) {
        const opened = records.open(sequencesOf(requestId(OWNER, 0, number), choices, prompt), LIFE, 50);
        if (opened.length === 0) continue;
        const call = delivered.of(opened);
        for (let choice = 0; choice < choices; choice++) append(call, number, choice, 0, outputs[choice] as number);
        if (isClosed) call.close();
        else open.set(number, call);
      }
      // Its caller was never told of it: the thread that opened it died before.
      records.open(sequencesOf(requestId(OWNER, 0, 99), 1, 20), LIFE, -1);

      const anew = new RequestRecords(successor);
      // The successor's may lie where the lost one's were.
      if (isCleared) {
        delivered.setAside();
        lost.words.fill(0);
      }
      delivered.moveTo(successor);
      const choicesOf = (number: number): number => (calls[number] as Asked).choices;
      expect(anew.used).toMatchObject({ calls: open.size, records: [...open.keys()].reduce((sum, number) => sum + choicesOf(number), 0) });
      const taking = new RecordTaking(successor);
      // They are nobody's, so nobody takes them over.
      for (const owner of [0, OWNER]) expect(taking.take(owner, LIFE, { job_executor: 0, life: 7 })).toEqual([]);
      for (const [number, call] of open) {
        const { choices, prompt, outputs } = calls[number] as Asked;
        const id = anew.reopen(number, { job_executor: 0, life: LIFE });
        expect(attemptOf(id)).toBe(1);
        for (let choice = 0; choice < choices; choice++) append(call, number, choice, outputs[choice] as number, (outputs[choice] as number) + more);
        const read = taking.read(id);
        expect(read?.deadline_at_ms).toBe(50);
        expect(read?.sequences).toEqual(
          sequencesOf(id, choices, prompt).map((sequence, choice) => ({
            ...sequence,
            output: Array.from({ length: (outputs[choice] as number) + more }, (_, index) => tokenOf(number, choice, index)),
          })),
        );
        call.close();
      }
      expect(anew.used).toEqual({ calls: 0, records: 0, pages: 0 });
    }),
    { numRuns: runs(60) },
  );
});

it('move to a table of the same size alone', () => {
  const delivered = new DeliveredRecords(makeTable(RECORDS, TOKENS).table);
  expect(() => delivered.moveTo(makeTable(RECORDS, TOKENS / 2).table)).toThrow(/of the same size/);
});
