/**
 * Dies without a pod: areas and room for data in small segments, hosted by one thread or by two in turn.
 * @module
 */
import { PAGE_BYTES, roundUp } from '../src/fabric/address.ts';
import { AddressSpace } from '../src/fabric/address-space.ts';
import { Arena } from '../src/fabric/arena.ts';
import { allocateSegments, type MemoryPlan, planMemory, SEGMENT_HEAD_BYTES } from '../src/fabric/memory-plan.ts';
import { type AreaSizes, type Areas, layoutAreas } from '../src/xccl/areas.ts';
import { createDomain, type Domain } from '../src/xccl/domain.ts';
import { Endpoint, type Surroundings } from '../src/xccl/endpoint.ts';
import type { Operation } from '../src/xccl/operation.ts';
import { PointToPoint } from '../src/xccl/point-to-point.ts';
import { type Duo, HERE, type Side, SPINS_PER_LOOK } from './fabric-duo.ts';

/** Long enough for a machine that others use too. */
export const TIMEOUT_MS = 30_000;

export type DiesOptions = {
  readonly dies: number;
  /** Die n lives on thread n modulo this. */
  readonly threads: 1 | 2;
  /** The dies fill so many evenly. */
  readonly segments: number;
  readonly sizes: Omit<AreaSizes, 'dies'>;
  /** Of each die's room for data, beside its areas. */
  readonly data_bytes: number;
};

/** What a thread needs to know of them: a plain value. */
export type DiesStart = {
  readonly options: DiesOptions;
  readonly memory: MemoryPlan;
  readonly memories: readonly WebAssembly.Memory[];
  readonly areas: readonly Areas[];
  /** By die: where its room for data begins. */
  readonly data: readonly number[];
  readonly domain: Domain;
};

export function makeDies(options: DiesOptions): DiesStart {
  const { dies, segments, data_bytes } = options;
  const sizes: AreaSizes = { ...options.sizes, dies };
  const measure = new Arena(0);
  layoutAreas(sizes, measure);
  const areaBytes = roundUp(measure.used, 128);
  const bytes = areaBytes + roundUp(data_bytes, 128);
  const requests = Array.from({ length: dies }, (_, die) => ({ owner: `npu/${die}`, kind: 'hbm' as const, bytes }));
  const memory = planMemory(requests, roundUp(SEGMENT_HEAD_BYTES + Math.ceil(dies / segments) * bytes, PAGE_BYTES), Number.POSITIVE_INFINITY);
  const bases = memory.regions.filter(({ kind }) => kind === 'hbm').map(({ base }) => base);
  const memories = allocateSegments(memory);
  return {
    options,
    memory,
    memories,
    areas: bases.map((base) => layoutAreas(sizes, new Arena(base, bytes))),
    data: bases.map((base) => base + areaBytes),
    domain: createDomain(
      new AddressSpace(memories, memory.regions).control,
      0,
      bases.map((_, die) => die),
    ),
  };
}

/** One thread's dies. */
export class Dies {
  readonly start: DiesStart;
  readonly space: AddressSpace;
  readonly endpoints: ReadonlyMap<number, Endpoint>;
  readonly #ends = new Map<number, PointToPoint>();

  constructor(start: DiesStart, thread: number) {
    const { threads } = start.options;
    this.start = start;
    this.space = new AddressSpace(start.memories, start.memory.regions);
    const { control } = this.space;
    const surroundings: Surroundings = {
      space: this.space,
      areasOf: (die) => start.areas[die] as Areas,
      arrive: (die) => {
        if (die % threads !== thread) control.arrive(die % threads);
      },
      now_ms: () => performance.now(),
    };
    const own = start.domain.dies.filter((die) => die % threads === thread);
    this.endpoints = new Map(own.map((die) => [die, new Endpoint(die, surroundings)]));
  }

  endpoint(die: number): Endpoint {
    const endpoint = this.endpoints.get(die);
    if (endpoint === undefined) throw new Error(`die ${die} is not of this thread`);
    return endpoint;
  }

  pointToPoint(die: number): PointToPoint {
    let end = this.#ends.get(die);
    if (end === undefined) {
      end = new PointToPoint(this.endpoint(die));
      this.#ends.set(die, end);
    }
    return end;
  }
}

/** Dies of the other thread, by the name under which both know them. */
const opened = new Map<string, Dies>();

export function openDies(_side: Side, { name, start }: { name: string; start: DiesStart }): void {
  opened.set(name, new Dies(start, 1));
}

export function diesNamed(name: string): Dies {
  const dies = opened.get(name);
  if (dies === undefined) throw new Error(`no dies are called ${name}`);
  return dies;
}

/** Makes them, and opens them on the other thread if some live there. */
export async function openBoth(duo: Duo, name: string, options: DiesOptions): Promise<Dies> {
  const start = makeDies(options);
  if (options.threads === 2) await duo.there('openDies', { name, start });
  return new Dies(start, HERE);
}

/** Polls in turn until each is done. @throws what one failed with. */
export function finish(side: Side, operations: readonly Operation[]): void {
  let left = operations.length;
  const isDone = new Uint8Array(left);
  for (let turn = 1; left > 0; turn++) {
    for (let index = 0; index < operations.length; index++) {
      if (isDone[index] === 1) continue;
      const end = (operations[index] as Operation).poll();
      if (end.state === 'pending') continue;
      if (end.state === 'failed') throw end.error;
      isDone[index] = 1;
      left--;
    }
    if (turn % SPINS_PER_LOOK === 0) side.mustGoOn();
  }
}
