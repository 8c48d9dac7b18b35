/**
 * The ring's index protocol, with the death of one end and the handshake that readies the ring for its successor.
 *
 * Why the model's steps are the code's steps. Frames are of one size here, so that a position is a slot; each is two words that are stored apart, so that
 * half a frame can be seen.
 *
 *   producer   load head, tail  RingProducer's constructor: it attaches
 *              load tail        #hasRoom, atomic: only if the one seen last leaves no room
 *              store payload    copyIn, plain
 *              store header     #putHeader, plain
 *              store head       publish, atomic; after one frame or after several
 *   consumer   load tail        RingConsumer's constructor: it attaches
 *              load head        hasNext, isEmpty, atomic: only if all seen so far is taken (the plain look before it decides nothing but to look again); look
 *              load header      nextSeen, plain; the sequence is checked
 *              load epoch       Links #takeSeen, atomic: a frame of another epoch ends the link, and nothing more of the ring is read or written
 *              load payload     the handler, plain
 *              store tail       release, atomic; after one frame or after several
 *   control    store epoch      ControlPage raiseEpoch, atomic
 *              await detached   PEER_DETACHED of the surviving end; it travels by a ring of its own, so it is one atomic store here
 *              await gone       the exit of the old thread, or its acknowledgement: ControlPage acknowledgeStop, atomic, its last store
 *              store head, tail clearRing, atomic
 *              start            the successor's thread, and PEER_RESTARTED for the survivor, which attaches anew
 *
 * The end that dies does so before any of its steps; until then it goes on as if it knew of nothing, however long ago its epoch was raised.
 */
import { type Change, changed, type Model, Places, type State, to } from './small-model.ts';

export type RingFault =
  | 'none'
  /** Head is stored before the frame. */
  | 'publish before payload'
  /** Head is stored between payload and header. */
  | 'publish before header'
  /** Tail is stored before the frame is read. */
  | 'release before payload'
  /** The ring is reset while the old thread may still write. */
  | 'reset before gone'
  /** The ring is reset while the survivor may still use it. */
  | 'reset before detached'
  /** Frames are handed out whatever their epoch. */
  | 'no epoch check';

export type RingOptions = {
  readonly slots: number;
  /** Frames that the producer sends before and after the loss. */
  readonly frames: readonly [number, number];
  readonly dies: 'producer' | 'consumer' | 'nobody';
  readonly fault: RingFault;
};

/** `writing + n`: n of the frame's stores are done. */
const P = { attachHead: 0, attachTail: 1, writing: 2, done: 9 } as const;
const R = { attach: 0, head: 1, header: 2, epoch: 3, payload: 4, over: 8, done: 9 } as const;
const C = { epoch: 0, detached: 1, gone: 2, head: 3, tail: 4, start: 5 } as const;

const PROBLEM = { torn: 1, order: 2, rubbish: 3, stale: 4 } as const;
const PROBLEMS = ['', 'torn frame', 'frame lost, doubled or reordered', 'rubbish for a frame', 'stale frame consumed'];

type Store = 'payload' | 'header' | 'head';
/** A right producer stores head at the end of a batch, as a step of its own. */
const STORES: readonly Store[] = ['payload', 'header'];
const FAULTY_STORES: Readonly<Partial<Record<RingFault, readonly Store[]>>> = {
  'publish before payload': ['head', 'payload', 'header'],
  'publish before header': ['payload', 'head', 'header'],
};

