/** Calls that come one after another, each so long after the first of them in virtual time. @module */
import { NS_PER_MS, type VirtualHost } from '../runtime/virtual-host.ts';
import type { VirtualPod } from '../virtual-pod.ts';

export class Arrivals {
  readonly #pod: Pick<VirtualPod, 'wake'>;
  readonly #host: Pick<VirtualHost, 'later'>;
  readonly #waiting = new Set<() => void>();

  constructor(pod: Pick<VirtualPod, 'wake'>, host: Pick<VirtualHost, 'later'>) {
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

  /** The clock stands still from now on: who has not come yet comes now, to hear why. */
  hurry(): void {
    for (const come of [...this.#waiting]) come();
  }

  #at<Report>(ms: number, ask: () => Promise<Report>): Promise<Report> {
    if (ms === 0) return ask();
    const { promise, resolve } = Promise.withResolvers<Report>();
    const come = (): void => {
      if (this.#waiting.delete(come)) resolve(ask());
    };
    this.#waiting.add(come);
    this.#host.later(ms * NS_PER_MS, come);
    return promise;
  }
}
