/**
 * Seats that no worker has: spare ones, and those in quarantine, which a thread without proof of its end may still write. A seat comes back from quarantine
 * when that thread acknowledges its stop word after all.
 * @module
 */
import type { Worker } from 'node:worker_threads';
import type { ControlPage } from '../fabric/control-page.ts';
import type { Cancel, Timers } from '../runtime/clock.ts';
import type { Seat } from '../runtime/directory.ts';
import type { SeatRegions } from './seat-regions.ts';

/** A quarantined thread is looked after this often: it may have read its stop word at last. */
const LOOK_MS = 250;

export class SpareSeats {
  readonly #control: ControlPage;
  readonly #regions: SeatRegions;
  readonly #timers: Timers;
  readonly #free: Seat[];
  #quarantined: { readonly handle: Worker; readonly seat: Seat }[] = [];
  #cancelLook: Cancel = () => {};
  #isClosed = false;

  constructor(seats: readonly Seat[], ports: { readonly control: ControlPage; readonly regions: SeatRegions; readonly timers: Timers }) {
    this.#control = ports.control;
    this.#regions = ports.regions;
    this.#timers = ports.timers;
    this.#free = [...seats];
    for (const seat of seats) this.#regions.mark(seat, 'free');
  }

  get free(): number {
    return this.#free.length;
  }

  get quarantined(): number {
    return this.#quarantined.length;
  }

  isQuarantined(thread: number): boolean {
    return this.#quarantined.some(({ seat }) => seat.thread === thread);
  }

  /** One in quarantine: that it exited proves nothing, what it acknowledges does. */
  hasThread(handle: Worker): boolean {
    return this.#quarantined.some((other) => other.handle === handle);
  }

  /** The seat goes into quarantine. Its worker gets the spare one that is returned; null: there is none, and nothing has changed. */
  exchange(handle: Worker, seat: Seat): Seat | null {
    const spare = this.#free.shift();
    if (spare === undefined) return null;
    this.#quarantined.push({ handle, seat });
    this.#regions.mark(seat, 'quarantined');
    this.look();
    this.#regions.mark(spare, 'held');
    return spare;
  }

  /** Frees the seats of threads that have acknowledged their stop words by now. */
  look(): void {
    this.#quarantined = this.#quarantined.filter(({ seat }) => {
      if (!this.#control.hasAcknowledged(seat.thread)) return true;
      this.#regions.mark(seat, 'free');
      this.#free.push(seat);
      return false;
    });
    this.#cancelLook();
    if (this.#quarantined.length > 0 && !this.#isClosed) this.#cancelLook = this.#timers.after(LOOK_MS, () => this.look());
  }

  /** Looks no more. */
  close(): void {
    this.#isClosed = true;
    this.#cancelLook();
  }
}
