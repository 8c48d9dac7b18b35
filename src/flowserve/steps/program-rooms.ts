/**
 * Captured programs by what they were captured for, in rooms of one size: when all are taken, what was used least recently gives way.
 * @module
 */
import { assert } from '../../protocol/errors.ts';

type Held<Shape, Programs> = { readonly shape: Shape; readonly room: number; readonly programs: Programs };

export class ProgramRooms<Shape, Programs> {
  readonly #first: number;
  readonly #room_bytes: number;
  readonly #rooms: number;
  /** The one used last at the end. */
  readonly #held = new Map<Shape, Held<Shape, Programs>>();
  #last: Held<Shape, Programs> | null = null;

  /** From offset `first` on. */
  constructor(first: number, room_bytes: number, rooms: number) {
    this.#first = first;
    this.#room_bytes = room_bytes;
    this.#rooms = rooms;
  }

  /** Those of `shape`; where there are none, `capture` is given an offset and how many bytes there are. */
  of(shape: Shape, capture: (from: number, bytes: number) => Programs): Programs {
    // A step's shape is mostly that of the step before.
    if (this.#last?.shape === shape) return this.#last.programs;
    let held = this.#held.get(shape);
    if (held !== undefined) this.#held.delete(shape);
    else {
      this.#last = null;
      const room = this.#held.size < this.#rooms ? this.#held.size : this.#dropOldest();
      held = { shape, room, programs: capture(this.#first + room * this.#room_bytes, this.#room_bytes) };
    }
    this.#held.set(shape, held);
    this.#last = held;
    return held.programs;
  }

  /** Gives its room. */
  #dropOldest(): number {
    const [oldest] = this.#held;
    assert(oldest, 'nothing is captured');
    this.#held.delete(oldest[0]);
    return oldest[1].room;
  }
}
