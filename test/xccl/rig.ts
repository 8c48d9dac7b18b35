/** A few dies over small segments in one thread, under a clock that the test moves; `rig-threads.ts` spreads them over threads. */
import { PAGE_BYTES, roundUp } from '../../src/fabric/address.ts';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { Arena } from '../../src/fabric/arena.ts';
import { allocateSegments, type MemoryPlan, planMemory, SEGMENT_HEAD_BYTES } from '../../src/fabric/memory-plan.ts';
import { type AreaSizes, type Areas, layoutAreas } from '../../src/xccl/areas.ts';
import { createDomain, type Domain } from '../../src/xccl/domain.ts';
import { Endpoint, type Surroundings } from '../../src/xccl/endpoint.ts';
import type { Operation, Poll } from '../../src/xccl/operation.ts';
import { longPayloadOf } from '../fabric/two-threads.ts';

export type DiesOptions = {
  /** The dies fill so many segments evenly; fewer dies than segments, one each. */
  readonly segments?: number;
  readonly sizes?: Partial<Omit<AreaSizes, 'dies'>>;
  /** Bytes of each die's app data area. */
  readonly app_bytes?: number;
};
export type App = { readonly address: number; readonly bytes: number };
/** What lies where: a plain value, so that it travels to other threads. */
export type DiesPlan = { readonly memory: MemoryPlan; readonly areas: readonly Areas[]; readonly apps: readonly App[] };

const SIZES: Omit<AreaSizes, 'dies'> = { slots: 2, slot_bytes: 1_024, dispatch_bytes: 8_192, reply_bytes: 8_192, gather_bytes: 8_192 };
const APP_BYTES = 16_384;
export const WORLD = 0;

/** Die n owns the one region of `npu/n`: its areas, then its app data area. */
export function planDies(count: number, { segments = 2, sizes = {}, app_bytes = APP_BYTES }: DiesOptions = {}): DiesPlan {
  const areaSizes: AreaSizes = { ...SIZES, ...sizes, dies: count };
  const measure = new Arena(0);
  layoutAreas(areaSizes, measure);
  const bytes = roundUp(measure.used, 128) + roundUp(app_bytes, 128);
  const segmentBytes = roundUp(SEGMENT_HEAD_BYTES + Math.ceil(count / segments) * bytes, PAGE_BYTES);
  const requests = Array.from({ length: count }, (_, die) => ({ owner: `npu/${die}`, kind: 'hbm' as const, bytes }));
  const memory = planMemory(requests, segmentBytes, Number.POSITIVE_INFINITY);
  const regions = requests.map(({ owner }) => memory.regions.find((region) => region.owner === owner)?.base ?? 0);
  const areas = regions.map((base) => layoutAreas(areaSizes, new Arena(base, bytes)));
  const apps = regions.map((base) => ({ address: base + roundUp(measure.used, 128), bytes: roundUp(app_bytes, 128) }));
  return { memory, areas, apps };
}

/** A clock that moves when it is told to. */
export class FakeClock {
  #now_ms = 0;
  readonly now_ms = (): number => this.#now_ms;

  advance(duration_ms: number): void {
    this.#now_ms += duration_ms;
  }
}

export type Dies = {
  readonly endpoints: Endpoint[];
  readonly space: AddressSpace;
  /** All dies, rank = die. */
  readonly domain: Domain;
  readonly apps: readonly App[];
  readonly clock: FakeClock;
  readonly surroundings: Surroundings;
  /** How often each die was told to look. */
  readonly arrivals: number[];
};

export function makeDies(count: number, options: DiesOptions = {}): Dies {
  const { memory, areas, apps } = planDies(count, options);
  const space = new AddressSpace(allocateSegments(memory), memory.regions);
  const clock = new FakeClock();
  const arrivals = Array.from({ length: count }, () => 0);
  const surroundings: Surroundings = {
    space,
    areasOf: (die) => areas[die] as Areas,
    arrive: (die) => {
      arrivals[die] = (arrivals[die] as number) + 1;
    },
    now_ms: clock.now_ms,
  };
  const domain = createDomain(
    space.control,
    WORLD,
    apps.map((_, die) => die),
  );
  const endpoints = apps.map((_, die) => new Endpoint(die, surroundings));
  return { endpoints, space, domain, apps, clock, surroundings, arrivals };
}

/** The next one to poll, of so many that are pending. */
export type Pick = (pending: number) => number;

/** A repeatable stream of numbers in 0 ≤ x < 1. */
export function numbers(seed: number): () => number {
  let state = Math.imul(seed + 1, 0x9e3779b1) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** An order without a pattern, from a seed that fast-check draws. */
export function randomPick(seed: number): Pick {
  const next = numbers(seed);
  return (pending) => Math.floor(next() * pending);
}

const POLLS_MAX = 200_000;

/**
 * Polls until each is done or has failed: round robin, or in the order of `pick`.
 * @returns how each one ended, in their order. @throws naming those that are pending after `polls_max` polls in all.
 */
export function run(operations: readonly Operation[], { pick, polls_max = POLLS_MAX }: { pick?: Pick; polls_max?: number } = {}): Poll[] {
  const ends = operations.map((): Poll | null => null);
  const pending = operations.map((_, index) => index);
  for (let polls = 0; pending.length > 0; polls++) {
    if (polls === polls_max) throw new Error(`after ${polls} polls: ${pending.map((index) => who(index, operations[index]?.poll())).join('; ')}`);
    const at = pick === undefined ? polls % pending.length : pick(pending.length);
    const index = pending[at] as number;
    const poll = (operations[index] as Operation).poll();
    if (poll.state === 'pending') continue;
    ends[index] = poll;
    pending.splice(at, 1);
  }
  return ends as Poll[];
}

/** The same; each must end done. @throws the first failure. */
export function succeed(operations: readonly Operation[], options: { pick?: Pick; polls_max?: number } = {}): void {
  for (const end of run(operations, options)) if (end.state === 'failed') throw end.error;
}

const who = (index: number, poll: Poll | undefined): string =>
  `operation ${index} waits for ranks ${poll?.state === 'pending' ? poll.missing.join(', ') : poll?.state}`;

/** The messages of those that failed, null for the others. */
export const errorsOf = (ends: readonly Poll[]): (string | null)[] => ends.map((end) => (end.state === 'failed' ? end.error.message : null));

/** Bytes that differ from place to place and from seed to seed. */
export const expectedBytes = (length: number, seed: number): Uint8Array => longPayloadOf(seed, length);

export function fillBytes(bytes: Uint8Array, seed: number): void {
  bytes.set(expectedBytes(bytes.length, seed));
}
