/** Calls that come one after another, each so long after the first of them in virtual time, whether or not there is a pod just then. @module */

import type { VirtualPod } from '../pod/virtual-pod.ts';
import { NS_PER_MS, type VirtualHost } from '../runtime/virtual-host.ts';

type Host = Pick<VirtualHost, 'later' | 'now_ns'>;

export class Arrivals {
  readonly #pod: Pick<VirtualPod, 'wake'>;
  #host: Host;
  /** Those who have not come, and when they do. */
  readonly #waiting = new Map<() => void, number>();

  constructor(pod: Pick<VirtualPod, 'wake'>, host: Host) {
    this.#pod = pod;
    this.#host = host;
  }

  /** `ask`s for each in its time: the first at once, so that the pod's clock moves until the last has come. */
  each<Call extends { readonly ms: number }, Report>(calls: readonly Call[], ask: (call: Call, index: number) => Promise<Report>): Promise<Report[]> {
    const first_ms = Math.min(...calls.map(({ ms }) => ms));
    const asked = calls.map((call, index) => this.#at(call.ms - first_ms, () => ask(call, index)));
    // Of the first ones perhaps none has asked: who is gone before he asks leaves the clock where it stands.
    this.#pod.wake();
    return Promise.all(asked);
  }

  /** For so long the clock stands still, or there is nobody who could be asked: who would come meanwhile comes now. */
  hurry(for_ns = Number.POSITIVE_INFINITY): void {
    const until_ns = this.#host.now_ns + for_ns;
    for (const [come, due_ns] of [...this.#waiting]) if (due_ns <= until_ns) come();
  }

  /** Nothing happens any more on the host that there was. */
  moveTo(host: Host): void {
    this.#host = host;
    for (const [come, due_ns] of this.#waiting) host.later(Math.max(0, due_ns - host.now_ns), come);
  }

  #at<Report>(ms: number, ask: () => Promise<Report>): Promise<Report> {
    if (ms === 0) return ask();
    const { promise, resolve } = Promise.withResolvers<Report>();
    const come = (): void => {
      if (this.#waiting.delete(come)) resolve(ask());
    };
    this.#waiting.set(come, this.#host.now_ns + ms * NS_PER_MS);
    this.#host.later(ms * NS_PER_MS, come);
    return promise;
  }
}
