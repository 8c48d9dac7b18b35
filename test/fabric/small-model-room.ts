/**
 * How a producer that found no room falls asleep, and is woken when there is some.
 *
 * Why the model's steps are the code's steps. Frames are of one size here, each with a cell of the slab; ring and slab are full at the start, so that a
 * frame can be written for each one that the consumer gives back.
 *
 *   producer   load tail        RingProducer #writeExtended, atomic
 *              load slab tail   SlabWriter claim, atomic; no cell is free: no room
 *              load tail        #hasRoom, atomic: only if the one seen last leaves no slot free; none now: no room
 *                               a frame is written, or there was no room:
 *              store waits      setWaits, at the end of Links flush
 *              store asleep     ControlPage sleep
 *              load tail        hasNews, by Links hasInbound, which sleep asks once more
 *              wait             Atomics.wait while the mark says asleep
 *              store awake
 *   consumer   store slab tail  RingConsumer release, atomic
 *              store tail       the same
 *              load waits       producerWaits
 *              load the mark    ControlPage ring
 *              store awake      and notify
 */
import { type Change, changed, type Model, Places, type State, to } from './small-model.ts';

export type RoomFault =
  | 'none'
  /** The slab's tail is looked at before the ring's. */
  | 'slab first'
  /** The producer says that it waits after its last look at tail. */
  | 'waits last'
  /** The consumer looks at `waits` before it gives room back. */
  | 'release last';

const P = { tail: 0, slab: 1, claim: 2, waits: 3, asleep: 4, look: 5, wait: 6, awake: 7, done: 8 } as const;
const R = { slab: 0, tail: 1, waits: 2, bell: 3 } as const;

/** `more`: frames that the producer still has to write, as many as the consumer will read. */
export function roomModel(more: number, fault: RoomFault): Model {
  const places = new Places();
  const [tail, slabTail, waits, bell] = [places.one(), places.one(), places.one(), places.one()];
  const [pc, written, tailSeen, slabSeen] = [places.one(), places.one(), places.one(), places.one()];
  const [reader, read, saw] = [places.one(), places.one(), places.one()];
  const of = (state: State, place: number): number => state[place] as number;
  const begin = fault === 'slab first' ? P.slab : P.tail;
  const readerOrder = fault === 'release last' ? [R.waits, R.slab, R.tail, R.bell] : [R.slab, R.tail, R.waits, R.bell];
  const isFull = (state: State, seen: number): boolean => of(state, written) >= seen;

  function stepProducer(state: State): State[] {
    switch (of(state, pc)) {
      case P.tail:
        if (fault === 'slab first') return to(state, [tailSeen, of(state, tail)], [pc, isFull(state, of(state, slabSeen)) ? P.waits : P.claim]);
        return to(state, [tailSeen, of(state, tail)], [pc, P.slab]);
      case P.slab: {
        const seen = of(state, slabTail);
        if (fault === 'slab first') return to(state, [slabSeen, seen], [pc, P.tail]);
        return to(state, [slabSeen, seen], [pc, isFull(state, seen) ? P.waits : P.claim]);
      }
      case P.claim: {
        if (!isFull(state, of(state, tailSeen))) return to(state, [written, of(state, written) + 1], [pc, of(state, written) + 1 === more ? P.done : begin]);
        const seen = of(state, tail);
        return to(state, [tailSeen, seen], ...(isFull(state, seen) ? ([[pc, P.waits]] as const) : []));
      }
      case P.waits:
        return fault === 'waits last' ? to(state, [pc, P.asleep]) : to(state, [waits, 1], [pc, P.asleep]);
      case P.asleep:
        return to(state, [bell, 1], [pc, P.look]);
      case P.look:
        return to(state, [pc, of(state, tail) !== of(state, tailSeen) ? P.awake : P.wait]);
      case P.wait:
        if (fault === 'waits last' && of(state, waits) === 0) return to(state, [waits, 1]);
        return of(state, bell) === 0 ? to(state, [pc, P.awake]) : [];
      case P.awake:
        return to(state, [bell, 0], [pc, begin]);
      default:
        return [];
    }
  }

  function stepConsumer(state: State): State[] {
    if (of(state, read) === more) return [];
    const step = of(state, reader);
    const then: Change[] =
      step === 3
        ? [
            [reader, 0],
            [read, of(state, read) + 1],
          ]
        : [[reader, step + 1]];
    const onward = (...changes: Change[]): State[] => to(state, ...changes, ...then);
    switch (readerOrder[step]) {
      case R.slab:
        return onward([slabTail, of(state, slabTail) + 1]);
      case R.tail:
        return onward([tail, of(state, tail) + 1]);
      case R.waits:
        return onward([saw, of(state, waits)]);
      case R.bell:
        return of(state, saw) === 1 ? onward([bell, 0]) : onward();
      default:
        return [];
    }
  }

  return {
    initial: changed(
      Array.from({ length: places.size }, () => 0),
      [[pc, begin]],
    ),
    steps: (state) => [...stepProducer(state), ...stepConsumer(state)],
    wrong: () => null,
    wrongAtEnd: (state) => (of(state, pc) === P.done ? null : `asleep with room: ${of(state, written)} of ${more} frames written`),
  };
}
