/**
 * There and back: how long until an answer is here, with both threads spinning, and with both asleep in between.
 * @module
 */
import { FRAME_KIND, type FrameAddress, type RingConsumer } from '../src/fabric/ring.ts';
import { SlotConsumer, SlotProducer } from '../src/fabric/slots.ts';
import { npuLost } from '../src/protocol/constructors.ts';
import { EventLoopSleeper } from '../src/runtime/event-loop.ts';
import { type Duo, HERE, PLACE, type Side, SPINS_PER_LOOK, THERE } from './fabric-duo.ts';
import { atMost, digits, medianRatio, takeTurns } from './fabric-report.ts';
import { stationOf } from './fabric-station.ts';
import { median, printTable } from './harness.ts';

/** 45 bytes as a payload: what goes to and fro wherever an object does. */
export const MESSAGE = npuLost(3, { code: 'worker_failed', message: 'worker 1 was lost', param: null });
const SPINNING_TRIPS = 40_000;
const SLEEPING_TRIPS = 1_500;
const WARM_ROUNDS = 2;
const SLEEP_MS_MAX = 10_000;
const GOALS = { spinning_us: 0.4, ofBare: 1.3 } as const;
/** One on each side writes it, on lines of their own. */
const PING = PLACE.ping;
const PONG = PLACE.ping + 32;

/** What both halves do: the one here asks and waits for the answer, the one there waits and answers. */
type Ends = { readonly ask: () => void; readonly answer: () => void };
export type TripKind = keyof typeof TRIPS;

const FRAME: FrameAddress = { kind: FRAME_KIND.message, source: 0, destination: 0, roles: 0 };

/** Two words and nothing else: the limit. */
function bareSpin(side: Side): Ends {
  const { words, thread } = side;
  const [mine, theirs] = thread === HERE ? [PING, PONG] : [PONG, PING];
  let seen = Atomics.load(words, theirs);
  const tell = (): void => void Atomics.store(words, mine, Atomics.load(words, mine) + 1);
  const wait = (): void => {
    for (let spin = 1; Atomics.load(words, theirs) === seen; spin++) if (spin % SPINS_PER_LOOK === 0) side.mustGoOn();
    seen++;
  };
  return inOrder(tell, wait);
}

function bareSleep({ words, thread }: Side): Ends {
  const [mine, theirs] = thread === HERE ? [PING, PONG] : [PONG, PING];
  let seen = Atomics.load(words, theirs);
  const tell = (): void => {
    Atomics.store(words, mine, Atomics.load(words, mine) + 1);
    Atomics.notify(words, mine);
  };
  const wait = (): void => {
    while (Atomics.load(words, theirs) === seen) Atomics.wait(words, theirs, seen, SLEEP_MS_MAX);
    seen++;
  };
  return inOrder(tell, wait);
}

function slots(side: Side): Ends {
  const { memory, thread } = side;
  const producer = new SlotProducer(memory, thread === HERE ? PLACE.there : PLACE.back);
  const consumer = new SlotConsumer(memory, thread === HERE ? PLACE.back : PLACE.there);
  let told = 0;
  let heard = 0;
  const tell = (): void => {
    producer.claim(1);
    producer.slots[producer.at] = ++told;
    producer.publish();
  };
  const wait = (): void => {
    for (let spin = 1; consumer.take(1) === 0; spin++) if (spin % SPINS_PER_LOOK === 0) side.mustGoOn();
    if (consumer.slots[consumer.at] !== ++heard) throw new Error(`slot ${heard} says ${consumer.slots[consumer.at]}`);
    consumer.release();
  };
  return inOrder(tell, wait);
}

/** `says`: encoded and decoded on each way; else an empty frame. */
function linked(side: Side, says: object | null, sleeps: boolean): Ends {
  const { links, port } = stationOf(side);
  const peer = side.thread === HERE ? THERE : HERE;
  const handle = (_: number, ring: RingConsumer): void => {
    if (says !== null) port.read(ring);
  };
  const hasInbound = (): boolean => links.hasInbound();
  const tell = (): void => {
    if (says === null) links.send(peer, 'data', FRAME, null);
    else port.send(peer, 'npu/0', 'dp-group/0', says);
    links.flush();
  };
  const wait = (): void => {
    for (let spin = 1; !links.receive(handle); spin++) {
      if (sleeps) side.control.sleep(side.thread, SLEEP_MS_MAX, hasInbound);
      if (spin % SPINS_PER_LOOK === 0) side.mustGoOn();
    }
  };
  return inOrder(tell, wait);
}

