/**
 * Starts the worker threads, and starts one anew that died or was given up.
 *
 *   running ─▶ (says that it fails, or exits by itself) ───────────────────▶ lost ─▶ starting, on the same seat
 *      └─▶ given up: epochs raised, then stop word set, then terminated ──────┴─▶ (Deno: no proof that it stopped) ─▶ seat in quarantine, starting on a spare one
 *
 * A restart is a handshake that no late writer can race: every survivor lets go of the rings and says so; only when the thread's end is proven too are the
 * rings zeroed, its seat's queue pairs closed (network-card.ts) and the successor started on them; and only when that one has attached do the survivors attach. Deno does not stop a terminated thread
 * that runs: then all that it could write stays in quarantine, and its successor gets other memory, until it acknowledges its stop word after all.
 * Whichever worker is silent in this handshake is given up in its turn; the caller's thread, which lets go of rings too, is waited for, however busy it is.
 *
 * With `respawn: false` it ends where the peers have let go of the rings: those that are left go on; or one of them ends, too, and the lost one begins on its seat.
 *
 * With `recovery: 'restart'` all others are given up with a lost worker; when the last has ended they begin one after the other, decode first.
 * @module
 */
import type { Worker } from 'node:worker_threads';
import type { AddressSpace } from '../fabric/address-space.ts';
import type { PodPlan } from '../flowserve/pod-plan.ts';
import { address } from '../protocol/address.ts';
import { assert, type ErrorRecord, MinipodError, toErrorRecord } from '../protocol/errors.ts';
import type { SwitchRoleMessage } from '../protocol/role-switch.ts';
import { threadPeerLost, threadPeerRestarted } from '../protocol/threads.ts';
import { CALLER_THREAD, type Seat, seatsOf } from '../runtime/directory.ts';
import { waitAtMost } from '../runtime/event-loop.ts';
import { TERMINATION_IS_PROOF } from '../runtime/thread-start.ts';
import type { ControlHandle } from './control-handle.ts';
import { Recoveries } from './recoveries.ts';
import { RESTART_PERIOD_MS, RESTARTS_MAX, RestartIntensity } from './restart-intensity.ts';
import { nextToBegin, restartStages } from './restart-stages.ts';
import { RoleSuccessions } from './role-successions.ts';
import { SeatRegions } from './seat-regions.ts';
import { SpareSeats } from './spare-seats.ts';
import { WarmThread } from './warm-thread.ts';
import { HANDSHAKE_DEADLINE_MS, LAST_WRITE_LOOK_MS, SILENT_GRACE_MS, STOP_DEADLINE_MS, STOP_GRACE_MS, TERMINATION_DEADLINE_MS } from './worker-deadlines.ts';
import { endedError, gaveWayError, lostError, noSpareLeft } from './worker-errors.ts';
import { beginAgain, exitOf, hasBegun, newThread, REFURNISH_MS, type Thread, waitedFor } from './worker-life.ts';
import { epochsOf, startWarmThread, startWorkerThread, type WorkerStart } from './worker-start.ts';
import type { WorkersPorts } from './workers-ports.ts';

/** Among those who let go of a lost worker's rings, beside the other workers: the caller's thread, to which its text went. */
export const CALLER_PEER = -1;

export class Workers {
  readonly #plan: PodPlan;
  readonly #space: AddressSpace;
  /** What all of them are started with. */
  readonly #pod: Omit<WorkerStart, 'worker' | 'seat' | 'layouts' | 'lost'>;
  readonly #ports: WorkersPorts;
  readonly #threads: Thread[] = [];
  readonly #regions: SeatRegions;
  readonly #spares: SpareSeats;
  readonly #warm: WarmThread;
  readonly recoveries: Recoveries;
  readonly #restarts = new RestartIntensity();
  /** In which order all begin anew. */
  readonly #stages: readonly number[];
  /** Lost workers have successors. */
  readonly #respawns: boolean;
  readonly #successions: RoleSuccessions;
  #isClosing = false;
  #callerHasRings = false;

