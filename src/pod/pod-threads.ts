/**
 * One life of a pod's threads, as its caller's thread has it: the control thread, those that it started, their memory, and the rings to them. When the control
 * thread is lost that life is over, and nothing of it is read any more; the pod goes on with another one (live-pod.ts), in the same memory where nobody can write there any
 * more, else in another.
 * @module
 */
import type { Worker } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { CallerNaps } from '../calls/caller-naps.ts';
import { CallerPeers } from '../calls/caller-peers.ts';
import { AddressSpace } from '../fabric/address-space.ts';
import { Links } from '../fabric/links.ts';
import type { RingConsumer } from '../fabric/ring.ts';
import { recordTableOf } from '../flowserve/pod-plan.ts';
import type { RecordTable } from '../flowserve/records/record-table.ts';
import type { ControlHandle } from '../platform/control-handle.ts';
import type { ControlRemote } from '../platform/control-thread.ts';
import { idOf, roleOf } from '../protocol/address.ts';
import type { CallerToPod, PodToCaller } from '../protocol/caller.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { LinkReport, PeerNews } from '../protocol/threads.ts';
import type { Clock } from '../runtime/clock.ts';
import { CALLER_THREAD, CONTROL_THREAD, networkThreadOf } from '../runtime/directory.ts';
import { breathe, EventLoopSleeper } from '../runtime/event-loop.ts';
import { MessagePort, type ReceivedMail } from '../runtime/message-port.ts';
import { endThread } from '../runtime/thread-start.ts';
import { setLost } from '../trace/recording-state.ts';
import { ControlPulse } from './control-pulse.ts';

/** An idle caller looks up this often; a bell wakes it earlier. */
const SLEEP_MS = 1_000;
/** Calls whose tokens were lost with a worker are looked for this often, however busy the pod is; the other, while a worker that lives waits for room to send more. */
const LOOK_MS = 250;
const LOOK_OWED_MS = 5_000;
/** Whether the control thread lives is looked at this often. */
export const PULSE_MS = 250;
/** For who wants no proof, since nobody else is to have the memory: less than for one (ENDED_MS_MAX). */
const TERMINATE_MS_MAX = 2_000;

/**
 * V8 does not count shared memory, so closed pods would pile up uncollected (39 MB each were seen). A buffer as large as a pod's memory, never touched and so
 * free of cost, tells it their weight.
 */
const WEIGHTS = new WeakMap<object, ArrayBuffer>();

/** `died`: rejected with the reason when the control thread has ended. */
export type StartedThreads = {
  readonly handle: ControlHandle;
  readonly thread: Worker;
  readonly remote: Comlink.Remote<ControlRemote>;
  readonly died: Promise<never>;
};

/** Whose calls they serve. */
export type CallerPorts = {
  readonly clock: Clock;
  /** Whoever does not turn its loop for so long is taken to hang. */
  readonly hung_ms_max: number;
  /** Calls that have not ended. */
  readonly openCalls: () => number;
  /** None of them has had a token. */
  readonly isSilent: () => boolean;
  /** `group`: the DP group that it comes from; −1: none. */
  readonly receive: (said: PodToCaller, group: number) => void;
  /** A worker is lost, and what it had not shown. */
  readonly losePeer: () => void;
  /** Some calls' tokens may have been lost. */
  readonly lookForLost: () => void;
  /** The control thread is of no use any more. */
  readonly onLost: (threads: PodThreads, error: MinipodError) => void;
  /** It is alive, perhaps, and does nothing. */
  readonly onHung: (threads: PodThreads, error: MinipodError) => void;
};

export class PodThreads {
  readonly handle: ControlHandle;
  readonly remote: Comlink.Remote<ControlRemote>;
  readonly died: Promise<never>;
  readonly space: AddressSpace;
  readonly pulse: ControlPulse;
  readonly #thread: Worker;
  readonly #ports: CallerPorts;
  readonly #port: MessagePort;
  readonly #peers: CallerPeers;
  readonly #sleeper: EventLoopSleeper;
  #isOver = false;

