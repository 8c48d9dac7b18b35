/**
 * The acts of a trace, each after the one that caused it.
 *
 * A trace of several threads has the acts of each in their order, but an effect on one thread may stand before its cause on another: who writes the file hears of
 * threads in turn. Views would see tokens of a step that has not begun.
 * @module
 */
import type { ActRecord } from '../act-record.ts';

/** An act, and what else the caller knows of it. */
type OfAct = { readonly act: ActRecord };

/** Acts that may wait for their causes: far more than threads run ahead of each other. Beyond that the cause is taken to be missing. */
const WAITING_MAX = 4096;

/** The same acts, causes first. Where a trace lacks a cause (a part of a run), what it led to comes without it. */
export function* inCausalOrder<Traced extends OfAct>(acts: Iterable<Traced>): Generator<Traced> {
  const order = new CausalOrder<Traced>();
  for (const traced of acts) {
    if (order.passes(traced.act)) yield traced;
    else order.wait(traced);
    if (order.waiting > 0) yield* order.take(WAITING_MAX);
  }
  yield* order.take(0);
}

class CausalOrder<Traced extends OfAct> {
  /** By thread: its acts that wait, and the last that was given out. */
  readonly #queues = new Map<number, Traced[]>();
  readonly #given = new Map<number, number>();
  /** By thread: where the trace begins. */
  readonly #first = new Map<number, number>();
  waiting = 0;

  /** Whether it can be given out at once; then it counts as given out. */
  passes(act: ActRecord): boolean {
    if (!this.#first.has(act.thread)) this.#first.set(act.thread, act.number);
    if ((this.#queues.get(act.thread)?.length ?? 0) > 0 || !this.#hasCause(act)) return false;
    this.#given.set(act.thread, act.number);
    return true;
  }

  wait(traced: Traced): void {
    const queue = this.#queues.get(traced.act.thread);
    if (queue === undefined) this.#queues.set(traced.act.thread, [traced]);
    else queue.push(traced);
    this.waiting++;
  }

  /** Those whose causes are out, and others, earliest first, until no more than `waiting_max` wait. */
  *take(waiting_max: number): Generator<Traced> {
    for (;;) {
      const ready =
        [...this.#queues.values()].find(([head]) => head !== undefined && this.#hasCause(head.act)) ?? (this.waiting > waiting_max && this.#earliest());
      const traced = ready ? ready.shift() : undefined;
      if (traced === undefined) return;
      this.waiting--;
      this.#given.set(traced.act.thread, traced.act.number);
      yield traced;
    }
  }

  #hasCause({ cause, cause_thread }: ActRecord): boolean {
    return cause === 0 || cause <= (this.#given.get(cause_thread) ?? 0) || cause < (this.#first.get(cause_thread) ?? 0);
  }

  #earliest(): Traced[] | undefined {
    let earliest: Traced[] | undefined;
    for (const queue of this.#queues.values())
      if (queue[0] !== undefined && (earliest?.[0] === undefined || queue[0].act.time_us < earliest[0].act.time_us)) earliest = queue;
    return earliest;
  }
}
