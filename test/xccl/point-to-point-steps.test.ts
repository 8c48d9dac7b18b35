/**
 * Point to point, interleaved inside the polls: at every look at an epoch, every write of a field, before and after every copy, other dies may act, clocks
 * move, a die be given up and go on as a zombie that scribbles over its own memory, the domain be destroyed. Memory that a sender has back is scribbled over
 * at once.
 */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { destroyDomain, isAlive } from '../../src/xccl/domain.ts';
import { Endpoint } from '../../src/xccl/endpoint.ts';
import type { Poll } from '../../src/xccl/operation.ts';
import { PointToPoint } from '../../src/xccl/point-to-point.ts';
import { runs } from '../property-runs.ts';
import { makeDies, randomPick } from './rig.ts';
import { expectGuards, isWhole, placeTransfers, startReceive, startSend, type Transfer, type Way } from './transfers.ts';

const SLOT = 128;
const SIZES = [0, 1, SLOT, SLOT + 1, 5 * SLOT, 1_000];
const WAYS: readonly Way[] = ['slots', 'dma', 'lease'];
const DIES = 3;
const DEPTH_MAX = 2;
const RUNS = runs(150);
const SCRIBBLE = 0xee;

type Faults = { readonly timeouts: boolean; readonly zombies: boolean; readonly destruction: boolean };
/** One end of a message; `poll` is the die's own next step with it. */
type End = { readonly die: number; readonly poll: () => Poll; readonly transfer: Transfer; readonly isSend: boolean };

