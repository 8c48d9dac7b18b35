/**
 * The protocol's own messages, encoded here and decoded on the other thread: against postMessage of the same object, and into the shipped NPU machine.
 * @module
 */
import { createActor } from 'xstate';
import { npu } from '../actors/npu.ts';
import type { RingConsumer } from '../src/fabric/ring.ts';
import type { ChunkRecord } from '../src/protocol/caller.ts';
import { abandon, enqueueSequence, NO_TERMS, npuLost, reportLoads, started } from '../src/protocol/constructors.ts';
import type { Message, NpuMessage } from '../src/protocol/messages.ts';
import { Codec } from '../src/protocol/wire.ts';
import { ActorHost } from '../src/runtime/actor-host.ts';
import { IdleLadder } from '../src/runtime/idle-ladder.ts';
import { type Duo, type Side, THERE } from './fabric-duo.ts';
import { atLeast, digits, medianRatio, takeTurns } from './fabric-report.ts';
import { stationOf } from './fabric-station.ts';
import { streamRate } from './fabric-streams.ts';
import { median, printTable } from './harness.ts';

/** Frames that a turn writes before it publishes them. */
const BATCH = 32;
const FRAMES = 150_000;
const NPU_FRAMES = 60_000;
const POSTS = 5_000;
const WARM_ROUNDS = 4;

const sampling = {
  ...{ temperature: 1, top_p: 1, top_k: 0, min_p: 0, seed: 12_345_678, min_tokens: 0, stop_token_ids: [], logprobs: -1, prompt_logprobs: -1 },
  ...{ bias_ids: [], bias_values: [], presence_penalty: 0, frequency_penalty: 0, repetition_penalty: 1 },
};
const chunkOf = (request: number): ChunkRecord => ({
  ...{
    request,
    choice: 0,
    index: 9,
    text: ' once',
    token_ids: [1_234],
    logprobs: null,
    finish: null,
    stop_string: null,
    stop_token: -1,
    cached: 0,
    drafted: 0,
    parsed: null,
  },
});
const MESSAGES: Readonly<Record<string, object>> = {
  ABANDON: abandon('task/1234567'),
  NPU_LOST: npuLost(3, { code: 'worker_failed', message: 'worker 1 was lost', param: null }),
  'PROMPT of 14 tokens': { type: 'PROMPT', request: 70_000, token_ids: Array.from({ length: 14 }, (_, index) => 900 + index), records: [] },
  'CHUNKS of 3 requests': { type: 'CHUNKS', chunks: [70_001, 70_002, 70_003].map(chunkOf) },
  'ENQUEUE of 3 tokens': enqueueSequence('task/1234567', {
    request: 9_646,
    choice: 0,
    prompt: [1, 86, 1461],
    max_tokens: 128,
    sampling,
    ...NO_TERMS,
  }),
};
/** Payloads that the goals speak of. */
const GOAL_BYTES = { min: 40, max: 60 } as const;
const GOALS = { M_s: 3, times: 25, ofMachine: 0.7 } as const;

/**
 * What the NPU machine takes for ever. In the pod STEP and LAUNCH_DONE never leave the NPU's thread, so no frame has their shape: here they travel in a
 * declared one of the usual size, since the machine hands the plan on and does not look into it.
 */
const inShape = (type: NpuMessage['type']): Message => ({ type, request: 70_000, token_ids: [1, 86, 1461, 613, 265, 531, 460], records: [315] }) as never;
const NPU_MESSAGES: Readonly<Record<string, readonly [Message, Message]>> = {
  'STEP, LAUNCH_DONE in turn': [inShape('STEP'), inShape('LAUNCH_DONE')],
  REPORT_LOADS: [reportLoads(), reportLoads()],
};

/** Two messages in turn, `frames` in all. */
function sendFrames(side: Side, messages: readonly [object, object], frames: number): void {
  const { links, port } = stationOf(side);
  const ladder = new IdleLadder(side.control, side.thread);
  const hasRoom = (): boolean => links.hasInbound();
  for (let sent = 0; sent < frames; ) {
    for (const end = Math.min(frames, sent + BATCH); sent < end; sent++) port.send(THERE, 'npu/0', 'dp-group/0', messages[sent & 1] as object);
    // Full: like a worker with nothing to do, so that the reader has the core to itself.
    while (links.flush()) ladder.idle(hasRoom, true, Number.POSITIVE_INFINITY);
  }
}

/** The receiver's half: the last message as it was read. */
export function takeFrames(side: Side, frames: number): unknown {
  const { links, port } = stationOf(side);
  let left = frames;
  let last: unknown = null;
  const handle = (_: number, ring: RingConsumer): void => {
    last = port.read(ring).message;
    left--;
  };
  side.meet();
  while (left > 0) links.receive(handle);
  side.meet();
  return last;
}

function npuHost(): { host: ActorHost; launches: () => number } {
  let launches = 0;
  const host = new ActorHost({
    // Its report of loads is due after a second of this clock: never.
    clock: { now_ms: () => 0 },
    isLocal: () => false,
    transmit: () => {},
    birthOf: () => null,
    hands: new Map(),
    transfer: () => {},
    launch: () => {
      launches++;
    },
    onUnexpected: (_, message, state) => {
      throw new Error(`the NPU does not expect ${message.type} when it is ${state}`);
    },
  });
  host.spawn('npu/0', { machine: npu, input: { self: 'npu/0', dp_group: 'dp-group/0' } });
  host.send('npu/0', 'npu/0', started());
  host.turn();
  return { host, launches: () => launches };
}

