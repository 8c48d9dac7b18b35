/**
 * Acts of several threads, each after its cause. A thread's acts come in their order; whose ring was looked at first decides between threads, so an effect
 * may come before its cause.
 * @module
 */
import { type Address, type Role, roleOf } from '../protocol/address.ts';
import { type ActRecord, lifeOf } from './act-record.ts';

/** A cause that is further behind was lost, or cut away. */
const WAITING_MAX = 4_096;
/** Their host speaks in their name once they are alive, and no act is the cause of that. */
const HOSTED: ReadonlySet<Role> = new Set(['npu', 'dp-group', 'expert']);

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

/** All of them; where a cause does not come, its effect comes late. */
export function* inCausalOrder<Item extends { readonly act: ActRecord; readonly index: number }>(items: Iterable<Item>): Generator<Item, void, undefined> {
  const order = new CausalOrder();
  /** By a thread's life. */
  const waiting = new Map<string, Item[]>();
  let waits = 0;
  const take = (isForced: boolean): Item | null => {
    let first: Item | null = null;
    for (const [head] of waiting.values()) {
      if (head === undefined) continue;
      if (!isForced && order.isDue(head.act)) return head;
      if (isForced && (first === null || head.index < first.index)) first = head;
    }
    return first;
  };
  const remove = (item: Item): void => {
    const life = lifeOf(item.act);
    const queue = waiting.get(life) ?? [];
    queue.shift();
    if (queue.length === 0) waiting.delete(life);
    waits--;
    order.came(item.act);
  };
  for (const item of items) {
    const life = lifeOf(item.act);
    const queue = waiting.get(life);
    if (queue === undefined && order.isDue(item.act)) {
      order.came(item.act);
      yield item;
    } else {
      waits++;
      if (queue === undefined) waiting.set(life, [item]);
      else queue.push(item);
    }
    for (let next = waits > 0 ? take(waits > WAITING_MAX) : null; next !== null; next = take(waits > WAITING_MAX)) {
      remove(next);
      yield next;
    }
  }
  for (let next = take(false) ?? take(true); next !== null; next = take(false) ?? take(true)) {
    remove(next);
    yield next;
  }
}
