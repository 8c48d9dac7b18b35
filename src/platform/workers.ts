/**
 * Starts the worker threads, and starts one anew that died.
 *
 * A restart is a handshake that no late writer can race: the thread's exit is proven by its event; every survivor lets go of its rings with it and says so;
 * only then are the rings zeroed and the successor started; and only when that one has attached do the survivors attach.
 * @module
 */
import { Worker } from 'node:worker_threads';
import { ControlPage } from '../fabric/control-page.ts';
import { type Links, resetRing } from '../fabric/links.ts';
import type { WorkerData } from '../flowserve/npu-worker.ts';
import type { PodPlan } from '../flowserve/pod-plan.ts';
import { address } from '../protocol/address.ts';
import { assert, type ErrorRecord, MinipodError } from '../protocol/errors.ts';
import { threadPeerLost, threadPeerRestarted } from '../protocol/threads.ts';
import { PROTOCOL_HASH } from '../protocol/wire.ts';
import type { Clock } from '../runtime/clock.ts';
import { threadOfWorker } from '../runtime/directory.ts';
import { waitAtMost } from '../runtime/event-loop.ts';
import type { MessagePort } from '../runtime/message-port.ts';

/** Restart intensity, as Erlang has it: more than this many in the period, and the pod gives up with the reason. */
const RESTARTS_MAX = 5;
const RESTART_PERIOD_MS = 10_000;
const YOUNG_GENERATION_MB = 64;
/** A step takes milliseconds, a long prefill's chunk tens of them. */
const STOP_DEADLINE_MS = 5_000;

export type WorkersPorts = {
  readonly clock: Clock;
  readonly port: MessagePort;
  readonly onLost: (worker: number, error: ErrorRecord) => void;
  /** The pod cannot go on. */
  readonly onGivenUp: (error: MinipodError) => void;
};

type Thread = { handle: Worker; state: 'starting' | 'running' | 'lost' | 'stopped'; readonly detached: Set<number>; error: Error | null; isRestart: boolean };

export class Workers {
  readonly #plan: PodPlan;
  readonly #memories: readonly WebAssembly.Memory[];
  readonly #module: WebAssembly.Module;
  readonly #origin_ms: number;
  readonly #ports: WorkersPorts;
  readonly #threads: Thread[] = [];
  readonly #restarts: number[] = [];
  #isClosing = false;

  constructor(plan: PodPlan, memories: readonly WebAssembly.Memory[], module: WebAssembly.Module, origin_ms: number, ports: WorkersPorts) {
    this.#plan = plan;
    this.#memories = memories;
    this.#module = module;
    this.#origin_ms = origin_ms;
    this.#ports = ports;
  }