function interleave(seed: number, count: number, segments: number, faults: Faults): { done: number; failed: number } {
  const pick = randomPick(seed);
  const rig = makeDies(DIES, { segments, sizes: { slot_bytes: SLOT }, app_bytes: 65_536 });
  const { space, domain, clock } = rig;
  const acting: number[] = [];
  const zombies = new Set<number>();
  let isQuiet = false;

  /** What others do while a die is in the middle of something. */
  const meanwhile = (): void => {
    if (isQuiet || actor < 0 || acting.length > DEPTH_MAX || pick(4) !== 0) return;
    acting.push(actor);
    const fault = pick(12);
    if (fault === 0 && faults.timeouts) clock.advance(1 + pick(8));
    else if (fault === 1 && faults.zombies && zombies.size === 0 && pick(4) === 0) giveUp(pick(DIES));
    else if (fault === 2 && faults.destruction && pick(4) === 0 && isAlive(space.control, domain)) destroyDomain(space.control, domain);
    for (let acts = pick(6); acts > 0; acts--) {
      const end = ends[pick(ends.length)];
      if (end !== undefined && !acting.includes(end.die)) end.poll();
    }
    acting.pop();
  };
  const scribble = ({ source, bytes }: Transfer): void => {
    space.bytesAt(source, bytes).fill(SCRIBBLE);
  };
  const giveUp = (die: number): void => {
    zombies.add(die);
    space.control.raiseEpochOfDie(die);
    for (const { transfer } of ends) if (transfer.from === die) scribble(transfer);
  };

  /** The die that acts; each die is one thread, so it does one thing at a time. */
  let actor = -1;
  const as = <Result>(die: number, act: () => Result): Result => {
    const before = actor;
    actor = die;
    const result = act();
    actor = before;
    return result;
  };
  const copy = space.copy.bind(space);
  space.copy = (to, from, bytes) => {
    meanwhile();
    copy(to, from, bytes);
    meanwhile();
  };
  const epochOfDie = space.control.epochOfDie.bind(space.control);
  space.control.epochOfDie = (die) => {
    meanwhile();
    return epochOfDie(die);
  };
  const dies = rig.endpoints.map(({ die }) => new PointToPoint(new Endpoint(die, { ...rig.surroundings, arrive: meanwhile })));

  const shapes = Array.from({ length: count }, () => ({
    // Most of them on one pair, where they can get into each other's way.
    from: pick(2) * pick(DIES),
    to: pick(3) === 0 ? pick(DIES) : 1,
    bytes: SIZES[pick(SIZES.length)] as number,
    way: WAYS[pick(WAYS.length)] as Way,
    borrows: pick(2) === 0,
  }));
  const transfers = placeTransfers(space, rig.apps, shapes);
  const timeout = (): number => (faults.timeouts && pick(3) !== 0 ? 1 + pick(20) : 1_000_000);
  const outcome = { done: 0, failed: 0 };
  const count1 = (end: Poll): void => {
    if (end.state === 'done') outcome.done++;
    else if (end.state === 'failed') outcome.failed++;
  };

  const ends: End[] = [];
  for (const transfer of transfers) {
    const send = startSend(dies[transfer.from] as PointToPoint, domain, transfer, timeout());
    const receive = startReceive(dies[transfer.to] as PointToPoint, domain, transfer, timeout());
    let sent = false;
    const pollSend = (): Poll => {
      const end = as(transfer.from, send.poll.bind(send));
      if (end.state === 'pending' || sent) return end;
      sent = true;
      count1(end);
      scribble(transfer);
      return end;
    };
    let received: Poll | null = null;
    const pollReceive = (): Poll => {
      if (received !== null) return received;
      const end = as(transfer.to, receive.poll.bind(receive));
      if (end.state === 'pending') return end;
      const { lease } = receive;
      if (end.state === 'done' && lease?.copied === false) {
        // Held for a while.
        if (pick(3) !== 0) return { state: 'pending', missing: [] };
        const whole = isWhole(space, transfer, lease.address);
        received = as(transfer.to, lease.release.bind(lease));
        if (received.state === 'done') expect(whole, `borrowed ${JSON.stringify(transfer)}`).toBe(true);
      } else {
        received = end;
        if (end.state === 'done') expect(isWhole(space, transfer, transfer.target), `received ${JSON.stringify(transfer)}`).toBe(true);
      }
      count1(received);
      return received;
    };
    ends.push({ die: transfer.from, poll: pollSend, transfer, isSend: true }, { die: transfer.to, poll: pollReceive, transfer, isSend: false });
  }

  for (let polls = 0; polls < 60 * count; polls++) ends[pick(ends.length)]?.poll();
  // From here on nothing new happens but time: everything ends.
  isQuiet = true;
  clock.advance(2_000_000);
  for (let round = 0; round < 500; round++) for (const end of ends) end.poll();
  expect(
    ends.filter((end) => end.poll().state === 'pending').map(({ transfer, isSend }) => `${isSend ? 'send' : 'receive'} ${JSON.stringify(transfer)}`),
  ).toEqual([]);
  for (const transfer of transfers) expectGuards(space, transfer);
  const total = dies.reduce((sum, { counters }) => sum + counters.leases_lent + counters.leases_borrowed, 0);
  expect(total, 'leases that are out').toBe(0);
  return outcome;
}

const NONE: Faults = { timeouts: false, zombies: false, destruction: false };
it.each([
  ['nothing goes wrong', NONE],
  ['deadlines pass', { ...NONE, timeouts: true }],
  ['a die is given up and writes on', { ...NONE, zombies: true }],
  ['the domain is destroyed', { ...NONE, destruction: true }],
  ['all of it', { timeouts: true, zombies: true, destruction: true }],
] as const)('messages come whole or not at all, and everything ends, when %s at any step', (_, faults) => {
  const sum = { done: 0, failed: 0 };
  fc.assert(
    fc.property(fc.integer(), fc.constantFrom(1, 2, 3, 5, 8, 24), fc.constantFrom(1, 2, 3), (seed, count, segments) => {
      const { done, failed } = interleave(seed, count, segments, faults);
      sum.done += done;
      sum.failed += failed;
      if (faults === NONE) expect(failed).toBe(0);
    }),
    { numRuns: RUNS },
  );
  expect(sum.done).toBeGreaterThan(100);
  if (faults !== NONE) expect(sum.failed).toBeGreaterThan(20);
});
