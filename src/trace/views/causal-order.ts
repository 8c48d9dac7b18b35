/**
 * The acts of a trace as they happened: each after the one that caused it, and else by time.
 *
 * A trace of several threads has the acts of each in their order, but those of one thread may stand far before earlier ones of another: who writes the file hears
 * of threads in turn. Views would see tokens of a step that has not begun.
 * @module
 */
import type { ActRecord } from '../act-record.ts';

/** An act, and what else the caller knows of it. */
type OfAct = { readonly act: ActRecord };

/** Acts that are held back until it is certain that none comes that was before them: far more than threads are ahead of each other in a file. */
const HELD_MAX = 4096;

/** The same acts. Where a trace lacks a cause (a part of a run), what it led to comes without it. */
export function* inCausalOrder<Traced extends OfAct>(acts: Iterable<Traced>): Generator<Traced> {
  const order = new CausalOrder<Traced>();
  for (const traced of acts) {
    order.add(traced);
    if (order.held > HELD_MAX) yield* order.take();
  }
  while (order.held > 0) yield* order.take();
}

class CausalOrder<Traced extends OfAct> {
  /** By thread: its acts that are held back, and the last that was given out. */
  readonly #queues = new Map<number, Traced[]>();
  readonly #given = new Map<number, number>();
  /** By thread: where the trace begins. */
  readonly #first = new Map<number, number>();
  held = 0;

  add(traced: Traced): void {
    const { thread, number } = traced.act;
    const queue = this.#queues.get(thread);
    if (queue === undefined) {
      this.#queues.set(thread, [traced]);
      this.#first.set(thread, number);
    } else queue.push(traced);
    this.held++;
  }

  /** The earliest whose cause is out; where there is none, causes are missing, and it is the earliest. */
  *take(): Generator<Traced> {
    const traced = (this.#earliest((act) => this.#hasCause(act)) ?? this.#earliest(() => true))?.shift();
    if (traced === undefined) return;
    this.held--;
    this.#given.set(traced.act.thread, traced.act.number);
    yield traced;
  }

  /** A thread that the trace does not hold was never seen although so many acts were read. */
  #hasCause({ cause, cause_thread }: ActRecord): boolean {
    const first = this.#first.get(cause_thread);
    return cause === 0 || first === undefined || cause < first || cause <= (this.#given.get(cause_thread) ?? 0);
  }

  #earliest(isReady: (act: ActRecord) => boolean): Traced[] | undefined {
    let [earliest, time_us]: [Traced[] | undefined, number] = [undefined, Number.POSITIVE_INFINITY];
    for (const queue of this.#queues.values()) {
      const head = queue[0]?.act;
      if (head === undefined || head.time_us >= time_us || !isReady(head)) continue;
      [earliest, time_us] = [queue, head.time_us];
    }
    return earliest;
  }
}
