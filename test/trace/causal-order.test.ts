/** Acts of several threads that come in any order between threads: told each after its cause. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { inCausalOrder } from '../../src/trace/causal-order.ts';

type Item = { readonly act: ActRecord; readonly index: number };

const act = (thread: number, number: number, cause_thread = 0, cause = 0): ActRecord => ({
  kind: 'act',
  ...{ thread, number, cause_thread, cause, time_us: 0, to: 'task/1', from: 'job/1', machine: null, input: null },
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
      { numRuns: 300 },
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
});
