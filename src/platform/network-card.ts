/**
 * The thread that is the pod's network card, and the queue pairs of all who pull by it (flowserve/kv/kv-network.ts). It starts anew one that died or hangs.
 *
 *   running ─▶ (exits) ─▶ all queue pairs closed: what went by them fails ─▶ running, and they are opened anew by whoever needs them
 *      └─▶ (does not close what it was asked to: it hangs) ─▶ terminated ─▶ exits, and so on; without proof that it stopped the pod fails
 *
 * The card writes into the memory of those who pull. So a worker's successor starts only when the card has closed the queue pairs of that one's seat.
 * @module
 */
import type { Worker } from 'node:worker_threads';
import type { AddressSpace } from '../fabric/address-space.ts';
import { QueuePair } from '../flowserve/distflow/network/queue-pair.ts';
import { CARD_DEADLINE_MS, type KvLine, kvLinesOf } from '../flowserve/kv/kv-network.ts';
import type { PodPlan } from '../flowserve/pod-plan.ts';
import { MinipodError } from '../protocol/errors.ts';
import { numericsKey } from '../protocol/numerics.ts';
import type { Cancel, Clock, Timers } from '../runtime/clock.ts';
import { networkThreadOf } from '../runtime/directory.ts';
import { waitAtMost } from '../runtime/event-loop.ts';
import { entryPoint } from '../runtime/thread-entry.ts';
import { startThread } from '../runtime/thread-start.ts';
import type { NetworkCardData } from './network-card-thread.ts';
import { RESTART_PERIOD_MS, RESTARTS_MAX, RestartIntensity } from './restart-intensity.ts';

/** A card closes a queue pair within microseconds of being asked. */
const CLOSE_LOOK_MS = 2;
/** Looks in a row, over as long as the card may be silent, that find what was to be closed still open: then it hangs. */
const HANG_LOOKS = 5;
const STOP_DEADLINE_MS = 2_000;

export type NetworkCardPorts = {
  readonly clock: Clock;
  readonly timers: Timers;
  /** What the thread runs instead of the shipped entry: a test's, that misbehaves. */
  readonly entry?: URL | undefined;
  /** How long it may be silent where it is asked. */
  readonly deadline_ms?: number | undefined;
  /** The pod cannot go on. */
  readonly onGivenUp: (error: MinipodError) => void;
};

export class NetworkCardKeeper {
  readonly #space: AddressSpace;
  readonly #ports: NetworkCardPorts;
  readonly #deadline_ms: number;
  readonly #data: NetworkCardData;
  readonly #lines: readonly KvLine[];
  readonly #pairs: readonly QueuePair[];
  readonly #restarts = new RestartIntensity();
  #handle: Worker | null = null;
  #isTerminated = false;
  #isClosing = false;
  #error: unknown = null;
  #lateLooks = 0;
  #cancelLook: Cancel = () => {};

  constructor(plan: PodPlan, space: AddressSpace, ports: NetworkCardPorts) {
    this.#space = space;
    this.#ports = ports;
    this.#deadline_ms = ports.deadline_ms ?? CARD_DEADLINE_MS;
    this.#lines = kvLinesOf(plan, this.#deadline_ms);
    this.#pairs = this.#lines.map(({ queue }) => new QueuePair(queue));
    this.#data = {
      memories: space.memories,
      regions: plan.memory.regions,
      thread: networkThreadOf(plan.hosting),
      lines: this.#lines,
      numerics: numericsKey(plan.options),
    };
  }

  /** Of a worker's thread. */
  linesOf(thread: number): readonly KvLine[] {
    return this.#lines.filter((line) => line.thread === thread);
  }

  /** Nothing where the executors share a memory: no link needs a card. */
  start(): void {
    if (this.#lines.length === 0) return;
    this.#spawn();
    this.#look();
  }

  /** True: nothing is written any more for who had this seat. Else it will be so, and `later` is called to ask again. */
  release(thread: number, later: () => void): boolean {
    const pairs = this.#pairs.filter((pair, index) => this.#lines[index]?.thread === thread && pair.openings !== 0 && !pair.isClosed);
    if (pairs.length === 0) return true;
    for (const pair of pairs) pair.askToClose();
    this.#space.control.ring(this.#data.thread);
    this.#ports.timers.after(CLOSE_LOOK_MS, later);
    return false;
  }

  /** Without waiting: the pod has failed. */
  stop(): void {
    this.#isClosing = true;
    this.#cancelLook();
    if (this.#handle !== null) this.#space.control.stop(this.#data.thread);
  }

  async close(): Promise<void> {
    this.stop();
    const handle = this.#handle;
    if (handle === null) return;
    await waitAtMost(new Promise<void>((resolve) => void handle.once('exit', () => resolve())), STOP_DEADLINE_MS);
    void handle.terminate();
  }

  #spawn(): void {
    const handle = startThread(this.#ports.entry ?? entryPoint('../platform/network-card-thread'), { workerData: this.#data });
    this.#handle = handle;
    this.#isTerminated = false;
    this.#error = null;
    handle.on('error', (error) => {
      if (this.#handle === handle) this.#error = error;
    });
    handle.on('exit', (code) => this.#exited(handle, code));
  }

  #exited(handle: Worker, code: number): void {
    if (this.#handle !== handle) return;
    this.#handle = null;
    if (this.#isClosing) return;
    const { control } = this.#space;
    const { thread } = this.#data;
    const reason = this.#error instanceof Error ? this.#error.message : `it exited with code ${code}`;
    // Deno says that a terminated thread exited while it still runs: it might write into memory that is another's by then.
    if (this.#isTerminated && 'Deno' in globalThis && !control.hasAcknowledged(thread)) this.#giveUpPod('the network card hangs, and does not stop');
    else if (!this.#restarts.allows(this.#ports.clock.now_ms()))
      this.#giveUpPod(`the network card died ${RESTARTS_MAX + 1} times within ${RESTART_PERIOD_MS / 1000} s; the last: ${reason}`);
    else {
      for (const [index, pair] of this.#pairs.entries()) {
        pair.close();
        control.ring(this.#lines[index]?.thread as number);
      }
      control.reset(thread);
      this.#spawn();
    }
  }

  #look(): void {
    const isLate = this.#pairs.some((pair) => pair.isClosing && !pair.isClosed);
    this.#lateLooks = isLate ? this.#lateLooks + 1 : 0;
    if (this.#lateLooks >= HANG_LOOKS && !this.#isTerminated) {
      this.#isTerminated = true;
      this.#space.control.stop(this.#data.thread);
      void this.#handle?.terminate();
    }
    this.#cancelLook = this.#ports.timers.after(this.#deadline_ms / HANG_LOOKS, () => this.#look());
  }

  #giveUpPod(reason: string): void {
    this.#ports.onGivenUp(new MinipodError('worker_failed', reason));
  }
}
