/** A line of who waits does what a sorted list does. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { isBefore, type Turn, WaitingLine } from '../../actors/policies/waiting-line.ts';
import { runs } from '../property-runs.ts';

it('who leaves a line is let go of, also behind one that waits on', () => {
  const line = new WaitingLine<Turn>();
  line.push({ rank: 0, arrival: 0 });
  for (let arrival = 1; arrival < 1_000; arrival++) {
    const waiter = { rank: 0, arrival };
    line.push(waiter);
    line.remove(waiter);
  }
  expect(line.length).toBe(1);
  expect([...line]).toEqual([{ rank: 0, arrival: 0 }]);
  expect(line.kept).toBeLessThanOrEqual(3);
});

it('a line of waiters is in the order of their turns, whoever comes, gives way, leaves or comes back', () => {
  const step = fc.tuple(fc.constantFrom('push', 'push', 'again', 'shift', 'remove'), fc.nat(30));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const line = new WaitingLine<Turn>();
      const away: Turn[] = [];
      let list: Turn[] = [];
      for (const [arrival, [act, at]] of steps.entries()) {
        const back = act === 'again' ? away.pop() : undefined;
        if (act === 'push' || back !== undefined) {
          const waiter = back ?? { rank: at % 4, arrival };
          line.push(waiter);
          list.push(waiter);
          list.sort((a, b) => (isBefore(a, b) ? -1 : 1));
        } else if (list.length === 0) expect(line.first).toBeUndefined();
        else if (act === 'shift') {
          line.shift();
          away.push(list.shift() as Turn);
        } else {
          const gone = list[at % list.length] as Turn;
          line.remove(gone);
          list = list.filter((other) => other !== gone);
          away.push(gone);
        }
        expect(line.length).toBe(list.length);
        expect(line.first).toBe(list[0]);
        expect([...line]).toEqual(list);
      }
    }),
    { numRuns: runs(300) },
  );
});