  start(): void {
    for (let worker = 0; worker < this.#plan.workers; worker++)
      this.#threads.push({ handle: this.#spawn(worker), state: 'starting', detached: new Set(), error: null, isRestart: false });
  }

  isRunning(worker: number): boolean {
    return this.#threads[worker]?.state === 'running';
  }

  /** The thread has attached its rings: its peers may. It attached those of a peer that is lost meanwhile, too, and must let go of them. */
  started(worker: number): void {
    const thread = this.#thread(worker);
    thread.state = 'running';
    if (thread.isRestart) for (const peer of this.#survivors(worker)) this.#tell(peer, threadPeerRestarted(worker));
    for (const [lost, { state }] of this.#threads.entries()) if (state === 'lost') this.#tell(worker, threadPeerLost(lost));
  }

  /** A survivor has let go of a lost thread's rings; when the last one has, its successor starts. */
  detached(survivor: number, lost: number): void {
    this.#thread(lost).detached.add(survivor);
    this.#restartIfFree(lost);
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    const control = this.#control();
    const exits = this.#threads.map(
      (thread, worker) =>
        new Promise<void>((resolve) => {
          if (thread.state === 'stopped' || thread.state === 'lost') return resolve();
          thread.handle.once('exit', () => resolve());
          control.stop(threadOfWorker(worker));
        }),
    );
    await waitAtMost(Promise.all(exits), STOP_DEADLINE_MS);
    // A worker that hangs does not read its stop word. (On Deno this ends no running thread either; nothing of it is read any more.)
    for (const { state, handle } of this.#threads) if (state !== 'stopped') void handle.terminate();
  }

  /** Raises every stop word without waiting: the pod has failed. */
  stopAll(): void {
    this.#isClosing = true;
    for (const worker of this.#threads.keys()) this.#control().stop(threadOfWorker(worker));
  }

  #thread(worker: number): Thread {
    const thread = this.#threads[worker];
    assert(thread, `there is no worker ${worker}`);
    return thread;
  }

  #control(): ControlPage {
    return new ControlPage(this.#memories);
  }

  #links(): Links {
    return this.#ports.port.links;
  }

  #spawn(worker: number): Worker {
    const workerData: WorkerData = {
      plan: this.#plan,
      worker,
      memories: this.#memories,
      module: this.#module,
      origin_ms: this.#origin_ms,
      protocol: PROTOCOL_HASH,
    };
    // A step leaves some kilobytes of short-lived records; a larger nursery collects them seldom, and one worker's pause stalls its peers.
    const handle = new Worker(entryPoint('../flowserve/npu-worker'), {
      ...threadOptions(),
      workerData,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
    });
    handle.on('error', (error) => {
      const thread = this.#threads[worker];
      if (thread !== undefined) thread.error = error instanceof Error ? error : new Error(String(error));
    });
    handle.on('exit', (code) => this.#exited(worker, code));
    return handle;
  }

  #exited(worker: number, code: number): void {
    const thread = this.#thread(worker);
    if (this.#isClosing) {
      thread.state = 'stopped';
      return;
    }
    const reason = thread.error === null ? `it exited with code ${code}` : thread.error.message;
    const error: ErrorRecord = {
      code: 'worker_failed',
      message: `worker ${worker} failed while it held the request: ${reason}; the request may be sent again`,
      param: null,
    };
    const wasRunning = thread.state === 'running' || thread.isRestart;
    thread.state = 'lost';
    thread.error = null;
    thread.detached.clear();
    // What this thread acknowledged, its successor has not.
    for (const other of this.#threads) other.detached.delete(worker);
    this.#links().detach(threadOfWorker(worker));
    this.#ports.onLost(worker, error);
    if (!wasRunning) {
      this.#ports.onGivenUp(new MinipodError('worker_failed', `worker ${worker} did not start: ${reason}`));
      return;
    }
    const now = this.#ports.clock.now_ms();
    this.#restarts.push(now);
    if (this.#restarts.filter((at) => now - at < RESTART_PERIOD_MS).length > RESTARTS_MAX) {
      this.#ports.onGivenUp(
        new MinipodError('worker_failed', `workers died ${RESTARTS_MAX + 1} times within ${RESTART_PERIOD_MS / 1000} s; the last: ${reason}`),
      );
      return;
    }
    for (const peer of this.#survivors(worker)) this.#tell(peer, threadPeerLost(worker));
    this.#restartIfFree(worker);
  }

  #survivors(worker: number): number[] {
    return this.#threads.flatMap((thread, peer) => (peer !== worker && thread.state === 'running' ? [peer] : []));
  }

  #restartIfFree(worker: number): void {
    const thread = this.#thread(worker);
    const isHeld = this.#threads.some(
      (other, peer) => peer !== worker && (other.state === 'starting' || (other.state === 'running' && !thread.detached.has(peer))),
    );
    // A successor started while the pod closes would never be told to stop.
    if (this.#isClosing || thread.state !== 'lost' || isHeld) return;
    const own = threadOfWorker(worker);
    const first = this.#memories[0] as WebAssembly.Memory;
    for (const ring of this.#plan.rings) if (ring.from === own || ring.to === own) resetRing(first, ring);
    this.#control().reset(own);
    this.#links().attach(own);
    thread.state = 'starting';
    thread.isRestart = true;
    thread.handle = this.#spawn(worker);
  }

  #tell(worker: number, message: object): void {
    this.#ports.port.send(threadOfWorker(worker), address('worker', worker), 'control/0', message, 'control');
  }
}

/** A thread's entry file, beside this one: `.ts` when the sources run as they are, `.js` in dist/. */
export const entryPoint = (path: string): URL => new URL(`${path}${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url);

/** A thread runs a file, so it cannot inherit how the text of `node --input-type … --eval` is to be read. */
export const threadOptions = (): { execArgv?: string[] } => (process.execArgv.some((argument) => argument.startsWith('--input-type')) ? { execArgv: [] } : {});