  constructor(plan: PodPlan, space: AddressSpace, module: WebAssembly.Module, origin_ms: number, ports: WorkersPorts) {
    this.#plan = plan;
    this.#space = space;
    const { directory, network, recordings, folder } = ports;
    [this.#ports, this.#pod] = [ports, { plan, space, module, folder, origin_ms, directory, network, recordings }];
    this.#regions = new SeatRegions(plan, space);
    this.#warm = new WarmThread(ports.timers, () => {
      const { seat, layouts } = this.#thread(0);
      return startWarmThread(ports.entry, { ...this.#pod, worker: 0, seat, layouts, lost: this.#lost() });
    });
    this.#stages = restartStages(plan.hosting).flat();
    this.#respawns = plan.hosting.respawn !== false;
    this.recoveries = new Recoveries(ports.clock.now_ms, this.#respawns);
    this.#successions = new RoleSuccessions(ports.tell);
    this.#spares = new SpareSeats(seatsOf(plan.hosting).slice(plan.workers), { control: space.control, regions: this.#regions, timers: ports.timers });
  }

  start(): void {
    for (const [worker, seat] of seatsOf(this.#plan.hosting).slice(0, this.#plan.workers).entries()) {
      const layouts = this.#ports.directory.npusOfWorker(worker).map((npu) => this.#plan.layouts[npu] as PodPlan['layouts'][number]);
      this.#regions.name(seat, this.#ports.directory.npusOfWorker(worker));
      this.#threads.push(newThread(this.#spawn(worker, seat, layouts), seat, layouts));
    }
  }

  /**
   * What the caller's thread needs to take its rings, as things stand; from here on it lets go of a lost worker's before that has a successor. Those of a worker
   * that is lost it does not touch before it hears of the successor.
   */
  seatCaller(): Pick<ControlHandle, 'seating' | 'epochs' | 'lost'> {
    this.#callerHasRings = true;
    const absent = this.#threads.filter(({ state, isRestart }) => state === 'lost' || (state === 'starting' && isRestart));
    for (const { detached } of absent) detached.add(CALLER_PEER);
    return { seating: this.#ports.directory.seating, epochs: epochsOf(this.#plan, this.#space), lost: absent.map(({ seat: { thread } }) => thread) };
  }

  isRunning(worker: number): boolean {
    return this.#threads[worker]?.state === 'running';
  }

  /** Seats that a thread without proof of its end may still write. */
  get quarantined(): number {
    return this.#spares.quarantined;
  }

  /** For what the successor of the one who had the thread's rings waits; nothing: it has none to come. */
  waitsFor(thread: number): readonly string[] {
    const worker = this.#threads.findIndex(({ seat }) => seat.thread === thread);
    return worker < 0 ? [] : this.#waitsFor(worker);
  }

  isQuarantined(thread: number): boolean {
    return this.#spares.isQuarantined(thread);
  }

  /** The thread has attached its rings: its peers may. It attached those of a peer that is lost meanwhile, too, and must let go of them. */
  started(worker: number): void {
    const thread = this.#thread(worker);
    thread.cancel();
    thread.state = 'running';
    if (this.#respawns) this.#warm.keep(thread.isRestart);
    this.recoveries.started(worker);
    const { seat, isRestart } = thread;
    if (isRestart) this.#tellPeers(worker, threadPeerRestarted(worker, seat.thread, this.#space.control.epochOf(seat.thread), seat.dies));
    for (const [lost, { state, end }] of this.#threads.entries()) if (state === 'lost') this.#tell(worker, threadPeerLost(lost, end === 'free'));
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
  giveUp(worker: number, reason: string, grace_ms = STOP_GRACE_MS): void {
    if (hasBegun(this.#thread(worker)) && !this.#isClosing) this.#giveUp(worker, lostError(worker, `it was given up, since ${reason}`), grace_ms);
  }

  #giveUp(worker: number, error: ErrorRecord, grace_ms: number): void {
    const thread = this.#thread(worker);
    const { handle } = thread;
    // First the epochs: what it does when it meets its stop word, such as an answer that says that its experts failed, must not count either.
    this.#lose(worker, error, false);
    this.#space.control.stop(thread.seat.thread);
    this.#later(thread, grace_ms, () => {
      thread.isTerminated = true;
      // First of all: where it has stopped long since, Deno says in the midst of `terminate` that it exited, and what is next is its successor's start.
      if (TERMINATION_IS_PROOF)
        this.#later(thread, TERMINATION_DEADLINE_MS, () =>
          this.#giveUpPod(`worker ${worker} was terminated and has not ended in ${TERMINATION_DEADLINE_MS / 1000} s`),
        );
      // Where nobody is to sit there, nothing has to be kept apart.
      else this.#later(thread, STOP_GRACE_MS, () => (this.#respawns ? this.#quarantine(worker) : this.#successions.fail(worker)));
      void handle.terminate();
    });
  }

  /** It is silent. Where no thread can be ended (Deno), that is borne unless a spare seat is left beside those that others who are given up may need. */
  suspect(worker: number, reason: string): 'given_up' | 'over' | 'no_spare_seat' {
    // One that has yet to begin has a deadline of its own.
    if (!this.isRunning(worker)) return 'over';
    const claimed = this.#threads.filter(({ state, end }) => state === 'lost' && end === 'unknown').length;
    if (!TERMINATION_IS_PROOF && this.#spares.free <= claimed) return 'no_spare_seat';
    this.giveUp(worker, reason, SILENT_GRACE_MS);
    return 'given_up';
  }

  /** Not in the midst of a delivery: actors hear of it. */
  switchRole(asked: SwitchRoleMessage): void {
    this.#ports.timers.after(0, () => {
      if (!this.#isClosing && this.#successions.begin(asked, this.#threads)) this.#giveUp(asked.place, gaveWayError(asked.place, asked.lost), STOP_GRACE_MS);
    });
  }

  async close(): Promise<void> {
    this.#stopTimers();
    const { control } = this.#space;
    await waitAtMost(Promise.all(this.#threads.map((thread) => exitOf(thread, control))), STOP_DEADLINE_MS);
    // A worker that hangs does not read its stop word. (On Deno this ends no running thread either; nothing of it is read any more.)
    for (const { state, handle } of this.#threads) if (state !== 'stopped') void handle.terminate();
  }

  /** Raises every stop word without waiting: the pod has failed. */
  stopAll(): void {
    this.#stopTimers();
    for (const { seat } of this.#threads) this.#space.control.stop(seat.thread);
  }

  #stopTimers(): void {
    this.#isClosing = true;
    this.#spares.close();
    this.#warm.close();
    for (const { cancel, cancelHandshake } of this.#threads) {
      cancel();
      cancelHandshake();
    }
  }

  #later(thread: Thread, delay_ms: number, act: () => void): void {
    thread.cancel();
    thread.cancel = this.#ports.timers.after(delay_ms, act);
  }

  #giveUpPod(reason: string): void {
    this.#ports.onGivenUp(new MinipodError('worker_failed', reason));
  }

  #thread(worker: number): Thread {
    const thread = this.#threads[worker];
    assert(thread, `there is no worker ${worker}`);
    return thread;
  }

  #spawn(worker: number, seat: Seat, layouts: PodPlan['layouts']): Worker {
    const warm = this.#warm.take();
    const handle = startWorkerThread(this.#ports.entry, { ...this.#pod, worker, seat, layouts, lost: this.#lost() }, warm);
    this.recoveries.released(worker, warm !== null);
    handle.on('error', (error) => {
      const thread = this.#threads[worker];
      if (thread?.handle === handle) thread.error = error instanceof Error ? error : new Error(String(error));
    });
    handle.on('exit', (code) => this.#exited(worker, handle, code));
    return handle;
  }

  /** The last that it has said: it writes its acknowledgement, and nothing else. What was computed before a scrub found its weights lost may have come of them, at all workers. */
  failed(worker: number, reason: string, hasLostWeights: boolean): void {
    const thread = this.#thread(worker);
    if (thread.state !== 'running' || this.#isClosing) return;
    thread.hasLostWeights = hasLostWeights;
    this.#lose(worker, lostError(worker, reason), true);
    if (hasLostWeights && this.#respawns && this.#plan.options.weight_checks === 'scrub') this.#endOthers(worker);
    this.#awaitLastWrite(worker);
  }

  #awaitLastWrite(worker: number): void {
    const thread = this.#thread(worker);
    thread.cancel();
    if (this.#space.control.hasAcknowledged(thread.seat.thread)) {
      if (thread.hasLostWeights && this.#respawns) this.#furnish(worker, thread.seat);
      else this.#free(worker);
    } else this.#later(thread, LAST_WRITE_LOOK_MS, () => this.#awaitLastWrite(worker));
  }

  /** Nobody writes any more where its successor is to sit. */
  #free(worker: number): void {
    this.#thread(worker).end = 'free';
    this.recoveries.ended(worker);
    this.#restartIfFree(worker);
  }

  #exited(worker: number, handle: Worker, code: number): void {
    const thread = this.#threads[worker];
    this.#spares.look();
    if (thread === undefined || thread.handle !== handle || this.#spares.hasThread(handle)) return;
    if (this.#isClosing) {
      thread.state = 'stopped';
      return;
    }
    const hasStarted = thread.state !== 'starting' || thread.isRestart;
    const reason = thread.error === null ? `it exited with code ${code}` : thread.error.message;
    if (thread.state !== 'lost') this.#lose(worker, lostError(worker, reason), true);
    if (!hasStarted) {
      this.#giveUpPod(`worker ${worker} did not start: ${reason}`);
      return;
    }
    // On Deno the acknowledgement may still come.
    if (thread.isTerminated && !TERMINATION_IS_PROOF && !this.#space.control.hasAcknowledged(thread.seat.thread)) return;
    thread.cancel();
    // What it did to its own weights between being given up and being ended, nobody knows. Those it had lost may be there anew, since its last write.
    if ((thread.isTerminated || thread.hasLostWeights) && this.#respawns) this.#furnish(worker, thread.seat);
    else this.#free(worker);
  }

  #furnish(worker: number, seat: Seat): void {
    try {
      [this.#thread(worker).layouts, this.#thread(worker).hasLostWeights] = [this.#ports.furnish(worker, seat), false];
    } catch (cause) {
      this.#ports.onGone(worker, `its weights cannot be read: ${toErrorRecord(cause).message}`);
      this.#later(this.#thread(worker), REFURNISH_MS, () => this.#furnish(worker, seat));
      return;
    }
    this.#free(worker);
  }

  /**
   * From here on nothing counts that the thread wrote or writes; what it held is computed elsewhere. Of one that has ended by itself the caller still reads the
   * tokens that lie in its ring. Nobody waits for that: what a job executor computes again meanwhile is the same, and told once.
   */
  #lose(worker: number, error: ErrorRecord, hasEnded: boolean): void {
    const thread = this.#thread(worker);
    this.recoveries.lost(worker, hasEnded ? 'died' : 'given_up', error.message);
    this.#space.control.raiseEpoch(thread.seat.thread);
    this.#regions.raiseEpochs(thread.seat);
    thread.cancel();
    thread.cancelHandshake();
    thread.state = 'lost';
    thread.end = 'unknown';
    thread.error = null;
    thread.detached.clear();
    // What this thread acknowledged, its successor has not.
    for (const other of this.#threads) other.detached.delete(worker);
    this.#ports.port.links.detach(thread.seat.thread);
    // At once: its successor waits until they have let go, and what else there is to be told takes milliseconds.
    this.#tellPeers(worker, threadPeerLost(worker, hasEnded));
    this.#ports.onLost(worker, error);
    const wasEnded = error.code === 'worker_ended';
    if (!this.#respawns && this.#threads.every(({ state }) => state === 'lost')) {
      this.#giveUpPod(`no worker is left, and lost ones have no successors (respawn): ${error.message}`);
      return;
    }
    if (this.#respawns && !wasEnded && !this.#restarts.allows(this.#ports.clock.now_ms())) {
      this.#giveUpPod(`workers died ${RESTARTS_MAX + 1} times within ${RESTART_PERIOD_MS / 1000} s; the last: ${error.message}`);
      return;
    }
    thread.cancelHandshake = this.#ports.timers.after(HANDSHAKE_DEADLINE_MS, () => this.#giveUpSilent(worker));
    if (!wasEnded && this.#plan.hosting.recovery === 'restart') this.#endOthers(worker);
  }

  /** All begin anew. Who is well is given up like one that hangs: what its steps say when they meet the stop word must not count. */
  #endOthers(lost: number): void {
    for (const [worker, thread] of this.#threads.entries()) if (hasBegun(thread)) this.#giveUp(worker, endedError(worker, lost), STOP_GRACE_MS);
  }

  /** Survivors that have not let go of a lost worker's rings hang themselves. */
  #giveUpSilent(worker: number): void {
    const thread = this.#thread(worker);
    for (const peer of this.#survivors(worker))
      if (!thread.detached.has(peer)) this.giveUp(peer, `it has not let go of worker ${worker}'s rings in ${HANDSHAKE_DEADLINE_MS / 1000} s`);
  }

  /** Nobody knows whether the thread still runs: its rings and dies are neither read nor given out, and its successor gets spare ones. */
  #quarantine(worker: number): void {
    const thread = this.#thread(worker);
    if (this.#space.control.hasAcknowledged(thread.seat.thread)) {
      this.#furnish(worker, thread.seat);
      return;
    }
    const spare = this.#spares.exchange(thread.handle, thread.seat);
    if (spare === null) {
      this.#giveUpPod(noSpareLeft(worker, this.#plan.hosting, this.quarantined));
      return;
    }
    thread.seat = spare;
    this.#furnish(worker, spare);
  }

  #survivors(worker: number): number[] {
    return this.#threads.flatMap((thread, peer) => (peer !== worker && thread.state === 'running' ? [peer] : []));
  }

  #waitsFor(worker: number): string[] {
    const { state, detached } = this.#thread(worker);
    const waits = waitedFor(this.#threads, worker);
    return state === 'lost' && this.#callerHasRings && !detached.has(CALLER_PEER) ? [...waits, 'caller'] : waits;
  }

  #restartIfFree(freed: number): void {
    const worker = this.#plan.hosting.recovery === 'restart' ? nextToBegin(this.#stages, this.#threads) : freed;
    if (worker === null) return;
    const thread = this.#thread(worker);
    // A successor started while the pod closes would never be told to stop.
    if (this.#isClosing || thread.state !== 'lost' || this.#waitsFor(worker).length > 0) return;
    thread.cancelHandshake();
    if (!this.#respawns && !this.#successions.mayBegin(worker, this.#threads, (heir, seat) => this.#furnish(heir, seat))) return;
    const { seat } = thread;
    if (!this.#ports.network.release(seat.thread, () => this.#restartIfFree(worker))) return;
    this.#regions.makeReady(seat);
    this.#ports.directory.move(worker, seat);
    this.#regions.name(seat, this.#ports.directory.npusOfWorker(worker));
    this.#ports.port.links.attach(seat.thread);
    beginAgain(thread);
    this.#successions.hasBegun(worker);
    thread.handle = this.#spawn(worker, seat, thread.layouts);
    this.#later(thread, HANDSHAKE_DEADLINE_MS, () => this.giveUp(worker, `it did not start in ${HANDSHAKE_DEADLINE_MS / 1000} s`));
  }

  #lost(): number[] {
    return this.#threads.flatMap(({ state, seat: { thread } }) => (state === 'lost' ? [thread] : []));
  }

  /** Those who have a lost worker's rings, or are to have its successor's. */
  #tellPeers(worker: number, message: object): void {
    for (const peer of this.#survivors(worker)) this.#tell(peer, message);
    if (this.#callerHasRings) this.#ports.port.send(CALLER_THREAD, 'caller/0', 'control/0', message, 'control');
    this.#ports.port.links.flush();
  }

  #tell(worker: number, message: object): void {
    this.#ports.port.send(this.#thread(worker).seat.thread, address('worker', worker), 'control/0', message, 'control');
  }
}
