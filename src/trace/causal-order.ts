/**
 * Acts of several threads as they happened: each after the one that caused it, and else by time.
 *
 * A trace has the acts of each thread in their order, but those of one may stand far before earlier ones of another: whoever reads the threads' rings hears of
 * them in turn. Views would see tokens of a step that has not begun, and an inspector the words of an actor that does not live.
 * @module
 */
import { type Address, type Role, roleOf } from '../protocol/address.ts';
import type { KvOffer } from '../protocol/messages.ts';
import { type ActRecord, lifeOf } from './act-record.ts';

/** Their host speaks in their name once they are alive, and no act is the cause of that. */
const HOSTED: ReadonlySet<Role> = new Set(['npu', 'dp-group', 'expert']);

/** What has come, so far as it decides what may come next. */
export class CausalOrder {
  /** By a thread's life: the number of its last act that came. */
  readonly #last = new Map<string, number>();
  readonly #hosted = new Set<Address>();

  /** Has its cause come? Asked of the first act of its thread that has not come itself. */
  isDue({ cause_thread, cause, from, to }: ActRecord): boolean {
    if (cause === 0) return from === to || !HOSTED.has(roleOf(from)) || this.#hosted.has(from);
    return cause <= (this.#last.get(lifeOf({ thread: cause_thread, number: cause })) ?? -1);
  }

  came(act: ActRecord): void {
    this.#last.set(lifeOf(act), act.number);
    if (act.message === null) this.#hosted.add(act.to);
  }
}

const offerName = ({ die, epoch, slot, serial }: KvOffer): string => `${die} ${epoch} ${slot} ${serial}`;

/** An act, and what else the caller knows of it. */
type OfAct = { readonly act: ActRecord };

/** Acts that are held back until it is certain that none comes that was before them: far more than threads are ahead of each other in a file. */
const HELD_MAX = 4_096;

/** The same acts. Where a trace lacks a cause (a part of a run, a killed one), what it led to comes without it. */
export function* inCausalOrder<Traced extends OfAct>(acts: Iterable<Traced>): Generator<Traced, void, undefined> {
  const held = new HeldActs<Traced>();
  for (const traced of acts) {
    held.add(traced);
    if (held.size <= HELD_MAX) continue;
    const next = held.take();
    if (next !== null) yield next;
  }
  for (let next = held.take(); next !== null; next = held.take()) yield next;
}

class HeldActs<Traced extends OfAct> {
  readonly #order = new CausalOrder();
  /** By a thread's life: its acts that are held back. */
  readonly #queues = new Map<string, Traced[]>();
  /** By a thread's life: where the trace has its first act; and whose birth the trace has. */
  readonly #first = new Map<string, number>();
  readonly #born = new Set<Address>();
  /** What was lent, as far as acts have come here: of a part of a run nothing else may say that it was lent before it was asked for. */
  readonly #offers = new Map<string, 'held' | 'out'>();
  size = 0;

  add(traced: Traced): void {
    const { act } = traced;
    const life = lifeOf(act);
    const queue = this.#queues.get(life);
    if (queue === undefined) this.#queues.set(life, [traced]);
    else queue.push(traced);
    if (!this.#first.has(life)) this.#first.set(life, act.number);
    if (act.message === null) this.#born.add(act.to);
    if (act.message?.type === 'OFFERED') this.#offers.set(offerName(act.message.offer), 'held');
    this.size++;
  }

  /** The earliest whose cause is out; where there is none, causes are missing, and it is the earliest. Null: none is held. */
  take(): Traced | null {
    const isDue = (act: ActRecord): boolean => (this.#order.isDue(act) || this.#isCauseMissing(act)) && !this.#awaitsOffer(act);
    const life = this.#earliest(isDue) ?? this.#earliest((act) => !this.#awaitsOffer(act)) ?? this.#earliest(() => true);
    const queue = this.#queues.get(life ?? '');
    const traced = queue?.shift();
    if (life === null || traced === undefined) return null;
    if (queue?.length === 0) this.#queues.delete(life);
    this.#order.came(traced.act);
    if (traced.act.message?.type === 'OFFERED') this.#offers.set(offerName(traced.act.message.offer), 'out');
    this.size--;
    return traced;
  }

  #awaitsOffer({ message }: ActRecord): boolean {
    return message?.type === 'ENQUEUE' && message.handoff !== null && this.#offers.get(offerName(message.handoff.offer)) === 'held';
  }

  #earliest(isReady: (act: ActRecord) => boolean): string | null {
    let [earliest, time_us]: [string | null, number] = [null, Number.POSITIVE_INFINITY];
    for (const [life, [head]] of this.#queues) {
      if (head === undefined || head.act.time_us >= time_us || !isReady(head.act)) continue;
      [earliest, time_us] = [life, head.act.time_us];
    }
    return earliest;
  }

  /** Of whoever the trace does not hold nothing was seen although so many acts were read. */
  #isCauseMissing({ cause, cause_thread, from }: ActRecord): boolean {
    if (cause === 0) return !this.#born.has(from);
    const first = this.#first.get(lifeOf({ thread: cause_thread, number: cause }));
    return first === undefined || cause < first;
  }
}