const inOrder = (tell: () => void, wait: () => void): Ends => ({
  ask: () => {
    tell();
    wait();
  },
  answer: () => {
    wait();
    tell();
  },
});

const TRIPS = {
  'bare words, spinning': bareSpin,
  'slots, spinning': slots,
  'frames, spinning': (side: Side) => linked(side, null, false),
  'messages, spinning': (side: Side) => linked(side, MESSAGE, false),
  'bare Atomics.wait/notify': bareSleep,
  'frames, asleep': (side: Side) => linked(side, null, true),
  'messages, asleep': (side: Side) => linked(side, MESSAGE, true),
} as const;

/** The other half. */
export function answerTrips(side: Side, { kind, trips }: { kind: TripKind; trips: number }): void {
  const { answer } = TRIPS[kind](side);
  side.meet();
  for (let trip = 0; trip < trips; trip++) answer();
}

/** Microseconds a round trip, the mean of a slice. */
export async function trip_us(duo: Duo, kind: TripKind): Promise<number> {
  const trips = kind.endsWith('spinning') ? SPINNING_TRIPS : SLEEPING_TRIPS;
  const { ask } = TRIPS[kind](duo);
  const answering = duo.there('answerTrips', { kind, trips });
  duo.meet();
  const start = performance.now();
  for (let trip = 0; trip < trips; trip++) ask();
  const took_ms = performance.now() - start;
  await answering;
  return (took_ms / trips) * 1000;
}

// ---------------------------------------------------------------- threads that live with an event loop

/** Takes messages until there were so many, asleep in `waitAsync` while none comes; `answers`: each one is sent back. */
async function takeAwake(side: Side, messages: number, answers: boolean): Promise<void> {
  const { links, port } = stationOf(side);
  const peer = side.thread === HERE ? THERE : HERE;
  const sleeper = new EventLoopSleeper(side.control, side.thread);
  const hasInbound = (): boolean => links.hasInbound();
  let left = messages;
  const handle = (_: number, ring: RingConsumer): void => {
    const { message } = port.read(ring);
    left--;
    if (answers) port.send(peer, 'npu/0', 'dp-group/0', message as object);
  };
  while (left > 0) {
    if (!links.receive(handle)) await sleeper.sleep(SLEEP_MS_MAX, hasInbound);
    links.flush();
  }
}

export function answerAwake(side: Side, messages: number): Promise<void> {
  const answering = takeAwake(side, messages, true);
  side.meet();
  return answering;
}

/** Round trip of a message between two event loops, each woken by its bell. */
export async function eventLoopTrip_us(duo: Duo, trips: number): Promise<number> {
  const { links, port } = stationOf(duo);
  const answering = duo.there('answerAwake', trips);
  duo.meet();
  const start = performance.now();
  for (let trip = 0; trip < trips; trip++) {
    port.send(THERE, 'npu/0', 'dp-group/0', MESSAGE);
    links.flush();
    await takeAwake(duo, 1, false);
  }
  const took_ms = performance.now() - start;
  await answering;
  return (took_ms / trips) * 1000;
}

// ---------------------------------------------------------------- report

export async function measureTrips(duo: Duo): Promise<unknown> {
  const kinds = Object.keys(TRIPS) as TripKind[];
  const turns = Object.fromEntries(kinds.map((kind) => [kind, () => trip_us(duo, kind)])) as Record<TripKind, () => Promise<number>>;
  const came = await takeTurns(turns, WARM_ROUNDS);
  const rows = kinds.map((name) => {
    const bare = name.endsWith('spinning') ? 'bare words, spinning' : 'bare Atomics.wait/notify';
    const goal_us = name === 'slots, spinning' || name === 'frames, spinning' ? GOALS.spinning_us : null;
    return {
      name,
      trip_us: median(came[name]),
      ofBare: medianRatio(came[name], came[bare]),
      goal_us,
      goalOfBare: name === 'frames, asleep' ? GOALS.ofBare : null,
    };
  });
  printTable(
    'Round trips, one at a time: µs',
    ['', 'µs', 'goal', 'of bare', 'goal'],
    rows.map((row) => [row.name, digits(row.trip_us), atMost(row.goal_us, row.trip_us), digits(row.ofBare), atMost(row.goalOfBare, row.ofBare)]),
  );
  return rows;
}
