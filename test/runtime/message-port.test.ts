/** Whom a message wakes: whoever sleeps and waits for it, not who finds it soon enough by himself. */
import { expect, it } from 'vitest';
import { enqueueSequence } from '../../src/protocol/constructors.ts';
import { ping, pong } from '../../src/protocol/heartbeats.ts';
import { MessagePort } from '../../src/runtime/message-port.ts';
import { twoThreads } from '../fabric/two-threads.ts';
import { greedySequence } from '../golden/greedy.ts';

it.each([false, true])('wakes nobody for an answer to a heartbeat, nor for what comes before a first token; traced: %s', (isTraced) => {
  const { linksOf, control } = twoThreads(4_096);
  const port = new MessagePort(linksOf(0), isTraced);
  const wakesFor = (message: object): number => {
    const before = control.wakes(1);
    control.markAsleep(1);
    port.send(1, 'caller/0', 'frontend/0', message);
    port.links.flush();
    return control.wakes(1) - before;
  };
  const quiet = [pong('npu/0'), { type: 'PROMPT', request: 1, token_ids: [1, 2], records: [] }, { type: 'SCHEDULED_CALL', request: 1 }];
  expect(quiet.map(wakesFor)).toEqual([0, 0, 0]);
  expect([ping('task-executor/0'), enqueueSequence('task/1', greedySequence(1, [1], 4)), { type: 'CHUNKS', chunks: [] }].map(wakesFor)).toEqual([1, 1, 1]);
});
