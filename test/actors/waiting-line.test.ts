/** A line of who waits does what a plain list does. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { WaitingLine } from '../../actors/policies/waiting-line.ts';

it('who leaves a line is let go of, also behind one that waits on', () => {
  const line = new WaitingLine<{ id: number }>();
  line.push({ id: 0 });
  for (let id = 1; id < 1_000; id++) {
    const waiter = { id };
    line.push(waiter);
    line.remove(waiter);
  }
  expect(line.length).toBe(1);
  expect([...line]).toEqual([{ id: 0 }]);
  expect(line.kept).toBeLessThanOrEqual(3);
});

it('a line of waiters is in the order of a plain list, whoever comes, gives way or leaves', () => {
  const step = fc.tuple(fc.constantFrom('push', 'push', 'unshift', 'shift', 'remove'), fc.nat(30));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const line = new WaitingLine<{ id: number }>();
      let list: { id: number }[] = [];
      for (const [id, [act, at]] of steps.entries()) {
        const waiter = { id };
        if (act === 'push' || act === 'unshift') {
          line[act](waiter);
          list[act](waiter);
        } else if (list.length === 0) expect(line.first).toBeUndefined();
        else if (act === 'shift') {
          line.shift();
          list.shift();
        } else {
          const gone = list[at % list.length] as { id: number };
          line.remove(gone);
          list = list.filter((other) => other !== gone);
        }
        expect(line.length).toBe(list.length);
        expect(line.first).toBe(list[0]);
        expect([...line]).toEqual(list);
      }
    }),
    { numRuns: 300 },
  );
});
