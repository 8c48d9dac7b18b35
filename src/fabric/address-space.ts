/**
 * The pod's global memory: a short list of segments, each one shared WebAssembly.Memory of up to 4 GiB.
 *
 *   global address = segment × 2³² + offset        a plain number, exact up to 2⁵³
 *
 *   segment 0:  | guard 64 KiB | control page | rings | region | region | …      other segments: | guard | region | …
 *
 * A region belongs to one owner and lies in one segment, since a kernel sees only the memory that it was instantiated over.
 * @module
 */
import { assert, MinipodError } from '../protocol/errors.ts';

export const SEGMENT_STRIDE = 2 ** 32;
/** Address 0 and what a null pointer might reach is never given out. */
export const GUARD_BYTES = 65_536;
const PAGE_BYTES = 65_536;
/** Regions start on their own cache line pair, so that neighbours never share one. */
const REGION_ALIGNMENT = 128;

export type RegionKind = 'control' | 'rings' | 'hbm' | 'dram';
export type RegionRequest = { readonly owner: string; readonly kind: RegionKind; readonly bytes: number };
export type Region = RegionRequest & { readonly base: number };

export type SegmentLayout = { readonly bytes: number };
export type MemoryPlan = { readonly segments: readonly SegmentLayout[]; readonly regions: readonly Region[]; readonly bytes: number };

export const segmentOf = (address: number): number => Math.floor(address / SEGMENT_STRIDE);
/** Offset within the segment: what a kernel is given. */
export const offsetOf = (address: number): number => address % SEGMENT_STRIDE;
export const globalAddress = (segment: number, offset: number): number => segment * SEGMENT_STRIDE + offset;

const roundUp = (bytes: number, unit: number): number => Math.ceil(bytes / unit) * unit;
const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/**
 * Places regions in segments, in order, each into the first segment with room.
 * @throws `out_of_memory` with the sum, when a region outgrows a segment or all of them outgrow the memory.
 */
export function planMemory(requests: readonly RegionRequest[], segmentBytes: number, memoryBytes: number): MemoryPlan {
  const filled: number[] = [];
  const regions = requests.map((request): Region => {
    const bytes = roundUp(request.bytes, REGION_ALIGNMENT);
    if (GUARD_BYTES + bytes > segmentBytes) {
      throw new MinipodError(
        'out_of_memory',
        `${request.kind} of ${request.owner} needs ${mebibytes(bytes)}, a segment holds ${mebibytes(segmentBytes - GUARD_BYTES)}: use more NPUs, fewer kv_blocks or larger segment_bytes`,
      );
    }
    let segment = filled.findIndex((used) => used + bytes <= segmentBytes);
    if (segment < 0) segment = filled.push(GUARD_BYTES) - 1;
    const offset = filled[segment] ?? GUARD_BYTES;
    filled[segment] = offset + bytes;
    return { ...request, bytes, base: globalAddress(segment, offset) };
  });
  const segments = filled.map((used) => ({ bytes: roundUp(used, PAGE_BYTES) }));
  const bytes = segments.reduce((sum, segment) => sum + segment.bytes, 0);
  if (bytes > memoryBytes) {
    const sum = regions.map((region) => `${region.owner} ${region.kind} ${mebibytes(region.bytes)}`).join(' + ');
    throw new MinipodError('out_of_memory', `the pod needs ${mebibytes(bytes)}, memory_bytes grants ${mebibytes(memoryBytes)}: ${sum}`);
  }
  return { segments, regions, bytes };
}

export function allocateSegments(plan: MemoryPlan): WebAssembly.Memory[] {
  return plan.segments.map(({ bytes }, index) => {
    const pages = bytes / PAGE_BYTES;
    try {
      return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    } catch (cause) {
      throw new MinipodError('out_of_memory', `this machine does not grant segment ${index} of ${mebibytes(bytes)}`, { cause });
    }
  });
}

/**
 * `copy(to, from, bytes)` from memory 1 to memory 0. JavaScript moves 3–7 GB/s here, `memory.copy` 20–100.
 * Written out because AssemblyScript knows one memory only (multi-memory: Node 24 and Deno 2.9 run it).
 */
