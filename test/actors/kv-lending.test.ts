/** Leases on lent KV: those that ran out before anybody had pulled are counted, and no others. */
import { expect, it } from 'vitest';
import { KvLending } from '../../actors/policies/kv-lending.ts';
import { KvRequests } from '../../actors/policies/kv-requests.ts';
import { RelationalTensorCache } from '../../actors/policies/relational-tensor-cache.ts';
import { newRunningSequence } from '../../actors/policies/running-sequence.ts';
import { greedySequence } from '../golden/greedy.ts';
import { HBM_ALONE } from './cache-memory.ts';

it.each([
  ['pulled', false, true, 0],
  ['given up', false, false, 0],
  ['pulled as its lease ran out', true, true, 0],
  ['pulled by nobody until its lease ran out', true, false, 1],
])('of KV that was %s', (_, expires, wasPulled, leases_expired) => {
  const requests = new KvRequests();
  const lending = new KvLending(new RelationalTensorCache({ ...HBM_ALONE, blocks: 8 }), requests, true);
  const running = newRunningSequence('task/1', greedySequence(1, [1, 2, 3], 9), 'prefill', [], { rank: 0, arrival: 0 });
  expect(lending.lend(running, [])).toBe(false);
  const [offer] = requests.take();
  expect(offer).toMatchObject({ kind: 'offer' });
  const id = (offer as { id: number }).id;
  if (expires) lending.expire(id);
  expect(lending.end(id, wasPulled).over).toBe(running);
  expect([lending.leases_expired, lending.size]).toEqual([leases_expired, 0]);
});
