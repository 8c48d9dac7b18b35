/** A line of who waits does what a plain list does. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { WaitingLine } from '../../actors/policies/waiting-line.ts';

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
