/** Who lives and does not answer is waited for so long; who is lost as long as requests wait. */
import { expect, it } from 'vitest';
import type { ExpertBatches } from '../../../src/flowserve/experts/expert-batches.ts';
import type { ExpertService } from '../../../src/flowserve/experts/expert-service.ts';
import type { OutputProjection } from '../../../src/flowserve/forward/output-projection.ts';
import { AskedPeers, PEERS_DEADLINE_MS } from '../../../src/flowserve/steps/asked-peers.ts';

const PEER = 1;

function asking() {
  const clock = { now_ms: 0 };
  const lost = new Set<number>();
  const endpoint = { surroundings: { now_ms: () => clock.now_ms } };
  const exchange = { endpoint, leaveRows: () => {}, dispatchRows: () => 1 };
  const projection = { peers: [PEER], describe: () => ({ rowsAddress: 0, bytes: 0 }) } as unknown as OutputProjection;
  const service = { npu: 0, exchange } as unknown as ExpertService;
  const asked = new AskedPeers({ lost, routing: { epoch: 1 } } as unknown as ExpertBatches, service, projection, (npu) => npu);
  asked.askColumns(3, 1);
  return { asked, clock, lost };
}

it('a peer that lives is waited for until its deadline, and named', () => {
  const { asked, clock } = asking();
  clock.now_ms = PEERS_DEADLINE_MS;
  asked.checkDeadline([]);
  clock.now_ms++;
  expect(() => asked.checkDeadline([])).toThrow(/layer 3 of NPU 0.*1/s);
});

it('one that is lost is waited for however long its successor takes, which is asked again and has as long as any', () => {
  const { asked, clock, lost } = asking();
  lost.add(PEER);
  for (; clock.now_ms < 10 * PEERS_DEADLINE_MS; clock.now_ms += PEERS_DEADLINE_MS / 2) asked.checkDeadline([]);
  // Nobody has looked for long.
  clock.now_ms += 2 * PEERS_DEADLINE_MS;
  lost.delete(PEER);
  asked.askAgain(PEER);
  asked.checkDeadline([]);
  clock.now_ms += 2 * PEERS_DEADLINE_MS;
  expect(() => asked.checkDeadline([])).toThrow(expect.objectContaining({ code: 'deadline_exceeded' }));
});
