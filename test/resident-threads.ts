/**
 * With RESIDENT=1 it stands for src/runtime/thread-start.ts in tests (vitest.config.ts, bundled-threads.ts): the thread of a worker or of a pod's control plane that has ended well
 * serves the next pod. A new thread of each pod would load and warm up the same program again, which is two thirds of what a test with a pod costs.
 *
 *   (a pod starts) ─▶ new thread ─▶ serves ─▶ (its work is over) ─▶ parked, its heap free of the pod ─▶ (a pod starts) ─▶ serves …
 *                                      └─▶ (fails, or is terminated in the midst of its work) ─▶ ended, as threads of the product always are
 *
 * Whoever started it hears of its end when it is parked. A control thread parks its workers with itself. Threads that misbehave, warm ones, recorders and network
 * cards are new each time, and so is everything in a process of its own (vitest.config.ts: `apart`), and in what the command runs.
 */
import { EventEmitter } from 'node:events';
import { parentPort, Worker, type WorkerOptions, workerData } from 'node:worker_threads';
import { threadOptions } from '../src/runtime/thread-entry.ts';

/**
 * Set for a process that runs test files in turn, by its id: what it starts inherits the word, and is another. A thread that runs a mutant was told which one as it
 * started (scripts/mutants).
 */
const isOn = (): boolean => process.env['MINIPOD_RESIDENT'] === String(process.pid) && process.env['MUTANT'] === undefined;
export const keepThreads = (): void => {
  process.env['MINIPOD_RESIDENT'] = String(process.pid);
};

/** So many of an entry are parked at once. */
const PARKED_MAX: Readonly<Record<string, number>> = { 'control-thread': 2, 'npu-worker-thread': 4 };
/** V8 does not count shared memory: a closed pod's is let go of when a buffer of this size is, which is never touched and so free of cost. */
const WEIGHT_BYTES = 2 ** 25;

type Given = { readonly resident: true; readonly data: unknown };
type Over = { readonly resident: 'over'; readonly isEnd: boolean };
const isGiven = (message: unknown): message is Given => (message as Given | null)?.resident === true;
const isOver = (message: unknown): message is Over => (message as Over | null)?.resident === 'over';

const parked = new Map<string, Worker[]>();

export function startThread(entry: URL, options: WorkerOptions = {}): Worker {
  const parked_max = PARKED_MAX[/([a-z-]+-thread)\.m?ts$|platform-([a-z-]+-thread)\.mjs$/.exec(entry.pathname)?.slice(1).find(Boolean) ?? ''] ?? 0;
  const isWarm = 'rehearse' in Object(options.workerData);
  if (!isOn() || parked_max === 0 || isWarm) return new Worker(entry, { ...threadOptions(), ...options });
  return new Lease(entry, options, parked_max) as unknown as Worker;
}

/** A thread, to whoever started it. */
class Lease extends EventEmitter {
  readonly #worker: Worker;
  readonly #idle: Worker[];
  readonly #parked_max: number;
  #isOver = false;
  #hasEnded = false;

  constructor({ href }: URL, options: WorkerOptions, parked_max: number) {
    super();
    this.#idle = parked.get(href) ?? [];
    parked.set(href, this.#idle);
    this.#parked_max = parked_max;
    const given: Given = { resident: true, data: options.workerData };
    const idle = this.#idle.pop();
    this.#worker = idle ?? new Worker(new URL(href), { ...threadOptions(), ...options, workerData: given });
    this.#worker.removeAllListeners();
    this.#worker.on('message', this.#hear).on('error', this.#fail).on('exit', this.#exit);
    if (idle === undefined) return;
    idle.ref();
    idle.postMessage(given);
  }

  get threadId(): number {
    return this.#worker.threadId;
  }

  postMessage(...message: Parameters<Worker['postMessage']>): void {
    this.#worker.postMessage(...message);
  }

  ref(): void {
    this.#worker.ref();
  }

  unref(): void {
    this.#worker.unref();
  }

  async terminate(): Promise<number> {
    if (!this.#hasEnded && !this.#isOver) return await this.#worker.terminate();
    this.#park(1);
    return 1;
  }

  #hear = (message: unknown): void => {
    if (!isOver(message)) this.emit('message', message);
    else if (message.isEnd) this.#park(0);
    else this.#isOver = true;
  };

  #fail = (error: unknown): void => void this.emit('error', error);

  #exit = (code: number): void => {
    this.#hasEnded = true;
    this.emit('exit', code);
  };

  #park(code: number): void {
    if (this.#hasEnded) return;
    const worker = this.#worker;
    const forget = (): void => void this.#idle.splice(0, this.#idle.length, ...this.#idle.filter((other) => other !== worker));
    worker.removeAllListeners();
    worker.on('error', forget).on('exit', forget);
    worker.unref();
    if (this.#idle.length < this.#parked_max) this.#idle.push(worker);
    else void worker.terminate();
    this.#exit(code);
  }
}

/** Of the pod that was served last: let go of when the next one has been. */
const weights: ArrayBuffer[] = [];

export function beginThread<Data>(work: (data: Data) => void): void {
  if (!isGiven(workerData)) {
    work(workerData as Data);
    return;
  }
  const serve = (data: unknown): void => {
    work(data as Data);
    sayOver(true);
  };
  serve(workerData.data);
  parentPort?.on('message', (message: unknown) => {
    if (isGiven(message)) serve(message.data);
  });
}

export function workIsOver(): void {
  if (isGiven(workerData)) sayOver(false);
}

function sayOver(isEnd: boolean): void {
  weights[0] = new ArrayBuffer(WEIGHT_BYTES);
  parentPort?.postMessage({ resident: 'over', isEnd } satisfies Over);
}
