/**
 * Starts the worker threads, and starts one anew that died or was given up.
 *
 *   running ─▶ (exits by itself) ─────────────────────────────▶ lost ─▶ starting, on the same seat
 *      └─▶ given up: epochs raised, stop word set, terminated ──┴─▶ (no proof that it stopped) ─▶ seat in quarantine, starting on a spare one
 *
 * A restart is a handshake that no late writer can race: every survivor lets go of the rings and says so; only when the thread's exit is proven too are the
 * rings zeroed and the successor started on them; and only when that one has attached do the survivors attach. Deno does not stop a terminated thread
 * that runs: then all that it could write stays in quarantine, and its successor gets other memory, until it acknowledges its stop word after all.
 * @module
 */
import { Worker } from 'node:worker_threads';
import type { AddressSpace } from '../fabric/address-space.ts';
import { type Links, resetRing } from '../fabric/links.ts';
import type { RegionState } from '../fabric/region-table.ts';
import type { NpuLayout } from '../flowserve/npu-layout.ts';
import type { WorkerData } from '../flowserve/npu-worker.ts';
import type { PodPlan } from '../flowserve/pod-plan.ts';
import { address } from '../protocol/address.ts';
import { assert, type ErrorRecord, MinipodError } from '../protocol/errors.ts';
import { threadPeerLost, threadPeerRestarted } from '../protocol/threads.ts';
import { PROTOCOL_HASH } from '../protocol/wire.ts';
import type { Clock } from '../runtime/clock.ts';
import { type Directory, firstSeat, type Seat, spareSeats } from '../runtime/directory.ts';
import { waitAtMost } from '../runtime/event-loop.ts';
import type { MessagePort } from '../runtime/message-port.ts';

/** Restart intensity, as Erlang has it: more than this many in the period, and the pod gives up with the reason. */
const RESTARTS_MAX = 5;
const RESTART_PERIOD_MS = 10_000;
const YOUNG_GENERATION_MB = 64;
/** A step takes milliseconds, a long prefill's chunk tens of them. */
const STOP_DEADLINE_MS = 5_000;
/** A thread that reads its stop word stops within 50 ms; one that has not by now is terminated, and has as long again to be seen ending. */
const STOP_GRACE_MS = 250;
/** A quarantined thread is looked after this often: it may have read its stop word at last. */
const QUARANTINE_LOOK_MS = 250;
/** Node ends a terminated thread before it says that it exited. Deno (2.9.6) says so at once, and a busy thread was seen writing 9 s later. */
const TERMINATION_IS_PROOF = !('Deno' in globalThis);

export type WorkersPorts = {
  readonly clock: Clock;
  readonly port: MessagePort;
  readonly directory: Directory;
  /** What a worker thread runs. */
  readonly entry: URL;
  readonly onLost: (worker: number, error: ErrorRecord) => void;
  /** Loads what the worker's NPUs need onto the dies of a seat, and says where it lies. */
  readonly furnish: (worker: number, seat: Seat) => readonly NpuLayout[];
  /** The pod cannot go on. */
  readonly onGivenUp: (error: MinipodError) => void;
};

type Thread = {
  handle: Worker;
  seat: Seat;
  layouts: readonly NpuLayout[];
  state: 'starting' | 'running' | 'lost' | 'stopped';
  /** Of a lost thread: what is known of its end. */
  end: 'unknown' | 'proven' | 'in quarantine';
  isTerminated: boolean;
  readonly detached: Set<number>;
  error: Error | null;
  isRestart: boolean;
};
type Quarantined = { readonly worker: number; readonly handle: Worker; readonly seat: Seat };

export class Workers {
  readonly #plan: PodPlan;
  readonly #space: AddressSpace;
  readonly #module: WebAssembly.Module;
  readonly #origin_ms: number;
  readonly #ports: WorkersPorts;
  readonly #threads: Thread[] = [];
  readonly #spares: Seat[];
  #quarantined: Quarantined[] = [];
  #look: ReturnType<typeof setInterval> | null = null;
  readonly #restarts: number[] = [];
  #isClosing = false;

  constructor(plan: PodPlan, space: AddressSpace, module: WebAssembly.Module, origin_ms: number, ports: WorkersPorts) {
    this.#plan = plan;
    this.#space = space;
    this.#module = module;
    this.#origin_ms = origin_ms;
    this.#ports = ports;
    this.#spares = spareSeats(plan.topology);
    for (const seat of this.#spares) this.#markDies(seat, 'free');
  }

  start(): void {
    for (let worker = 0; worker < this.#plan.workers; worker++) {
      const seat = firstSeat(worker, this.#plan.topology);
      const layouts = this.#ports.directory.npusOfWorker(worker).map((npu) => this.#plan.layouts[npu] as NpuLayout);
      const handle = this.#spawn(worker, layouts);
      this.#threads.push({
        handle,
        seat,
        layouts,
        state: 'starting',
        end: 'unknown',
        isTerminated: false,
        detached: new Set(),
        error: null,
        isRestart: false,
      });
    }
  }

