/** One of the threads of all-pairs.ts: sends to all others without pause, and checks every word of what they send. */
import { workerData } from 'node:worker_threads';
import { ControlPage } from '../../src/fabric/control-page.ts';
import type { Lane } from '../../src/fabric/link-counters.ts';
import { Links } from '../../src/fabric/links.ts';
import { FRAME_KIND, type RingConsumer } from '../../src/fabric/ring.ts';
import { Scratch, wordsOfBytes } from '../../src/fabric/scratch.ts';
import type { AllPairsData } from './all-pairs.ts';

const { thread, threads, memories, rings, controlAt, tableAt, seed } = workerData as AllPairsData;
const [memory] = memories;
const table = new Int32Array(memory.buffer, tableAt);
const RECORD_WORDS = 8;
const own = thread * RECORD_WORDS;

/** Bursts keep the ring's batches real; what waits is bounded, so that memory is. */
const BURST = 24;
const WAITING_MAX = 32;
const PATTERN_WORDS = 1 << 17;
const LANES: readonly Lane[] = ['control', 'data'];

/** xorshift: the receiver draws the same numbers as its sender. */
class Draw {
  #state: number;

  constructor(start: number) {
    this.#state = start | 1;
  }

  next(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return state >>> 0;
  }
}

/** Mostly small; some go to the slab; a few are larger than it. */
function drawBytes(draw: Draw): number {
  const number = draw.next();
  const kind = number % 4_096;
  const rest = (number >>> 12) / 2 ** 20;
  if (kind === 0) return Math.floor(rest * 300_000);
  if (kind < 24) return Math.floor(rest * 12_000);
  if (kind < 400) return Math.floor(rest * 1_500);
  return Math.floor(rest * 120);
}

const pattern = new Int32Array(2 * PATTERN_WORDS);
const patternDraw = new Draw(77);
for (let index = 0; index < PATTERN_WORDS; index++) {
  pattern[index] = patternDraw.next();
  pattern[index + PATTERN_WORDS] = pattern[index] as number;
}
const patternAt = (sequence: number, from: number): number => (sequence * 31 + from * 1_009) & (PATTERN_WORDS - 1);

class Stream {
  readonly peer: number;
  readonly lane: Lane;
  readonly sends: Draw;
  readonly expects: Draw;
  sent = 0;
  received = 0;

  constructor(peer: number, lane: Lane) {
    const key = (from: number, to: number): number => seed + 1_000_003 * (from * threads + to) + (lane === 'data' ? 499 : 0);
    this.peer = peer;
    this.lane = lane;
    this.sends = new Draw(key(thread, peer));
    this.expects = new Draw(key(peer, thread));
  }
}

const streams: Stream[] = [];
for (let peer = 0; peer < threads; peer++) for (const lane of LANES) if (peer !== thread) streams.push(new Stream(peer, lane));
const streamOf = (peer: number, lane: number): Stream => streams[(peer - (peer > thread ? 1 : 0)) * LANES.length + lane] as Stream;

const control = new ControlPage(memories, controlAt);
const links = new Links(thread, memory, rings, control, { now_us: () => (performance.timeOrigin + performance.now()) * 1_000 });
const scratch = new Scratch(1_024);
const address = { kind: FRAME_KIND.message, source: 0, destination: 0, roles: 0 };
let errors = 0;
let frames = 0;

function sendBurst(stream: Stream, lane: number): void {
  for (let count = 0; count < BURST && links.waiting(stream.peer, stream.lane) < WAITING_MAX; count++) {
    const bytes = drawBytes(stream.sends);
    address.source = stream.sent;
    address.destination = bytes;
    address.roles = lane;
    links.sendWords(stream.peer, stream.lane, address, pattern, patternAt(stream.sent, thread), bytes);
    stream.sent++;
  }
}

function check(peer: number, ring: RingConsumer): void {
  const { header } = ring;
  const stream = streamOf(peer, header.roles);
  const bytes = drawBytes(stream.expects);
  if (header.source !== stream.received || header.bytes !== bytes || header.destination !== bytes) errors++;
  ring.copyPayload(scratch);
  const first = patternAt(stream.received, peer);
  const whole = bytes >>> 2;
  let difference = 0;
  for (let index = 0; index < whole; index++) difference |= (scratch.words[index] as number) ^ (pattern[first + index] as number);
  if ((bytes & 3) !== 0) difference |= ((scratch.words[whole] as number) ^ (pattern[first + whole] as number)) << (32 - 8 * (bytes & 3));
  if (difference !== 0 || wordsOfBytes(bytes) > PATTERN_WORDS) errors++;
  stream.received++;
  frames++;
}

const hasWork = (): boolean => links.hasInbound();
const canSend = (stream: Stream): boolean => links.waiting(stream.peer, stream.lane) < WAITING_MAX;
/** Each thread says what it has sent before it ends; when all has come, all are done. */
const isComplete = (): boolean => {
  let sent = 0;
  for (let from = 0; from < threads; from++) {
    if (Atomics.load(table, from * RECORD_WORDS) === 0) return false;
    sent += from === thread ? 0 : Atomics.load(table, threads * RECORD_WORDS + from * threads + thread);
  }
  return frames === sent;
};

/** Peers have read all of it and given the room back, of rings and slabs. */
const isDrained = (): boolean => links.counters().every(({ lane, ring_free_bytes, slab_bytes }) => slab_bytes === 0 && ring_free_bytes === capacityOf(lane));
const capacityOf = (lane: Lane): number => rings.find((ring) => ring.lane === lane)?.capacity ?? 0;

function sayWhatWasSent(): void {
  for (let to = 0; to < threads; to++) {
    const sent = streams.reduce((sum, stream) => sum + (stream.peer === to ? stream.sent : 0), 0);
    Atomics.store(table, threads * RECORD_WORDS + thread * threads + to, sent);
  }
  Atomics.store(table, own, 1);
}

for (let isEnding = false, waits = false; !isEnding || waits || !isComplete() || !isDrained(); ) {
  let busy = links.receive(check);
  if (!isEnding) {
    for (let index = 0; index < streams.length; index++) {
      const stream = streams[index] as Stream;
      busy = canSend(stream) || busy;
      sendBurst(stream, index % LANES.length);
    }
    isEnding = control.isStopped(thread);
    if (isEnding) sayWhatWasSent();
  }
  waits = links.flush();
  // An ending thread looks up by itself: nobody rings when the last one has said what it sent.
  if (!busy) control.sleep(thread, isEnding ? 1 : 1_000, hasWork);
}
const counters = links.counters();
const stale = counters.reduce((sum, link) => sum + link.stale, 0);
const full = counters.reduce((sum, link) => sum + link.full, 0);
const sampled = counters.reduce((sum, { latencies_us }) => sum + latencies_us.reduce((total, count) => total + count, 0), 0);
for (const [index, value] of [frames, errors, stale, full, sampled].entries()) Atomics.store(table, own + 1 + index, value);
