/** What controllers claim of shared memory: the room that choices have goes with a request that is reopened, and one's thread alone is no proof that he lives. */
import { expect, it } from 'vitest';
import { AddressSpace } from '../../../src/fabric/address-space.ts';
import { allocateSegments, planMemory } from '../../../src/fabric/memory-plan.ts';
import { Claims } from '../../../src/flowserve/records/claims.ts';
import { RecordTable } from '../../../src/flowserve/records/record-table.ts';
import { RequestRecords, recordsBytes } from '../../../src/flowserve/records/request-records.ts';
import { type Address, address } from '../../../src/protocol/address.ts';
import { requestId } from '../../../src/protocol/request-ids.ts';
import { CONTROL_THREAD, ON_CONTROL } from '../../../src/runtime/directory.ts';
import { greedySequence } from '../../golden/greedy.ts';

const RECORDS = 4;
function recordsOf(): { readonly space: AddressSpace; readonly table: RecordTable } {
  const plan = planMemory([{ owner: 'pod', kind: 'records', bytes: recordsBytes(RECORDS, 100) }], 2 ** 28, 2 ** 28);
  const space = new AddressSpace(allocateSegments(plan), plan.regions);
  return { space, table: new RecordTable(space, space.region('pod', 'records'), RECORDS) };
}

it('reads of one on the control thread what he has heard, and of his thread what it does where he is not known', () => {
  const { space, table } = recordsOf();
  const directory = { threadOf: () => CONTROL_THREAD, workerOf: () => ON_CONTROL } as never;
  const shared = { control: space.control, records: table, directory, now_ms: () => 0 };
  const wordsOf = (claims: Claims): unknown => claims.perform('cluster-manager/0', { kind: 'progress', members: ['task-executor/0', 'job-executor/0'] })[0];
  const heard: Partial<Record<Address, number>> = { 'task-executor/0': 3, 'job-executor/0': 8 };
  const [near, far] = [new Claims({ ...shared, heardBy: (member) => heard[member] ?? 0 }), new Claims(shared)];
  expect([wordsOf(near), wordsOf(far)]).toMatchObject([{ words: [3, 8] }, { words: [0, 0] }]);
  space.control.turn(CONTROL_THREAD);
  heard['job-executor/0'] = 9;
  expect([wordsOf(near), wordsOf(far)]).toMatchObject([{ words: [3, 9] }, { words: [1, 1] }]);
});

it('counts the choices of a reopened request as held by who goes on with it, until they are let go of', () => {
  const { space, table } = recordsOf();
  const claims = new Claims({ control: space.control, records: table, directory: {} as never, now_ms: () => 0 });
  const request = requestId(1, 0, 5);
  const sequences = [0, 1].map((choice) => greedySequence(request, [7, 8], 9, choice));
  expect(new RequestRecords(table).open(sequences, 1, 0)).toHaveLength(2);
  const ask = () => claims.perform('job-executor/0', { kind: 'choices', request: 'request/9', choices: 2, data_parallel_rank: -1, choices_max: 3 });
  expect(claims.perform('job-executor/1', { kind: 'reopened-record', request: address('request', request) })).toMatchObject([
    { type: 'RECORD_REOPENED', sequences: [{ choice: 0 }, { choice: 1 }], error: null },
  ]);
  expect(ask()).toMatchObject([{ type: 'CHOICES_REFUSED', held: 2 }]);
  claims.perform('job-executor/1', { kind: 'release-choices', choices: 2 });
  expect(ask()).toMatchObject([{ type: 'CHOICES_GRANTED' }]);
});
