/** Weights to several NPUs at once: all get them with their sum, or hear that they do not come; nobody waits for ever, whoever dies or says nothing. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { plainChecksum } from '../../../src/flowserve/distflow/checksum.ts';
import { sumOfWeights } from '../../../src/flowserve/weights/slot-weights.ts';
import { WeightBroadcasts } from '../../../src/flowserve/weights/weight-broadcasts.ts';
import { BROADCAST_MS_MAX } from '../../../src/protocol/expert-maps.ts';
import type { Directory } from '../../../src/runtime/directory.ts';
import { quickerForm } from '../../../src/xccl/broadcast.ts';
import { Endpoint } from '../../../src/xccl/endpoint.ts';
import { PIECE_BYTES } from '../../../src/xccl/receive.ts';
import { runs } from '../../property-runs.ts';
import { expectedBytes, fillBytes, makeDies, type Pick, randomPick } from '../../xccl/rig.ts';

const NPUS = 8;
/** Weights of a slot, so many of which fit beside one another. */
const PLACES = 3;
const SMALL = 8;
/** So large that eight ranks are a tree. */
const LARGE = PIECE_BYTES + 600_004;

/** The number of the first place's. */
const FIRST = 100;
const all = Array.from({ length: NPUS }, (_, npu) => npu);

/** An NPU a host, as on threads of their own. `told`: by NPU and place. */
function makeHosts(bytes = SMALL) {
  const dies = makeDies(NPUS, { segments: 3, app_bytes: PLACES * (LARGE + 60) });
  const { space, apps, surroundings } = dies;
  const checksum = plainChecksum(space);
  const directory = { dieOfNpu: (npu: number) => npu } as Directory;
  const hosts = all.map(() => new WeightBroadcasts({ directory, checksum, endpointOf: (npu) => new Endpoint(npu, surroundings) }));
  const addressOf = (npu: number, place: number): number => (apps[npu] as { address: number }).address + place * (LARGE + 60);
  const told = new Map<string, string>();
  const sums = new Map<number, number>();
  const fill = (npu: number, place: number): void => {
    fillBytes(space.bytesAt(addressOf(npu, place), bytes), place + 1);
    sums.set(place, sumOfWeights(checksum.sum, addressOf(npu, place), bytes));
  };
  const hear = (npu: number, place: number) => ({
    to: addressOf(npu, place),
    bytes,
    end: (sum: number) => void told.set(`${npu}.${place}`, sum === sums.get(place) ? 'there' : 'another sum'),
    fail: (error: Error) => void told.set(`${npu}.${place}`, error.message),
  });
  const host = (npu: number): WeightBroadcasts => hosts[npu] as WeightBroadcasts;
  /** From `root` to all others but `deaf`, who hear of it in any order. */
  const begin = (root: number, place: number, pick: Pick, deaf: readonly number[] = []): void => {
    const npus = [root, ...all.filter((npu) => npu !== root)];
    fill(root, place);
    const hearers = npus.filter((npu) => !deaf.includes(npu));
    while (hearers.length > 0) {
      const [npu] = hearers.splice(pick(hearers.length), 1) as [number];
      if (npu === root) host(npu).send(npu, { number: FIRST + place, npus }, addressOf(npu, place), bytes);
      else host(npu).receive(npu, { number: FIRST + place, npus }, hear(npu, place));
    }
  };
  /** Some turns in any order, then until nobody gets on. */
  const run = (who: readonly number[] = all, turns = 0, pick: Pick = () => 0): void => {
    for (let turn = 0; turn < turns; turn++) host(who[pick(who.length)] as number).poll();
    for (let isMoving = true; isMoving; ) isMoving = who.filter((npu) => host(npu).poll()).length > 0;
  };
  const hasBytes = (npu: number, place: number): boolean => Buffer.compare(space.bytesAt(addressOf(npu, place), bytes), expectedBytes(bytes, place + 1)) === 0;
  return { ...dies, host, begin, run, told, hasBytes, addressOf };
}
const first: Pick = () => 0;

it('a tree is taken where it is quicker: of many readers, of bytes that take longer than a message', () => {
  expect([2, 3, 4, 8, 64].map((ranks) => quickerForm(SMALL, ranks))).toEqual(Array.from({ length: 5 }, () => 'multi-reader'));
  expect([2, 3, 4, 8, 64].map((ranks) => quickerForm(64 << 20, ranks))).toEqual(['multi-reader', 'multi-reader', 'tree', 'tree', 'tree']);
  expect(quickerForm(LARGE, NPUS)).toBe('tree');
});

