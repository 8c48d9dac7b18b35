/**
 * The pod's global memory: a short list of segments, each one shared WebAssembly.Memory of up to 4 GiB.
 * @module
 */
import { assert, invariantBroken } from '../protocol/errors.ts';
import { addressText, GUARD_BYTES, offsetOf, segmentOf } from './address.ts';
import { ControlPage } from './control-page.ts';
import { type Copies, makeCopies } from './copy.ts';
import type { Region, RegionKind } from './memory-plan.ts';
import { RegionTable } from './region-table.ts';

/** One thread's view of the global memory. */
export class AddressSpace {
  readonly memories: readonly WebAssembly.Memory[];
  readonly regions: readonly Region[];
  readonly control: ControlPage;
  readonly table: RegionTable;
  readonly #bytes: readonly Uint8Array[];
  readonly #words: readonly Int32Array[];
  readonly #floats: readonly Float32Array[];
  /** By segment to × segments + segment from. */
  readonly #copies: (Copies | undefined)[] = [];

  constructor(memories: readonly WebAssembly.Memory[], regions: readonly Region[]) {
    this.memories = memories;
    this.regions = regions;
    this.control = new ControlPage(memories);
    this.table = new RegionTable(this.control, regions);
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
    assert(offset >= GUARD_BYTES && offset + length <= bytes.length, `${length} bytes at ${addressText(address)} are outside of their segment`);
    return bytes.subarray(offset, offset + length);
  }

  /** All words of the address's segment, with the index of the address. */
  wordsOf(address: number): Int32Array {
    return this.#of(this.#words, address);
  }

  floatsOf(address: number): Float32Array {
    return this.#of(this.#floats, address);
  }

  /** The DMA engine: bytes from anywhere to anywhere by `memory.copy`. Checks nothing but the segments' ends. */
  copy(to: number, from: number, bytes: number): void {
    this.#copiesOf(to, from).copy(offsetOf(to), offsetOf(from), bytes);
  }

  /** The same for each of `rows` rows, which lie `stride` bytes apart on both sides. */
  copyRows(to: number, from: number, bytes: number, rows: number, stride: number): void {
    this.#copiesOf(to, from).copyRows(offsetOf(to), offsetOf(from), bytes, rows, stride);
  }

  #copiesOf(to: number, from: number): Copies {
    const key = segmentOf(to) * this.memories.length + segmentOf(from);
    let copies = this.#copies[key];
    if (copies === undefined) {
      copies = makeCopies(this.memory(to), this.memory(from));
      this.#copies[key] = copies;
    }
    return copies;
  }

  #of<View>(views: readonly View[], address: number): View {
    const view = views[segmentOf(address)];
    // Words of an error that is not needed would cost more than the look.
    if (view === undefined) invariantBroken(`address ${addressText(address)} names segment ${segmentOf(address)} of ${views.length}`);
    return view as View;
  }
}
