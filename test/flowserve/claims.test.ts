/** What controllers claim of shared memory: the room that choices have goes with a request that is reopened. */
import { expect, it } from 'vitest';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { allocateSegments, planMemory } from '../../src/fabric/memory-plan.ts';
import { Claims } from '../../src/flowserve/claims.ts';
import { RecordTable } from '../../src/flowserve/record-table.ts';
import { RequestRecords, recordsBytes } from '../../src/flowserve/request-records.ts';
import { address } from '../../src/protocol/address.ts';
import { requestId } from '../../src/protocol/request-ids.ts';
import { greedySequence } from '../golden/greedy.ts';

it('counts the choices of a reopened request as held by who goes on with it, until they are let go of', () => {
  const records = 4;
  const plan = planMemory([{ owner: 'pod', kind: 'records', bytes: recordsBytes(records, 100) }], 2 ** 28, 2 ** 28);
  const space = new AddressSpace(allocateSegments(plan), plan.regions);
  const table = new RecordTable(space, space.region('pod', 'records'), records);
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
