/**
 * One slot's lease through two offers, with two pullers that are told of it, a clock that may expire it at any moment, cancellations, and a death.
 *
 * Why the model's steps are the code's steps. A block is two words here, so that half a copy can be seen; each offer's content is its serial.
 *
 *   holder   open          Offers open: the blocks' words and the offer's are stored before, the lease last, atomic
 *            load lease    Offers #look, atomic; whether the puller is gone is looked at with it (epochs only rise)
 *            swap lease    #endHeld, #fence, atomic; where the word has changed it looks again
 *            collect       #collect: from here on the blocks are others', who write them
 *            store words   of the next content; the offers of a slot follow each other
 *   puller   swap lease    Pull, claim: expects the serial that it was told of
 *            load serial   Pull #checkHeader
 *            load words    the transfer's copies, plain; between any two of them the header is looked at, or the pull is cancelled
 *            swap lease    release; or stop, once nothing is under way, and once more where it has been fenced meanwhile
 *
 * Who dies does so at any step and goes on all the same, as a thread does that was given up: only its epoch is known to have risen.
 */
import { type Change, changed, type Model, Places, type State, to } from '../../fabric/small-model.ts';

export type LeaseFault =
  | 'none'
  /** The holder takes the blocks back as soon as it has fenced the puller. */
  | 'collect at the fence'
  /** The holder takes the blocks back from a puller that it has not fenced. */
  | 'collect unfenced'
  /** The holder fences by a store, whatever the lease has become. */
  | 'fence by store'
  /** The puller releases by a store. */
  | 'release by store'
  /** A lease that is seen to be held is claimed by a store. */
  | 'claim by store'
  /** A lease has no serial. */
  | 'no serial'
  /** A puller that was fenced says nothing. */
  | 'no acknowledgement'
  /** A puller stops before its last read. */
  | 'stop before the read';

/** `told`: the serial that puller B is told of; A is told of 1. */
export type LeaseOptions = { readonly told: 1 | 2; readonly dies: 'A' | 'nobody'; readonly fault: LeaseFault };

const L = { free: 0, held: 1, pulling: 2, released: 3, fenced: 4, stopped: 5 } as const;
const H = { look: 0, expire: 1, fence: 2, write: 3, second: 4, open: 5, over: 6 } as const;
const P = { claim: 0, storeClaim: 1, serial: 2, first: 3, second: 4, release: 5, stop: 6, stopFenced: 7, done: 8, failed: 9 } as const;
const E = { open: 0, pulled: 1, other: 2 } as const;