  isRunning(worker: number): boolean {
    return this.#threads[worker]?.state === 'running';
  }

  /** Seats that a thread without proof of its end may still write. */
  get quarantined(): number {
    return this.#quarantined.length;
  }

  isQuarantined(thread: number): boolean {
    return this.#quarantined.some(({ seat }) => seat.thread === thread);
  }

  /** The thread has attached its rings: its peers may. It attached those of a peer that is lost meanwhile, too, and must let go of them. */
  started(worker: number): void {
    const thread = this.#thread(worker);
    thread.state = 'running';
    const { seat, isRestart } = thread;
    if (isRestart) for (const peer of this.#survivors(worker)) this.#tell(peer, threadPeerRestarted(worker, seat.thread, seat.dies));
    for (const [lost, { state }] of this.#threads.entries()) if (state === 'lost') this.#tell(worker, threadPeerLost(lost));
  }

  /** A survivor has let go of a lost thread's rings; when the last one has, its successor starts. */
  detached(survivor: number, lost: number): void {
    this.#thread(lost).detached.add(survivor);
    this.#restartIfFree(lost);
  }

  /**
   * Gives a worker up that hangs: from here on nothing counts that it writes. It is told to stop, then terminated; without proof that it stopped, its
   * memory goes into quarantine.
   */
  giveUp(worker: number, reason: string): void {
    const thread = this.#thread(worker);
    if (thread.state !== 'running' || this.#isClosing) return;
    thread.error = new Error(reason);
    this.#space.control.stop(thread.seat.thread);
    this.#lose(worker, `it was given up, since ${reason}`);
    const { handle } = thread;
    setTimeout(() => {
      if (thread.handle !== handle || thread.end === 'proven') return;
      thread.isTerminated = true;
      void handle.terminate();
      setTimeout(() => {
        if (thread.handle === handle && thread.end === 'unknown') this.#quarantine(worker);
      }, STOP_GRACE_MS);
    }, STOP_GRACE_MS);
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    if (this.#look !== null) clearInterval(this.#look);
    const { control } = this.#space;
    const exits = this.#threads.map(
      (thread) =>
        new Promise<void>((resolve) => {
          if (thread.state === 'stopped' || thread.state === 'lost') return resolve();
          thread.handle.once('exit', () => resolve());
          control.stop(thread.seat.thread);
        }),
    );
    await waitAtMost(Promise.all(exits), STOP_DEADLINE_MS);
    // A worker that hangs does not read its stop word. (On Deno this ends no running thread either; nothing of it is read any more.)
    for (const { state, handle } of this.#threads) if (state !== 'stopped') void handle.terminate();
  }

  /** Raises every stop word without waiting: the pod has failed. */
  stopAll(): void {
    this.#isClosing = true;
    if (this.#look !== null) clearInterval(this.#look);
    for (const { seat } of this.#threads) this.#space.control.stop(seat.thread);
  }

  #thread(worker: number): Thread {
    const thread = this.#threads[worker];
    assert(thread, `there is no worker ${worker}`);
    return thread;
  }

  #links(): Links {
    return this.#ports.port.links;
  }

  #spawn(worker: number, layouts: readonly NpuLayout[]): Worker {
    const workerData: WorkerData = {
      plan: this.#plan,
      worker,
      seating: this.#ports.directory.seating,
      layouts,
      memories: this.#space.memories,
      module: this.#module,
      origin_ms: this.#origin_ms,
      protocol: PROTOCOL_HASH,
    };
    // A step leaves some kilobytes of short-lived records; a larger nursery collects them seldom, and one worker's pause stalls its peers.
    const handle = new Worker(this.#ports.entry, {
      ...threadOptions(),
      workerData,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
    });
    handle.on('error', (error) => {
      const thread = this.#threads[worker];
      if (thread?.handle === handle) thread.error = error instanceof Error ? error : new Error(String(error));
    });
    handle.on('exit', (code) => this.#exited(worker, handle, code));
    return handle;
  }

  #exited(worker: number, handle: Worker, code: number): void {
    const thread = this.#threads[worker];
    // One in quarantine: that it exited proves nothing, what it acknowledges does.
    if (thread === undefined || thread.handle !== handle) return;
    if (this.#isClosing) {
      thread.state = 'stopped';
      return;
    }
    const isProof = !thread.isTerminated || TERMINATION_IS_PROOF || this.#space.control.hasAcknowledged(thread.seat.thread);
    if (isProof) thread.end = 'proven';
    if (thread.state === 'lost') {
      this.#restartIfFree(worker);
      return;
    }
    const wasRunning = thread.state === 'running' || thread.isRestart;
    const reason = thread.error === null ? `it exited with code ${code}` : thread.error.message;
    this.#lose(worker, reason);
    if (!wasRunning) this.#ports.onGivenUp(new MinipodError('worker_failed', `worker ${worker} did not start: ${reason}`));
  }

  /** From here on nothing counts that the thread wrote or writes; what it held fails. */
  #lose(worker: number, reason: string): void {
    const thread = this.#thread(worker);
    const { control, table } = this.#space;
    const error: ErrorRecord = {
      code: 'worker_failed',
      message: `worker ${worker} failed while it held the request: ${reason}; the request may be sent again`,
      param: null,
    };
    control.raiseEpoch(thread.seat.thread);
    for (const die of thread.seat.dies) control.raiseEpochOfDie(die);
    for (const region of this.#regionsOf(thread.seat)) table.raiseEpoch(region);
    thread.state = 'lost';
    thread.error = null;
    thread.detached.clear();
    // What this thread acknowledged, its successor has not.
    for (const other of this.#threads) other.detached.delete(worker);
    this.#links().detach(thread.seat.thread);
    this.#ports.onLost(worker, error);
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

  /** Nobody knows whether the thread still runs: its rings and dies are neither read nor given out, and its successor gets spare ones. */
  #quarantine(worker: number): void {
    const thread = this.#thread(worker);
    const spare = this.#spares.shift();
    if (spare === undefined) {
      this.#ports.onGivenUp(
        new MinipodError(
          'worker_failed',
          `worker ${worker} does not stop, so its memory stays in quarantine, and no spare is left: ${this.#plan.topology.spare_workers} spare_workers, ${this.quarantined} in quarantine before`,
        ),
      );
      return;
    }
    this.#quarantined.push({ worker, handle: thread.handle, seat: thread.seat });
    this.#markDies(thread.seat, 'quarantined');
    this.#look ??= setInterval(() => this.#lookAfterQuarantined(), QUARANTINE_LOOK_MS);
    thread.end = 'in quarantine';
    thread.seat = spare;
    this.#markDies(spare, 'held');
    thread.layouts = this.#ports.furnish(worker, spare);
    this.#restartIfFree(worker);
  }

  #lookAfterQuarantined(): void {
    const { control } = this.#space;
    this.#quarantined = this.#quarantined.filter(({ seat }) => {
      if (!control.hasAcknowledged(seat.thread)) return true;
      this.#markDies(seat, 'free');
      this.#spares.push(seat);
      return false;
    });
    if (this.#quarantined.length > 0 || this.#look === null) return;
    clearInterval(this.#look);
    this.#look = null;
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
    if (this.#isClosing || thread.state !== 'lost' || thread.end === 'unknown' || isHeld) return;
    const { seat } = thread;
    // What it did to its own weights between being given up and being ended, nobody knows.
    if (thread.isTerminated && thread.end === 'proven') thread.layouts = this.#ports.furnish(worker, seat);
    const first = this.#space.memories[0] as WebAssembly.Memory;
    for (const ring of this.#plan.rings) if (ring.from === seat.thread || ring.to === seat.thread) resetRing(first, ring);
    this.#space.control.reset(seat.thread);
    this.#ports.directory.move(worker, seat);
    this.#links().attach(seat.thread);
    thread.state = 'starting';
    thread.end = 'unknown';
    thread.isTerminated = false;
    thread.isRestart = true;
    thread.handle = this.#spawn(worker, thread.layouts);
  }

  #regionsOf({ dies }: Seat): number[] {
    return dies.map((die) => {
      const { owner, kind } = this.#plan.dies[die] as PodPlan['dies'][number];
      return this.#space.table.indexOf(owner, kind);
    });
  }

  #markDies(seat: Seat, state: RegionState): void {
    for (const region of this.#regionsOf(seat)) this.#space.table.setState(region, state);
  }

  #tell(worker: number, message: object): void {
    this.#ports.port.send(this.#thread(worker).seat.thread, address('worker', worker), 'control/0', message, 'control');
  }
}

/** A thread's entry file, beside this one: `.ts` when the sources run as they are, `.js` in dist/. */
export const entryPoint = (path: string): URL => new URL(`${path}${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url);

/** A thread runs a file, so it cannot inherit how the text of `node --input-type … --eval` is to be read. */
export const threadOptions = (): { execArgv?: string[] } => (process.execArgv.some((argument) => argument.startsWith('--input-type')) ? { execArgv: [] } : {});
