/** What a plan has in store by its own clock: that stands still while there is no pod, so what is left of a time is left of it in the pod that begins in its place. @module */
import type { VirtualHost } from '../runtime/virtual-host.ts';

type Host = Pick<VirtualHost, 'later' | 'now_ns'>;
type Entry = { due_ns: number; readonly act: () => void };

export class Agenda {
  readonly #waiting = new Set<Entry>();
  #host: Host;

  constructor(host: Host) {
    this.#host = host;
  }

  later(delay_ns: number, act: () => void): void {
    const entry = { due_ns: this.#host.now_ns + delay_ns, act };
    this.#waiting.add(entry);
    this.#lay(entry);
  }

  /** The host that it was on lets nothing happen any more. */
  moveTo(host: Host): void {
    const passed_ns = host.now_ns - this.#host.now_ns;
    this.#host = host;
    for (const entry of this.#waiting) {
      entry.due_ns += passed_ns;
      this.#lay(entry);
    }
  }

  #lay(entry: Entry): void {
    this.#host.later(entry.due_ns - this.#host.now_ns, () => {
      if (this.#waiting.delete(entry)) entry.act();
    });
  }
}