export function leaseModel({ told, dies, fault }: LeaseOptions): Model {
  const places = new Places();
  const [lease, serial, first, second, expired, gone] = [places.one(), places.one(), places.one(), places.one(), places.one(), places.one()];
  const [holder, seen, offer] = [places.one(), places.one(), places.one()];
  const ends = places.many(3);
  const pullers = [1, told].map((registered, index) => ({ id: index + 1, registered, pc: places.one(), a: places.one(), b: places.one() }));
  const of = (state: State, place: number): number => state[place] as number;
  const word = (which: number, puller: number, state: number): number => (fault === 'no serial' ? 0 : which * 32) + puller * 8 + state;
  const stateOf = (value: number): number => value % 8;
  const pullerOf = (value: number): number => (value >>> 3) % 4;

  const collect = (state: State, end: number): State[] => {
    const at = of(state, offer);
    return to(state, [ends + at, end], [holder, at === 1 ? H.write : H.over], [lease, word(at, 0, L.free)]);
  };

  function stepHolder(state: State): State[] {
    const [at, current] = [of(state, offer), of(state, lease)];
    switch (of(state, holder)) {
      case H.look: {
        const isGone = pullerOf(current) === 1 && of(state, gone) === 1;
        if (stateOf(current) === L.released) return collect(state, E.pulled);
        if (stateOf(current) === L.stopped || (stateOf(current) >= L.pulling && isGone)) return collect(state, E.other);
        if (stateOf(current) === L.fenced || of(state, expired) < at) return [];
        return to(state, [seen, current], [holder, stateOf(current) === L.held ? H.expire : H.fence]);
      }
      case H.expire:
        return current === of(state, seen) ? collect(state, E.other) : to(state, [holder, H.look]);
      case H.fence: {
        if (fault === 'collect unfenced') return collect(state, E.other);
        const fenced: Change = [lease, word(at, pullerOf(of(state, seen)), L.fenced)];
        if (fault === 'fence by store') return to(state, fenced, [holder, H.look]);
        if (current !== of(state, seen)) return to(state, [holder, H.look]);
        return fault === 'collect at the fence' ? collect(changed(state, [fenced]), E.other) : to(state, fenced, [holder, H.look]);
      }
      case H.write:
        return to(state, [first, 2], [holder, H.second]);
      case H.second:
        return to(state, [second, 2], [serial, 2], [offer, 2], [holder, H.open]);
      case H.open:
        return to(state, [lease, word(2, 0, L.held)], [holder, H.look]);
      default:
        return [];
    }
  }

  function stepPuller(state: State, { id, registered, pc, a, b }: (typeof pullers)[number]): State[] {
    const current = of(state, lease);
    const [held, pulling, fenced] = [word(registered, 0, L.held), word(registered, id, L.pulling), word(registered, id, L.fenced)];
    const swap = (expected: number, next: number, then: number, otherwise: number): State[] =>
      current === expected ? to(state, [lease, next], [pc, then]) : to(state, [pc, otherwise]);
    // It is fenced and sees it, or it is cancelled.
    const stops = to(state, [pc, P.stop]);
    switch (of(state, pc)) {
      case P.claim:
        // Of an offer that is still to come nobody is told.
        if (of(state, offer) < registered || (registered === 2 && of(state, holder) === H.open)) return [];
        if (fault === 'claim by store') return to(state, [pc, current === held ? P.storeClaim : P.failed]);
        return swap(held, pulling, P.serial, P.failed);
      case P.storeClaim:
        return to(state, [lease, pulling], [pc, P.serial]);
      case P.serial:
        return to(state, [pc, of(state, serial) === registered || fault === 'no serial' ? P.first : P.stop]);
      case P.first:
        return [...to(state, [a, of(state, first)], [pc, P.second]), ...stops];
      case P.second:
        if (fault === 'stop before the read' && current === fenced) return to(state, [lease, word(registered, id, L.stopped)]);
        return [...to(state, [b, of(state, second)], [pc, P.release]), ...stops];
      case P.release:
        if (fault === 'release by store') return to(state, [lease, word(registered, id, L.released)], [pc, P.done]);
        return [...swap(pulling, word(registered, id, L.released), P.done, P.stop), ...stops];
      case P.stop:
        if (fault === 'no acknowledgement' && current === fenced) return to(state, [pc, P.failed]);
        return swap(pulling, word(registered, id, L.stopped), P.failed, current === fenced ? P.stopFenced : P.failed);
      case P.stopFenced:
        return swap(fenced, word(registered, id, L.stopped), P.failed, P.failed);
      default:
        return [];
    }
  }

  const isZombie = (state: State, id: number): boolean => id === 1 && of(state, gone) === 1;
  return {
    initial: changed(
      Array.from({ length: places.size }, () => 0),
      [
        [lease, word(1, 0, L.held)],
        [serial, 1],
        [first, 1],
        [second, 1],
        [offer, 1],
      ],
    ),
    steps: (state) => [
      ...stepHolder(state),
      ...pullers.flatMap((puller) => stepPuller(state, puller)),
      ...(of(state, expired) < of(state, offer) ? to(state, [expired, of(state, offer)]) : []),
      ...(dies === 'A' && of(state, gone) === 0 ? to(state, [gone, 1]) : []),
    ],
    wrong(state) {
      for (const { id, registered, pc, a, b } of pullers) {
        if (isZombie(state, id)) continue;
        if (of(state, pc) === P.done && (of(state, a) !== registered || of(state, b) !== registered)) return 'delivered what was not offered';
        const isReading = of(state, pc) === P.second || of(state, pc) === P.first;
        if (isReading && registered === 1 && of(state, holder) >= H.second) return 'written under the copy';
      }
      return null;
    },
    wrongAtEnd(state) {
      if (of(state, holder) !== H.over) return 'stuck: blocks are kept aside for ever';
      for (const registered of [1, 2]) {
        const done = pullers.filter((puller) => puller.registered === registered && of(state, puller.pc) === P.done);
        if (done.length > 1) return 'pulled twice';
        if (done.some(({ id }) => isZombie(state, id))) continue;
        const isPulled = of(state, ends + registered) === E.pulled;
        if (isPulled !== (done.length === 1)) return isPulled ? 'the holder believes in a pull that failed' : 'pulled, and the holder does not know';
      }
      return null;
    },
  };
}