export function ringModel({ slots, frames, dies, fault }: RingOptions): Model {
  /** Positions wrap soon, and at another place than the slots do. */
  const span = 4 * slots;
  const wrap = (position: number): number => (position + span) % span;
  const stores = FAULTY_STORES[fault] ?? STORES;

  const places = new Places();
  const shared = { head: places.one(), tail: places.one(), epoch: places.one(), detached: places.one(), gone: places.one(), started: places.one() };
  /** Payload and header of each slot. */
  const memory = places.many(2 * slots);
  const problem = places.one();
  const control = places.one();
  /** `held`: plain stores that others do not see yet, each in the place of its word; 0: none. */
  const makeProducer = () => ({
    pc: places.one(),
    head: places.one(),
    published: places.one(),
    tailSeen: places.one(),
    sent: places.one(),
    held: places.many(2 * slots),
  });
  const makeConsumer = () => ({
    pc: places.one(),
    tail: places.one(),
    released: places.one(),
    headSeen: places.one(),
    taken: places.one(),
    header: places.one(),
  });
  type Producer = ReturnType<typeof makeProducer>;
  const producers = [makeProducer(), makeProducer()] as const;
  const consumers = [makeConsumer(), makeConsumer()] as const;
  const [oldProducer, oldConsumer] = [producers[0], consumers[0]];

  /** What both words of a frame hold, never 0. */
  const frameOf = (incarnation: number, sequence: number): number => 1 + incarnation * 16 + sequence;
  const incarnationOf = (frame: number): number => (frame - 1) >> 4;
  const sequenceOf = (frame: number): number => (frame - 1) & 15;

  // The first incarnations attach just before positions wrap.
  const initial = changed(
    Array.from({ length: places.size }, () => 0),
    [
      [shared.head, span - 1],
      [shared.tail, span - 1],
    ],
  );
  const of = (state: State, place: number): number => state[place] as number;

  const isAllVisible = (state: State, { held }: Producer): boolean => state.slice(held, held + 2 * slots).every((value) => value === 0);

  /** Held stores become visible one by one, in any order. */
  function stepHeld(state: State, { held }: Producer): State[] {
    const seen: State[] = [];
    for (let word = 0; word < 2 * slots; word++) {
      const value = of(state, held + word);
      if (value !== 0) seen.push(...to(state, [memory + word, value], [held + word, 0]));
    }
    return seen;
  }

  function stepProducer(state: State, incarnation: 0 | 1): State[] {
    const own = producers[incarnation];
    const position = of(state, own.head);
    switch (of(state, own.pc)) {
      case P.attachHead:
        return to(state, [own.head, of(state, shared.head)], [own.published, of(state, shared.head)], [own.pc, P.attachTail]);
      case P.attachTail:
        return to(state, [own.tailSeen, of(state, shared.tail)], [own.pc, P.writing]);
      case P.writing: {
        const canPublish = position !== of(state, own.published) && isAllVisible(state, own);
        const published = canPublish ? to(state, [shared.head, position], [own.published, position]) : [];
        if (of(state, own.sent) === frames[incarnation]) return published;
        const seen = of(state, shared.tail);
        if (wrap(position - of(state, own.tailSeen)) < slots) return [...published, ...stepFrame(state, incarnation)];
        return seen === of(state, own.tailSeen) ? published : [...published, ...to(state, [own.tailSeen, seen])];
      }
      case P.done:
        return [];
      default:
        return stepFrame(state, incarnation);
    }
  }

  /** The next of the stores that make up a frame. */
  function stepFrame(state: State, incarnation: 0 | 1): State[] {
    const own = producers[incarnation];
    const [position, sent] = [of(state, own.head), of(state, own.sent)];
    const [done, following] = [of(state, own.pc) - P.writing, wrap(position + 1)];
    const word = own.held + 2 * (position % slots);
    const after: Change[] =
      done < stores.length - 1
        ? [[own.pc, P.writing + done + 1]]
        : [
            [own.pc, P.writing],
            [own.head, following],
            [own.sent, sent + 1],
          ];
    switch (stores[done]) {
      case 'payload':
        return to(state, [word, frameOf(incarnation, sent)], ...after);
      case 'header':
        return to(state, [word + 1, frameOf(incarnation, sent)], ...after);
      default:
        return isAllVisible(state, own) ? to(state, [shared.head, following], [own.published, following], ...after) : [];
    }
  }

  function stepConsumer(state: State, incarnation: 0 | 1): State[] {
    const own = consumers[incarnation];
    const position = of(state, own.tail);
    const following = wrap(position + 1);
    const word = memory + 2 * (position % slots);
    const taken: Change[] = [
      [own.tail, following],
      [own.taken, of(state, own.taken) + 1],
      [own.pc, R.head],
    ];
    switch (of(state, own.pc)) {
      case R.attach: {
        const seen = of(state, shared.tail);
        return to(state, [own.tail, seen], [own.released, seen], [own.headSeen, seen], [own.pc, R.head]);
      }
      case R.head: {
        const released = position === of(state, own.released) ? [] : to(state, [shared.tail, position], [own.released, position]);
        const seen = of(state, shared.head);
        if (position === of(state, own.headSeen)) return seen === position ? released : [...released, ...to(state, [own.headSeen, seen])];
        if (fault === 'release before payload') return to(state, [shared.tail, following], [own.released, following], [own.pc, R.header]);
        return [...released, ...to(state, [own.pc, R.header])];
      }
      case R.header: {
        const header = of(state, word + 1);
        if (header === 0 || incarnationOf(header) !== incarnation) return to(state, [problem, PROBLEM.rubbish]);
        if (sequenceOf(header) !== of(state, own.taken)) return to(state, [problem, PROBLEM.order]);
        return to(state, [own.header, header], [own.pc, R.epoch]);
      }
      case R.epoch: {
        // Where the consumer dies it is its own epoch that rises; what the producer writes still counts.
        const isStale = dies === 'producer' && of(state, shared.epoch) !== incarnation;
        if (isStale && fault === 'no epoch check') return to(state, [problem, PROBLEM.stale]);
        return to(state, [own.pc, isStale ? R.over : R.payload]);
      }
      case R.payload:
        return of(state, word) === of(state, own.header) ? to(state, ...taken) : to(state, [problem, PROBLEM.torn]);
      default:
        return [];
    }
  }

  /** The old end that dies: at any of its steps. That it is gone is seen only after all that it stored. */
  function stepDying(state: State): State[] {
    const [pc, done] = dies === 'producer' ? [oldProducer.pc, P.done] : [oldConsumer.pc, R.done];
    if (of(state, pc) !== done) return to(state, [pc, done]);
    const canSayIt = of(state, shared.gone) === 0 && (dies === 'consumer' || isAllVisible(state, oldProducer));
    return canSayIt ? to(state, [shared.gone, 1]) : [];
  }

  /** The old end that survives lets go between two frames, once it is told of the loss. */
  function stepSurviving(state: State): State[] {
    const [pc, between, done] = dies === 'producer' ? [oldConsumer.pc, R.head, R.done] : [oldProducer.pc, P.writing, P.done];
    const isBetween = of(state, pc) === between || (dies === 'producer' && of(state, pc) === R.over);
    if (of(state, shared.epoch) === 0 || !isBetween || (dies === 'consumer' && !isAllVisible(state, oldProducer))) return [];
    return to(state, [pc, done], [shared.detached, 1]);
  }

  function stepControl(state: State): State[] {
    const pc = of(state, control);
    const after: Change = [control, pc + 1];
    switch (pc) {
      case C.epoch:
        return to(state, [shared.epoch, 1], after);
      case C.detached:
        return of(state, shared.detached) === 1 || fault === 'reset before detached' ? to(state, after) : [];
      case C.gone:
        return of(state, shared.gone) === 1 || fault === 'reset before gone' ? to(state, after) : [];
      case C.head:
        return to(state, [shared.head, 0], after);
      case C.tail:
        return to(state, [shared.tail, 0], after);
      case C.start:
        return to(state, [shared.started, 1], after);
      default:
        return [];
    }
  }

  const stepEnds = (state: State, incarnation: 0 | 1): State[] => [
    ...stepHeld(state, producers[incarnation]),
    ...stepProducer(state, incarnation),
    ...stepConsumer(state, incarnation),
  ];
  const last = dies === 'nobody' ? 0 : 1;
  return {
    initial,
    steps(state) {
      const old = stepEnds(state, 0);
      if (dies === 'nobody') return old;
      const others = [...stepDying(state), ...stepSurviving(state), ...stepControl(state)];
      return [...old, ...others, ...(of(state, shared.started) === 1 ? stepEnds(state, 1) : [])];
    },
    wrong: (state) => PROBLEMS[of(state, problem)] || null,
    // All that the last incarnation published has come, and all room is given back; of the one before, what came had no gap.
    wrongAtEnd(state) {
      const { taken } = consumers[last];
      const isDone = of(state, shared.started) === last && of(state, taken) === frames[last] && of(state, shared.tail) === of(state, shared.head);
      return isDone ? null : `stuck: ${of(state, taken)} of ${frames[last]} frames came`;
    },
  };
}
