/**
 * Two threads that measure together: this one and a worker, each with its half of a job, on memory that both share.
 *
 * The halves spin, so they meet first: a thread that is still starting, or still in its event loop, would be measured with the job.
 * @module
 */
import { once } from 'node:events';
import { type MessagePort, parentPort, Worker } from 'node:worker_threads';
import { ControlPage } from '../src/fabric/control-page.ts';
import { planRings } from '../src/fabric/links.ts';
import { SEGMENT_HEAD_BYTES } from '../src/fabric/memory-plan.ts';
import { ringBytes } from '../src/fabric/ring-layout.ts';

/** The thread that was started first, and the other one. */
export const HERE = 0;
export const THERE = 1;

const PAGES = 512;
/** From here on memory is free for a job's own use. */
export const HEAP_AT = 4 << 20;
/** Slots there and slots back: they fit the first cache of both cores together. */
const SLOTS = { capacity: 16_384, slab_bytes: 0 } as const;
/** As rings between two workers of a pod. */
const LINK_BYTES = 1 << 16;

const MEETING_AT = SEGMENT_HEAD_BYTES;
const THERE_AT = MEETING_AT + 512;
const BACK_AT = THERE_AT + Math.ceil(ringBytes(SLOTS) / 128) * 128;
const LINKS_AT = BACK_AT + Math.ceil(ringBytes(SLOTS) / 128) * 128;

/** Where what lies in the shared memory. Words: who has met, whether the other thread has failed, and those of ping-pong, on lines of their own. */
export const PLACE = {
  met: MEETING_AT / 4,
  failed: MEETING_AT / 4 + 16,
  ping: MEETING_AT / 4 + 32,
  there: { offset: THERE_AT, ...SLOTS },
  back: { offset: BACK_AT, ...SLOTS },
  rings: planRings(
    [
      { from: HERE, to: THERE, capacity: LINK_BYTES },
      { from: THERE, to: HERE, capacity: LINK_BYTES },
    ],
    LINKS_AT,
  ).rings,
} as const;

/** How often a loop that spins calls `mustGoOn`, a power of two. */
export const SPINS_PER_LOOK = 1 << 20;

/** One thread's side of the shared memory. */
export class Side {
  readonly thread: number;
  readonly memory: WebAssembly.Memory;
  readonly words: Int32Array;
  readonly control: ControlPage;
  #meetings = 0;

  constructor(thread: number, memory: WebAssembly.Memory) {
    this.thread = thread;
    this.memory = memory;
    this.words = new Int32Array(memory.buffer);
    this.control = new ControlPage(memory);
  }

  /** Goes on when both threads have come here. */
  meet(): void {
    const both = 2 * ++this.#meetings;
    Atomics.add(this.words, PLACE.met, 1);
    for (let spin = 1; Atomics.load(this.words, PLACE.met) < both; spin++) if (spin % SPINS_PER_LOOK === 0) this.mustGoOn();
  }

  /** @throws when the other thread has failed: whoever waits for it would wait for ever. */
  mustGoOn(): void {
    if (Atomics.load(this.words, PLACE.failed) !== 0) throw new Error('the other thread has failed, see above');
  }
}

/** By name, what the other thread does; its arguments and its result are plain values. */
export type Jobs = Readonly<Record<string, (side: Side, args: never) => unknown>>;

/** For the entry of the other thread. */
export function serveJobs(memory: WebAssembly.Memory, jobs: Jobs): void {
  const side = new Side(THERE, memory);
  parentPort?.on('message', async ({ job, args }: { job: string; args: never }) => {
    try {
      parentPort?.postMessage({ result: await jobs[job]?.(side, args) });
    } catch (error) {
      console.error(`job ${job}:`, error);
      Atomics.store(side.words, PLACE.failed, 1);
      parentPort?.postMessage({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    }
  });
  parentPort?.postMessage('ready');
}

export class Duo extends Side {
  readonly worker: Worker;

  private constructor(worker: Worker, memory: WebAssembly.Memory) {
    super(HERE, memory);
    this.worker = worker;
  }

  static async start(entry: URL): Promise<Duo> {
    const memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true });
    const worker = new Worker(entry, { workerData: memory });
    await once(worker, 'message');
    return new Duo(worker, memory);
  }

  /** Starts the other thread's half; this thread's own may block meanwhile. */
  async there<Result = void>(job: string, args: unknown = null, transfer: MessagePort[] = []): Promise<Result> {
    const answer = once(this.worker, 'message');
    this.worker.postMessage({ job, args }, transfer);
    const [{ result, error }] = await answer;
    if (error !== undefined) throw new Error(`the other thread: ${error}`);
    return result;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.worker.terminate();
  }
}