/** The receiver's half, into the machine: how often it launched. */
export function takeIntoNpu(side: Side, frames: number): number {
  const { links, port } = stationOf(side);
  const { host, launches } = npuHost();
  let left = frames;
  const handle = (_: number, ring: RingConsumer): void => {
    const { to, from, message } = port.read(ring);
    host.send(to, from, message as Message);
    left--;
  };
  side.meet();
  while (left > 0 || host.hasMail) {
    links.receive(handle);
    host.turn();
  }
  side.meet();
  return launches();
}

/** The machine alone, as XState runs it: M/s. */
export function sendToActor(_side: Side, { messages, count }: { messages: readonly [Message, Message]; count: number }): number {
  const actor = createActor(npu, { input: { self: 'npu/0', dp_group: 'dp-group/0' } }).start();
  actor.send(started());
  const start = performance.now();
  for (let sent = 0; sent < count; sent++) actor.send(messages[sent & 1] as NpuMessage);
  return count / (performance.now() - start) / 1000;
}

/** The machine in its host, its messages made on the same thread: M/s. */
export function sendToHost(_side: Side, { messages, count }: { messages: readonly [Message, Message]; count: number }): number {
  const { host } = npuHost();
  const start = performance.now();
  for (let sent = 0; sent < count; ) {
    for (const end = Math.min(count, sent + BATCH); sent < end; sent++) host.send('npu/0', 'dp-group/0', messages[sent & 1] as Message);
    host.turn();
  }
  return count / (performance.now() - start) / 1000;
}

/** Sends while the other thread does `job`: M/s, and what the job yields. */
export async function frameRate<Result>(duo: Duo, job: string, messages: readonly [object, object], frames: number): Promise<{ rate: number; result: Result }> {
  const taking = duo.there<Result>(job, frames);
  duo.meet();
  const start = performance.now();
  sendFrames(duo, messages, frames);
  duo.meet();
  const took_ms = performance.now() - start;
  return { rate: frames / took_ms / 1000, result: await taking };
}

const bytesOf = (message: object): number => new Codec().encode(message).length;

export async function measureMessages(duo: Duo): Promise<unknown> {
  const rows = [];
  for (const [name, message] of Object.entries(MESSAGES)) {
    const framed = async (): Promise<number> => {
      const { rate, result } = await frameRate(duo, 'takeFrames', [message, message], FRAMES);
      if (JSON.stringify(result) !== JSON.stringify(message)) throw new Error(`${name} came as ${JSON.stringify(result)}`);
      return rate;
    };
    const came = await takeTurns({ framed, post: () => streamRate(duo, () => message, POSTS, 'MessageChannel') }, WARM_ROUNDS);
    const bytes = bytesOf(message);
    const isGoal = bytes >= GOAL_BYTES.min && bytes <= GOAL_BYTES.max;
    const goals = isGoal ? { M_s: GOALS.M_s, times: GOALS.times } : { M_s: null, times: null };
    rows.push({ name, bytes, framed_M_s: median(came.framed), postMessage_M_s: median(came.post), times: medianRatio(came.framed, came.post), goals });
  }
  printTable(
    `Messages, encode to decode, thread to thread, published ${BATCH} at a time: M/s`,
    ['message', 'payload, bytes', 'framed', 'goal', 'postMessage', 'times', 'goal'],
    rows.map((row) => [
      row.name,
      String(row.bytes),
      digits(row.framed_M_s),
      atLeast(row.goals.M_s, row.framed_M_s),
      digits(row.postMessage_M_s),
      digits(row.times),
      atLeast(row.goals.times, row.times),
    ]),
  );
  return rows;
}

export async function measureNpu(duo: Duo): Promise<unknown> {
  const rows = [];
  for (const [name, messages] of Object.entries(NPU_MESSAGES)) {
    const args = { messages, count: NPU_FRAMES };
    const launchesExpected = messages[0].type === 'STEP' ? NPU_FRAMES / 2 : NPU_FRAMES;
    const framed = async (): Promise<number> => {
      const { rate, result } = await frameRate<number>(duo, 'takeIntoNpu', messages, NPU_FRAMES);
      if (result !== launchesExpected) throw new Error(`${name}: ${result} launches of ${launchesExpected}`);
      return rate;
    };
    const came = await takeTurns(
      { framed, actor: () => duo.there<number>('sendToActor', args), host: () => duo.there<number>('sendToHost', args) },
      WARM_ROUNDS,
    );
    rows.push({
      name,
      bytes: bytesOf(messages[0]),
      framed_M_s: median(came.framed),
      actorSend_M_s: median(came.actor),
      host_M_s: median(came.host),
      ofActorSend: medianRatio(came.framed, came.actor),
      goal: GOALS.ofMachine,
    });
  }
  printTable(
    'Messages into the shipped NPU machine: M/s',
    ['message', 'payload, bytes', 'from the other thread', 'actor.send alone', 'ratio', 'goal', 'its host alone'],
    rows.map((row) => [
      row.name,
      String(row.bytes),
      digits(row.framed_M_s),
      digits(row.actorSend_M_s),
      digits(row.ofActorSend),
      atLeast(row.goal, row.ofActorSend),
      digits(row.host_M_s),
    ]),
  );
  return rows;
}