  constructor({ handle, thread, remote, died }: StartedThreads, ports: CallerPorts) {
    const { plan, memories, epochs: peer_epochs } = handle;
    WEIGHTS.set(this, new ArrayBuffer(plan.memory.bytes));
    [this.handle, this.remote, this.died, this.#thread, this.#ports] = [handle, remote, died, thread, ports];
    this.space = new AddressSpace(memories, plan.memory.regions);
    this.pulse = new ControlPulse(this.space.control, ports.hung_ms_max);
    const links = new Links(CALLER_THREAD, memories[0] as WebAssembly.Memory, plan.rings, this.space.control, {
      now_us: () => ports.clock.now_ms() * 1000,
      peer_epochs,
      onCorrupt: (peer, error) => this.#peers.findRubbish(peer, error),
    });
    this.#port = new MessagePort(links, handle.isTraced);
    this.#peers = new CallerPeers(this.#port, handle, {
      receive: (mail) => this.#receive(mail),
      losePeer: ports.losePeer,
      loseControl: (cause) => ports.onLost(this, new MinipodError('internal', `the pod's control thread says what makes no sense: ${cause}`, { cause })),
    });
    this.#sleeper = new EventLoopSleeper(links.control, CALLER_THREAD);
  }

  get records(): RecordTable {
    return recordTableOf(this.handle.plan, this.space);
  }

  /** Its control thread has ended since it saw no way to go on; what it was told, another one would be told as well. */
  get hasGivenUp(): boolean {
    return this.space.control.isStopped(CONTROL_THREAD);
  }

  /** Of the links that the caller's thread reads and writes. */
  counters(): readonly LinkReport[] {
    return this.#port.links.counters();
  }

  /** For who asks it something before anything of it is read. @throws `deadline_exceeded` where it hangs */
  checkTurning(): void {
    this.pulse.look(this.#ports.clock.now_ms());
    if (this.pulse.isHung) throw this.pulse.error;
  }

  /** Throws when the message cannot be sent. */
  tell(message: CallerToPod): void {
    this.#port.send(CONTROL_THREAD, 'frontend/0', 'caller/0', message);
    // It is published by who runs, as soon as whoever asks now has asked for all: a burst wakes the pod once.
    this.#sleeper.wake();
  }

  /** Takes what the pod sends, for as long as this life of it lasts. */
  async run(): Promise<void> {
    const { links } = this.#port;
    const { clock, openCalls, isSilent, lookForLost, onHung } = this.#ports;
    const sleeper = this.#sleeper;
    const hasWork = (): boolean => this.#isOver || links.hasInbound();
    const naps = new CallerNaps();
    const onFrame = (peer: number, ring: RingConsumer): void => {
      naps.hear(peer);
      this.#receive(this.#port.read(ring));
    };
    let [looked_ms, pulse_ms] = [clock.now_ms(), 0];
    while (!this.#isOver) {
      naps.look();
      const busy = links.receive(onFrame);
      const now_ms = clock.now_ms();
      if (now_ms - pulse_ms >= PULSE_MS) {
        pulse_ms = now_ms;
        this.pulse.look(now_ms);
        if (this.pulse.isHung) onHung(this, this.pulse.error);
      }
      if (now_ms - looked_ms >= LOOK_MS && (now_ms - looked_ms >= LOOK_OWED_MS || !links.isOwed())) {
        looked_ms = now_ms;
        lookForLost();
      }
      // Behind all that may tell the pod something; of one that was just given up nothing is written any more.
      const waits = !this.#isOver && links.flush();
      // More has come meanwhile, or was more than one look takes.
      if (busy && links.hasInbound()) {
        await breathe();
        continue;
      }
      if (!waits && openCalls() === 0) await sleeper.sleep(SLEEP_MS, hasWork);
      // A first token is worth a bell.
      else if (!waits && isSilent()) await sleeper.sleep(naps.next_ms(), hasWork);
      // Others come without: a wake for each step of each DP group would cost its worker 8 µs, and on a machine of few cores often its core as well.
      else await sleeper.nap(naps.next_ms());
    }
    // A wait that nobody ends would keep the memory.
    links.control.nudge(CALLER_THREAD);
  }

  /** From here on nothing of it is read, and nothing asked of its control thread. */
  leave(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    // Before anybody else has its memory, it writes there no more.
    this.#sleeper.wake();
    // On Deno whatever was said of the thread would be kept else, and the memory with it.
    this.remote[Comlink.releaseProxy]();
    this.#port.links.control.ring(CALLER_THREAD);
  }

  /**
   * Its control thread is lost. In Node the threads that it started have ended with it. On Deno they live on, and one that was being started begins even later
   * (2.9.6, both seen): they find their stop words raised, recorders that there is no more to come. Whatever they still write, they write in memory that nobody reads.
   */
  abandon(): void {
    this.leave();
    for (const state of this.handle.recordings) setLost(state);
    const { control } = this.space;
    for (let thread = CONTROL_THREAD; thread <= networkThreadOf(this.handle.plan.hosting); thread++) control.stop(thread);
  }

  /** True: it is proven that it has ended, and all that it started. */
  async terminate(limit_ms = TERMINATE_MS_MAX): Promise<boolean> {
    return endThread(this.#thread, limit_ms);
  }

  #receive({ from, message }: ReceivedMail): void {
    const said = message as PodToCaller | PeerNews;
    if (said.type === 'PEER_LOST' || said.type === 'PEER_RESTARTED') this.#peers.hear(said);
    else this.#ports.receive(said, roleOf(from) === 'output' ? idOf(from) : -1);
  }
}