// biome-ignore format: one section a line
const COPY_MODULE = new Uint8Array([
  0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00,
  0x01, 0x07, 0x01, 0x60, 0x03, 0x7f, 0x7f, 0x7f, 0x00,                                  // type: (i32, i32, i32) → ()
  0x02, 0x15, 0x02, 0x01, 0x6d, 0x01, 0x30, 0x02, 0x03, 0x01, 0x80, 0x80, 0x04,          // import m.0: shared memory 1…65536
                    0x01, 0x6d, 0x01, 0x31, 0x02, 0x03, 0x01, 0x80, 0x80, 0x04,          // import m.1: the same
  0x03, 0x02, 0x01, 0x00,                                                                // one function
  0x07, 0x08, 0x01, 0x04, 0x63, 0x6f, 0x70, 0x79, 0x00, 0x00,                            // export "copy"
  0x0a, 0x0e, 0x01, 0x0c, 0x00, 0x20, 0x00, 0x20, 0x01, 0x20, 0x02, 0xfc, 0x0a, 0x00, 0x01, 0x0b, // memory.copy 0 1
]);

type Copy = (to: number, from: number, bytes: number) => void;

/** One thread's view of the global memory. */
export class AddressSpace {
  readonly memories: readonly WebAssembly.Memory[];
  readonly regions: readonly Region[];
  readonly #bytes: readonly Uint8Array[];
  readonly #words: readonly Int32Array[];
  readonly #floats: readonly Float32Array[];
  readonly #copies = new Map<number, Copy>();
  #copyModule: WebAssembly.Module | null = null;

  constructor(memories: readonly WebAssembly.Memory[], regions: readonly Region[]) {
    this.memories = memories;
    this.regions = regions;
    this.#bytes = memories.map((memory) => new Uint8Array(memory.buffer));
    this.#words = memories.map((memory) => new Int32Array(memory.buffer));
    this.#floats = memories.map((memory) => new Float32Array(memory.buffer));
  }

  region(owner: string, kind: RegionKind): Region {
    const region = this.regions.find((candidate) => candidate.owner === owner && candidate.kind === kind);
    assert(region, `no ${kind} region of ${owner}`);
    return region;
  }

  memory(address: number): WebAssembly.Memory {
    return this.#of(this.memories, address);
  }

  bytesAt(address: number, length: number): Uint8Array {
    const offset = offsetOf(address);
    const bytes = this.#of(this.#bytes, address);
    assert(offset >= GUARD_BYTES && offset + length <= bytes.length, `${length} bytes at ${address} are outside of their segment`);
    return bytes.subarray(offset, offset + length);
  }

  /** All words of the address's segment, with the index of the address. */
  wordsOf(address: number): Int32Array {
    return this.#of(this.#words, address);
  }

  floatsOf(address: number): Float32Array {
    return this.#of(this.#floats, address);
  }

  copy(to: number, from: number, bytes: number): void {
    const key = segmentOf(to) * 65_536 + segmentOf(from);
    let copy = this.#copies.get(key);
    if (copy === undefined) {
      this.#copyModule ??= new WebAssembly.Module(COPY_MODULE);
      const instance = new WebAssembly.Instance(this.#copyModule, { m: { 0: this.memory(to), 1: this.memory(from) } });
      copy = instance.exports['copy'] as Copy;
      this.#copies.set(key, copy);
    }
    copy(offsetOf(to), offsetOf(from), bytes);
  }

  #of<View>(views: readonly View[], address: number): View {
    const view = views[segmentOf(address)];
    assert(view !== undefined, `address ${address} names segment ${segmentOf(address)} of ${views.length}`);
    return view;
  }
}

/** Gives out a region's bytes from its base upwards; run once on base 0 to learn a size, once for real. */
export class Arena {
  readonly base: number;
  readonly limit: number;
  #next: number;

  constructor(base: number, bytes = Number.POSITIVE_INFINITY) {
    this.base = base;
    this.limit = base + bytes;
    this.#next = base;
  }

  allocate(bytes: number, alignment = 64): number {
    const address = roundUp(this.#next, alignment);
    this.#next = address + bytes;
    assert(this.#next <= this.limit, `arena at ${this.base} holds ${this.limit - this.base} bytes, ${this.#next - this.base} were asked for`);
    return address;
  }

  get used(): number {
    return this.#next - this.base;
  }
}
