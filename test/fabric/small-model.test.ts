/** The protocols between threads, in all interleavings: right as they are, and wrong as soon as one store is out of order. */
import { describe, expect, it } from 'vitest';
import { explore } from './small-model.ts';
import { type LanesFault, lanesModel } from './small-model-lanes.ts';
import { type RingFault, ringModel } from './small-model-ring.ts';
import { type RoomFault, roomModel } from './small-model-room.ts';

/** Enough frames to fill the ring and to wrap it: with one more than there are slots the producer has to wait for room. */
const SHAPES = [
  { slots: 2, frames: [5, 5] },
  { slots: 4, frames: [5, 2] },
] as const;

describe.each(SHAPES)('a ring of $slots slots', (shape) => {
  it.each(['nobody', 'producer', 'consumer'] as const)(
    'loses, doubles, tears and reorders nothing and consumes nothing stale in any interleaving; dies: %s',
    (dies) => {
      const { states, ends, wrong } = explore(ringModel({ ...shape, dies, fault: 'none' }));
      expect(wrong).toBeNull();
      expect(ends).toBeGreaterThan(0);
      expect(states).toBeGreaterThan(dies === 'nobody' ? 400 : 40_000);
    },
  );

  const faults: readonly (readonly [RingFault, 'producer' | 'consumer', RegExp])[] = [
    ['publish before payload', 'producer', /rubbish/],
    ['publish before header', 'producer', /rubbish/],
    ['release before payload', 'producer', /lost, doubled or reordered/],
    ['reset before gone', 'producer', /rubbish/],
    ['reset before gone', 'consumer', /rubbish/],
    ['reset before detached', 'producer', /rubbish/],
    ['reset before detached', 'consumer', /rubbish/],
    ['no epoch check', 'producer', /stale frame consumed/],
  ];
  it.each(faults)('is seen to break by %s when the %s dies', (fault, dies, what) => {
    expect(explore(ringModel({ ...shape, dies, fault })).wrong).toMatch(what);
  });
});

describe('a producer without room', () => {
  it.each([1, 2, 3, 5])('is woken whenever there is some, %i times', (more) => {
    const { ends, wrong } = explore(roomModel(more, 'none'));
    expect(wrong).toBeNull();
    expect(ends).toBeGreaterThan(0);
  });

  it.each(['slab first', 'waits last', 'release last'] as const satisfies readonly RoomFault[])('is seen to sleep for ever with the order: %s', (fault) => {
    expect(explore(roomModel(2, fault)).wrong).toMatch(/asleep with room/);
  });
});

describe('data', () => {
  it.each([1, 2, 4])('is behind all control that was published before it, %i times', (frames) => {
    const { ends, wrong } = explore(lanesModel(frames, 'none'));
    expect(wrong).toBeNull();
    expect(ends).toBeGreaterThan(0);
  });

  it.each(['no second look', 'data after the look'] as const satisfies readonly LanesFault[])('is seen to overtake control with: %s', (fault) => {
    expect(explore(lanesModel(2, fault)).wrong).toMatch(/before its control/);
  });
});
