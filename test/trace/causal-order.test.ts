/** Acts of several threads that come in any order between threads: told each after its cause. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ACTS_PER_LIFE } from '../../src/runtime/cast.ts';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { inCausalOrder } from '../../src/trace/causal-order.ts';
import { runs } from '../property-runs.ts';

type Item = { readonly act: ActRecord; readonly index: number };

const act = (thread: number, number: number, cause_thread = 0, cause = 0, time_us = 0): ActRecord => ({
  kind: 'act',
  ...{ thread, number, cause_thread, cause, time_us, to: 'task/1', from: 'job/1', machine: null, input: null },
  ...{ message: { type: 'CANCEL' }, state: null, is_expected: true, commands: [] },
});

const numbered = (acts: readonly ActRecord[]): Item[] => acts.map((one, index) => ({ act: one, index }));
const nameOf = ({ thread, number }: ActRecord): string => `${thread}/${number}`;

/** What happened, each act caused by an earlier one or by nobody, merged in any order that keeps each thread's. */
const merged = fc
  .tuple(
    fc.array(fc.record({ thread: fc.integer({ min: 1, max: 4 }), cause: fc.nat(60) }), { maxLength: 60 }),
    fc.array(fc.nat(), { minLength: 60, maxLength: 60 }),
  )
  .map(([history, choices]) => {
    const counts = new Map<number, number>();
    const happened: ActRecord[] = [];
    for (const { thread, cause } of history) {
      const number = (counts.get(thread) ?? 0) + 1;
      counts.set(thread, number);
      const earlier = happened[cause];
      happened.push(earlier === undefined ? act(thread, number) : act(thread, number, earlier.thread, earlier.number));
    }
    const queues = [...Map.groupBy(happened, ({ thread }) => thread).values()];
    return choices.flatMap((choice) => {
      const left = queues.filter(({ length }) => length > 0);
      return left[choice % left.length]?.shift() ?? [];
    });
  });

describe('acts of several threads', () => {
  it('come each after its cause, all of them, and each thread’s in their order', () => {
    fc.assert(
      fc.property(merged, (acts) => {
        const came = [...inCausalOrder(numbered(acts))].map((item) => item.act);
        expect(came.map(nameOf).toSorted()).toEqual(acts.map(nameOf).toSorted());
        const seen = new Set<string>();
        for (const one of came) {
          if (one.cause !== 0) expect(seen).toContain(`${one.cause_thread}/${one.cause}`);
          if (one.number > 1) expect(seen).toContain(`${one.thread}/${one.number - 1}`);
          seen.add(nameOf(one));
        }
      }),
      { numRuns: runs(300) },
    );
  });

  it('come all the same, and before memory fills up, where a cause was cut away', () => {
    const acts = [act(1, 1, 2, 7), ...Array.from({ length: 10_000 }, (_, index) => act(1, index + 2))];
    let read = 0;
    const items = numbered(acts).map((item) => item);
    const counted = (function* () {
      for (const item of items) {
        read++;
        yield item;
      }
    })();
    const order = inCausalOrder(counted);
    expect(order.next().value).toMatchObject({ index: 0 });
    expect(read).toBeLessThan(5_000);
    expect([...order].map(({ index }) => index)).toEqual(items.slice(1).map(({ index }) => index));
  });

  it('come else by time, whichever was read first', () => {
    const acts = [act(1, 1, 0, 0, 10), act(1, 2, 0, 0, 40), act(2, 1, 1, 1, 20), act(2, 2, 0, 0, 50), act(3, 1, 2, 1, 30)];
    expect([...inCausalOrder(numbered(acts))].map((item) => item.act.time_us)).toEqual([10, 20, 30, 40, 50]);
  });

  it('come after the earlier life of their thread only where that caused them', () => {
    const second = ACTS_PER_LIFE + 1;
    const acts = [act(1, second, 0, 0, 5), act(2, 1, 1, 2, 6), act(1, 1, 0, 0, 7), act(1, 2, 0, 0, 8)];
    expect([...inCausalOrder(numbered(acts))].map((item) => nameOf(item.act))).toEqual([`1/${second}`, '1/1', '1/2', '2/1']);
  });

  it('come after the birth of whoever the host lets speak, and without it where the trace does not hold it', () => {
    const says: ActRecord = { ...act(1, 1), from: 'npu/0', time_us: 1 };
    const born: ActRecord = { ...act(2, 1), to: 'npu/0', from: 'npu/0', message: null, machine: 'npu', time_us: 2 };
    const later = act(1, 2, 0, 0, 3);
    const orderOf = (acts: readonly ActRecord[]): string[] => [...inCausalOrder(numbered(acts))].map((item) => nameOf(item.act));
    expect(orderOf([says, later, born])).toEqual(['2/1', '1/1', '1/2']);
    expect(orderOf([says, act(2, 1, 0, 0, 2), later])).toEqual(['1/1', '2/1', '1/2']);
  });
});