it('several from several NPUs at once should come to all, with their sums, in whichever order they are heard of', () => {
  fc.assert(
    fc.property(
      fc.integer(),
      fc.array(fc.nat(NPUS - 1), { minLength: 1, maxLength: PLACES }),
      fc.constantFrom(SMALL, SMALL, SMALL, LARGE),
      (seed, roots, bytes) => {
        const { begin, run, told, hasBytes } = makeHosts(bytes);
        const pick = randomPick(seed);
        for (const [place, root] of roots.entries()) {
          begin(root, place, pick);
          run(all, 20, pick);
        }
        run();
        for (const [place, root] of roots.entries())
          for (const npu of all) {
            expect(hasBytes(npu, place), `npu/${npu}, place ${place}`).toBe(true);
            expect(told.get(`${npu}.${place}`)).toBe(npu === root ? undefined : 'there');
          }
      },
    ),
    { numRuns: runs(12) },
  );
});

it('should copy a bounded number of bytes a turn', () => {
  const { begin, host, run, hasBytes } = makeHosts(LARGE);
  begin(0, 0, first);
  begin(0, 1, first);
  host(0).poll();
  for (let turn = 0; turn < 2; turn++) {
    expect(hasBytes(4, 0) || hasBytes(4, 1)).toBe(false);
    host(4).poll();
  }
  run();
  expect(hasBytes(4, 0) && hasBytes(4, 1)).toBe(true);
});

// Rank 4 is in the midst of the tree: it sends to 6 and 5, and 6 to 7.
it.each(['says nothing', 'dies'])('one in the midst of a tree that %s should keep those below it no longer than to the deadline', (what) => {
  const { begin, run, told, space, clock } = makeHosts(LARGE);
  const others = all.filter((npu) => npu !== 4);
  begin(0, 0, first, what === 'dies' ? [] : [4]);
  if (what === 'dies') space.control.raiseEpochOfDie(4);
  run(others);
  expect([1, 2, 3].map((npu) => told.get(`${npu}.0`))).toEqual(['there', 'there', 'there']);
  clock.advance(BROADCAST_MS_MAX);
  run(others);
  // Rank 7 hears of it from 6, which is silent for him.
  const why = what === 'dies' ? /was given up/ : /waited 20000 ms for rank 4$/;
  for (const npu of [5, 6]) expect(told.get(`${npu}.0`)).toMatch(why);
  expect(told.get('7.0')).toMatch(/waited 20000 ms for rank [46]$/);
  // They may get others.
  begin(0, 1, first, [4]);
  run(others);
  expect([1, 2, 3].map((npu) => told.get(`${npu}.1`))).toEqual(['there', 'there', 'there']);
});

it('the one that has them dies: who has not got them hears of it, and the others have them whole', () => {
  fc.assert(
    fc.property(fc.integer(), fc.nat(40), fc.constantFrom(SMALL, LARGE), (seed, turns, bytes) => {
      const { begin, host, run, told, hasBytes, space, addressOf, clock } = makeHosts(bytes);
      const pick = randomPick(seed);
      begin(2, 0, pick);
      for (let turn = 0; turn < turns; turn++) host(pick(NPUS)).poll();
      space.control.raiseEpochOfDie(2);
      space.bytesAt(addressOf(2, 0), bytes).fill(0xee);
      const others = all.filter((npu) => npu !== 2);
      run(others);
      clock.advance(BROADCAST_MS_MAX);
      run(others);
      for (const npu of others) {
        if (told.get(`${npu}.0`) === 'there') expect(hasBytes(npu, 0)).toBe(true);
        else expect(told.get(`${npu}.0`)).toMatch(/was given up|gave it up|waited 20000 ms/);
      }
    }),
    { numRuns: runs(20) },
  );
});

it('what is withdrawn should not keep what comes after it', () => {
  const { begin, host, run, told } = makeHosts();
  // Nobody hears of them, and they are more than are sent at once.
  for (let number = 0; number < 20; number++) host(0).send(0, { number, npus: all }, 0, 0);
  begin(0, 0, first);
  run();
  expect(told.size).toBe(0);
  host(0).withdraw(0, FIRST);
  run();
  expect([...told.values()]).toEqual(all.slice(1).map(() => 'there'));
});

it('what is given up at a place should tell nobody, and leave the place to others', () => {
  const { begin, host, run, told, addressOf, hasBytes } = makeHosts();
  begin(0, 0, first);
  host(3).cancelAt(3, addressOf(3, 0));
  run();
  expect(told.has('3.0')).toBe(false);
  expect(hasBytes(3, 0)).toBe(false);
  expect(told.get('2.0')).toBe('there');
});
