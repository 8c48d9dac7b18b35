/**
 * A thread dies at any boundary that can be hooked: before and after each atomic store (publish, release of slab and ring, the wish for room) and
 * before and after the copy of each payload, which lies between the frame's claim and its header. Its peer goes on, its epoch is raised, its successor gets the
 * rings, reset; and at no time is a frame delivered that is torn, stale, doubled, lost or out of order.
 */
import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import { afterEach, expect, it, vi } from 'vitest';
import type { Lane } from '../../src/fabric/link-counters.ts';
import type { Links } from '../../src/fabric/links.ts';
import { RingProducer } from '../../src/fabric/ring.ts';
import { runs } from '../property-runs.ts';
import { SEGMENTS } from './segments.ts';
import { frame, payloadOf, twoThreads } from './two-threads.ts';

class Killed extends Error {}

/** Counts down the boundaries that the doomed thread passes; at 0 it dies. */
let boundariesLeft = Number.POSITIVE_INFINITY;
function passBoundary(): void {
  if (--boundariesLeft < 0) {
    boundariesLeft = Number.POSITIVE_INFINITY;
    throw new Killed();
  }
}

const { store } = Atomics;
const hooked = RingProducer.prototype as unknown as { copyIn: (...values: unknown[]) => void };
const { copyIn } = hooked;

function hookBoundaries(): void {
  vi.spyOn(Atomics, 'store').mockImplementation(((words: Int32Array, index: number, value: number) => {
    passBoundary();
    const stored = store(words, index, value);
    passBoundary();
    return stored;
  }) as typeof Atomics.store);
  hooked.copyIn = function (this: RingProducer, ...values: unknown[]) {
    passBoundary();
    copyIn.apply(this, values);
    passBoundary();
  };
}

function unhookBoundaries(): void {
  vi.restoreAllMocks();
  hooked.copyIn = copyIn;
}

afterEach(unhookBoundaries);

type Act = { readonly what: 'send' | 'flush' | 'receive'; readonly lane: Lane; readonly bytes: number };
const act: fc.Arbitrary<Act> = fc.record({
  what: fc.constantFrom('send' as const, 'send' as const, 'flush' as const, 'receive' as const),
  lane: fc.constantFrom('control' as const, 'data' as const),
  bytes: fc.oneof(
    { weight: 6, arbitrary: fc.integer({ min: 0, max: 90 }) },
    { weight: 3, arbitrary: fc.integer({ min: 60, max: 600 }) },
    { weight: 1, arbitrary: fc.integer({ min: 600, max: 20_000 }) },
  ),
});
const acts = (minLength: number, maxLength: number) => fc.array(fc.record({ who: fc.constantFrom(0 as const, 1 as const), act }), { minLength, maxLength });

/** What one thread's incarnation has sent on a lane and the peer has not received. */
class Ledger {
  readonly sizes: number[] = [];
  readonly #queues = new Map<string, number[]>();

  queue(from: number, lane: string): number[] {
    const key = `${from} ${lane}`;
    const queue = this.#queues.get(key) ?? [];
    this.#queues.set(key, queue);
    return queue;
  }

  get undelivered(): number[] {
    return [...this.#queues.values()].flat();
  }

  /** All that is under way counts no longer: links begin anew. */
  clear(): void {
    this.#queues.clear();
  }
}

function perform(links: Links, { what, lane, bytes }: Act, ledger: Ledger, isHeard: boolean): void {
  if (what === 'send') {
    const id = ledger.sizes.push(bytes) - 1;
    ledger.queue(links.thread, lane).push(id);
    links.send(1 - links.thread, lane, { ...frame(id), destination: lane === 'control' ? 1 : 0 }, payloadOf(id, bytes));
  } else if (what === 'flush') links.flush();
  else
    links.receive((peer, ring) => {
      expect(isHeard, 'a stale frame was delivered').toBe(true);
      const id = ring.header.source;
      expect(id).toBe(ledger.queue(peer, ring.header.destination === 1 ? 'control' : 'data').shift());
      expect(Buffer.compare(ring.payload(), payloadOf(id, ledger.sizes[id] as number))).toBe(0);
    });
}

/** True: it died of it. */
function performDoomed(links: Links, doomed: Act, ledger: Ledger): boolean {
  try {
    hookBoundaries();
    perform(links, doomed, ledger, true);
    return false;
  } catch (error) {
    if (error instanceof Killed) return true;
    throw error;
  } finally {
    unhookBoundaries();
  }
}

it('whatever boundary a thread dies at, over one segment or several, its peer and its successor see queues', () => {
  let kills = 0;
  let staleFrames = 0;
  const scenario = fc.record({
    segments: fc.constantFrom(...SEGMENTS),
    slab_bytes: fc.constantFrom(0, 512, 2_048),
    before: acts(30, 80),
    boundary: fc.integer({ min: 0, max: 80 }),
    meanwhile: fc.array(act, { maxLength: 3 }),
    goesOn: fc.boolean(),
    afterwards: fc.array(act, { maxLength: 10 }),
    again: acts(0, 40),
  });
  fc.assert(
    fc.property(scenario, ({ segments, slab_bytes, before, boundary, meanwhile, goesOn, afterwards, again }) => {
      const { linksOf, control, resetAll } = twoThreads(512, { slab_bytes, segments });
      const survivor = linksOf(0);
      const doomed = linksOf(1);
      // Where it goes on as if nothing had happened, it does not look at its own epoch either.
      doomed.isFenced = () => false;
      const ledger = new Ledger();
      boundariesLeft = boundary;
      let isDead = false;
      for (const { who, act } of before) {
        if (who === 0) perform(survivor, act, ledger, true);
        else isDead ||= performDoomed(doomed, act, ledger);
      }
      boundariesLeft = Number.POSITIVE_INFINITY;
      if (isDead) kills++;
      // What it has published is delivered as long as it is not given up.
      for (const act of meanwhile) perform(survivor, act, ledger, true);
      control.raiseEpoch(1);
      for (const act of afterwards) {
        if (goesOn && !isDead) perform(doomed, act, ledger, true);
        perform(survivor, act, ledger, false);
      }
      perform(survivor, { what: 'receive', lane: 'data', bytes: 0 }, ledger, false);
      staleFrames += survivor.counters().reduce((sum, { stale }) => sum + stale, 0);
      // The handshake: the survivor lets go, the old thread is gone, the rings are reset, both attach.
      survivor.detach(1);
      resetAll();
      survivor.attach(1);
      const successor = linksOf(1);
      ledger.clear();
      for (const { who, act } of again) perform(who === 0 ? survivor : successor, act, ledger, true);
      drain(survivor, successor, ledger);
    }),
    { numRuns: runs(400) },
  );
  // The test did what it says.
  expect(kills).toBeGreaterThan(runs(100));
  expect(staleFrames).toBeGreaterThan(runs(100));
});

/** All that was sent comes, and nothing is left in rings, slabs and outboxes. */
function drain(a: Links, b: Links, ledger: Ledger): void {
  for (let turn = 0; turn < 2_000 && (turn < 2 || ledger.undelivered.length > 0); turn++) {
    for (const links of [a, b]) {
      perform(links, { what: 'flush', lane: 'data', bytes: 0 }, ledger, true);
      perform(links, { what: 'receive', lane: 'data', bytes: 0 }, ledger, true);
    }
  }
  expect(ledger.undelivered).toEqual([]);
  for (const links of [a, b]) for (const { waiting, slab_bytes, stale } of links.counters()) expect([waiting, slab_bytes, stale]).toEqual([0, 0, 0]);
}
