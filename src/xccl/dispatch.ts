/**
 * The two halves of dispatch (xDeepServe §3.2): a rank with tokens leaves a package in its own dispatch area (steps 1 to 3), a rank with experts pulls its
 * parts of everybody's packages (steps 6 and 7). What lies between, the fields, is the forms' affair: naive-fan-out.ts, trampoline.ts.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import type { Arena } from '../fabric/arena.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Membership } from './membership.ts';
import { checkRange, checkRoom, directoryBytes, type Extent, formatOfCode, NOTE_BYTES, type PartList, partBytes, summedBytes, writeEntry } from './parts.ts';
import type { RowChecks } from './row-sums.ts';
import { PLACE_MASK, type TokenRouting } from './token-routing.ts';
import { blockBytes, formatCode, RowCodec, stagingBytes, type WireFormat, type WireKernels } from './wire-format.ts';

/** Tokens and the gate's choice for them, all in the segment of the die. */
export type TokenBatch = {
  readonly tokens: number;
  /** f32 [tokens, hidden]. */
  readonly rows: number;
  /** Ids of experts (token-routing.ts), u32 [tokens, top_k], each once a token; any order. */
  readonly experts: number;
  /** Gate scores, f32 [tokens, top_k]. */
  readonly weights: number;
  /** In which the tokens travel; f32 if it is left out, which changes no bit. */
  readonly format?: WireFormat;
  /** A word for whoever computes them, 0 if it is left out. */
  readonly note?: number;
};

/** Leaves packages in the own dispatch area. */
export class TokenPackage {
  readonly routing: TokenRouting;
  readonly hidden: number;
  /** By destination: where its part begins, from the start of the area. */
  readonly offsets: Int32Array;
  bytes = 0;
  format: WireFormat = 'f32';
  readonly #membership: Membership;
  readonly #codec: RowCodec;
  readonly #extent: Extent;
  readonly #rowTokens: number;
  readonly #encoded: number;
  readonly #checks: RowChecks | null;

  /** `encoded`: room for a narrow block of as many tokens as the routing takes. `row_tokens`: the routing's table. */
  constructor(
    membership: Membership,
    codec: RowCodec,
    hidden: number,
    routing: TokenRouting,
    row_tokens: number,
    encoded: number,
    extent: Extent,
    checks: RowChecks | null,
  ) {
    this.#checks = checks;
    this.routing = routing;
    this.hidden = hidden;
    this.offsets = new Int32Array(routing.destinations);
    this.#membership = membership;
    this.#codec = codec;
    this.#extent = extent;
    this.#rowTokens = row_tokens;
    this.#encoded = encoded;
  }

  /** @throws `out_of_memory` with the bytes needed and granted, before anything is written there. */
  pack(what: string, { tokens, rows, experts, weights, format = 'f32', note = 0 }: TokenBatch): void {
    const { routing, hidden, offsets } = this;
    const { space, endpoint } = this.#membership;
    routing.sort(experts, weights, tokens);
    const { destinations } = routing;
    let bytes = directoryBytes(destinations);
    for (let to = 0; to < destinations; to++) {
      offsets[to] = this.#extent.offset + bytes;
      bytes += partBytes(format, routing.rowsTo(to), routing.pairsTo(to), hidden);
    }
    checkRoom(`${what} of ${tokens} tokens as ${format}`, bytes, this.#extent.bytes, `die ${endpoint.die}'s dispatch area`);
    this.bytes = bytes;
    this.format = format;
    const directory = endpoint.areas.dispatch + this.#extent.offset;
    // Quantised once a token, however many destinations it has.
    if (format !== 'f32') this.#codec.encode(this.#encoded, rows, tokens, format);
    const from = format === 'f32' ? rows : this.#encoded;
    for (let to = 0; to < destinations; to++) {
      const count = routing.rowsTo(to);
      const pairs = routing.pairsTo(to);
      const offset = offsets[to] as number;
      writeEntry(space, directory, to, offset - this.#extent.offset, count, pairs, formatCode(format));
      if (pairs === 0) continue;
      const part = endpoint.areas.dispatch + offset;
      const words = space.wordsOf(part);
      words[offsetOf(part) / 4] = note;
      this.#writePairs(part + NOTE_BYTES, to, pairs);
      this.#codec.gather(part + NOTE_BYTES + 8 * pairs, from, tokens, this.#rowTokens + 4 * (routing.first_row[to] as number), count, format);
      if (this.#checks === null) continue;
      words[offsetOf(part) / 4 + 1] = sumOfPart(this.#checks, note, part, count, pairs, format, hidden);
      const { die, surroundings } = endpoint;
      if (surroundings.watch?.isOn) surroundings.watch.left(die, [{ address: part + NOTE_BYTES, bytes: summedBytes(format, count, pairs, hidden) }]);
    }
  }

  #writePairs(ids: number, to: number, pairs: number): void {
    const { first_pair, expert_of_pair, row_of_pair } = this.routing;
    const words = this.#membership.space.wordsOf(ids);
    const at = offsetOf(ids) / 4;
    const first = first_pair[to] as number;
    for (let pair = 0; pair < pairs; pair++) {
      words[at + pair] = expert_of_pair[first + pair] as number;
      words[at + pairs + pair] = row_of_pair[first + pair] as number;
    }
  }
}

/** Of its pairs and rows, begun with its note. */
const sumOfPart = ({ sum }: RowChecks, note: number, part: number, rows: number, pairs: number, format: WireFormat, hidden: number): number =>
  sum(note, part + NOTE_BYTES, summedBytes(format, rows, pairs, hidden)) | 0;

/** Where an expert rank takes tokens in: f32 [rows_max, hidden], u32 [pairs_max] twice, and scratch. */
export type ReceiveMemory = {
  readonly rows_max: number;
  readonly pairs_max: number;
  readonly rows: number;
  readonly pair_experts: number;
  readonly pair_rows: number;
  readonly staging: number;
};

export function layoutReceiveMemory(rows_max: number, pairs_max: number, hidden: number, arena: Arena): ReceiveMemory {
  return {
    rows_max,
    pairs_max,
    rows: arena.allocate(4 * rows_max * hidden),
    pair_experts: arena.allocate(4 * pairs_max),
    pair_rows: arena.allocate(4 * pairs_max),
    staging: arena.allocate(stagingBytes(hidden)),
  };
}

/** The tokens that an expert rank has pulled, by source in the order of the ranks, whatever the order they came in. */
export class ReceivedTokens {
  readonly memory: ReceiveMemory;
  readonly hidden: number;
  /** By source, and the sum at the end. */
  readonly first_row: Int32Array;
  readonly first_pair: Int32Array;
  /** By source; of one that has asked for something. */
  readonly notes: Int32Array;
  /** By source: other than 0 where what was pulled is not what it was: nothing of it is to be computed. */
  readonly damaged: Uint8Array;
  readonly #membership: Membership;
  readonly #codec: RowCodec;
  /** By place; this rank's own number among the destinations. */
  readonly #destinationOf: ArrayLike<number>;
  readonly #destination: number;
  readonly #checks: RowChecks | null;

  constructor(
    membership: Membership,
    kernels: WireKernels,
    hidden: number,
    memory: ReceiveMemory,
    sources: number,
    destination_of_place: ArrayLike<number>,
    destination: number,
    checks: RowChecks | null,
  ) {
    this.#checks = checks;
    this.#membership = membership;
    this.hidden = hidden;
    this.memory = memory;
    this.first_row = new Int32Array(sources + 1);
    this.first_pair = new Int32Array(sources + 1);
    this.notes = new Int32Array(sources);
    this.damaged = new Uint8Array(sources);
    this.#codec = new RowCodec(membership.space, kernels, hidden, memory.staging);
    this.#destinationOf = destination_of_place;
    this.#destination = destination;
  }

  get sources(): number {
    return this.first_row.length - 1;
  }

  get codec(): RowCodec {
    return this.#codec;
  }

  /** Tokens, each once a source: f32 rows at `memory.rows`. */
  get rows(): number {
    return this.first_row[this.sources] as number;
  }

  /** What there is to compute: id and row of each pair, at `memory.pair_experts` and `memory.pair_rows`, by (source, place, token). */
  get pairs(): number {
    return this.first_pair[this.sources] as number;
  }

  pairsFrom(source: number): number {
    return (this.first_pair[source + 1] as number) - (this.first_pair[source] as number);
  }

  /**
   * @throws `memory_fault` naming a rank whose part does not lie in its area, or says what cannot be; `out_of_memory` with the bytes needed and granted,
   * before anything is pulled.
   */
  pull(what: string, parts: PartList): void {
    let rows = 0;
    let pairs = 0;
    for (let source = 0; source < this.sources; source++) {
      this.#check(parts, source);
      rows += parts.rows[source] as number;
      pairs += parts.pairs[source] as number;
      this.first_row[source + 1] = rows;
      this.first_pair[source + 1] = pairs;
    }
    const { rows_max, pairs_max } = this.memory;
    const { die } = this.#membership.endpoint;
    checkRoom(`${what} for ${rows} tokens`, 4 * rows * this.hidden, 4 * rows_max * this.hidden, `die ${die}'s received rows`);
    checkRoom(`${what} for ${pairs} pairs`, 8 * pairs, 8 * pairs_max, `die ${die}'s received pairs`);
    for (let source = 0; source < this.sources; source++) this.#pullPart(parts, source);
  }

  /** What was pulled was not written anew meanwhile. */
  confirm(): void {
    for (const isDamaged of this.damaged) if (isDamaged !== 0) this.#checks?.found();
  }

  #check(parts: PartList, source: number): void {
    const rank = parts.holders[source] as number;
    const peer = this.#membership.nameOf(rank);
    const { dispatch_bytes } = this.#membership.endpoint.surroundings.areasOf(this.#membership.dieOf(rank));
    const rows = parts.rows[source] as number;
    const pairs = parts.pairs[source] as number;
    const format = formatOfCode(peer, parts.formats[source] as number);
    checkRange(peer, 'dispatch', parts.offsets[source] as number, partBytes(format, rows, pairs, this.hidden), dispatch_bytes);
  }

  #pullPart(parts: PartList, source: number): void {
    const { space, endpoint } = this.#membership;
    const rank = parts.holders[source] as number;
    const part = endpoint.surroundings.areasOf(this.#membership.dieOf(rank)).dispatch + (parts.offsets[source] as number);
    const rows = parts.rows[source] as number;
    const pairs = parts.pairs[source] as number;
    const firstRow = this.first_row[source] as number;
    const firstPair = this.first_pair[source] as number;
    this.damaged[source] = 0;
    if (pairs === 0) return;
    const words = space.wordsOf(part);
    const note = words[offsetOf(part) / 4] as number;
    this.notes[source] = note;
    const ids = part + NOTE_BYTES;
    const { memory } = this;
    space.copy(memory.pair_experts + 4 * firstPair, ids, 4 * pairs);
    space.copy(memory.pair_rows + 4 * firstPair, ids + 4 * pairs, 4 * pairs);
    const format = formatOfCode(this.#membership.nameOf(rank), parts.formats[source] as number);
    this.#codec.decode(memory.rows + 4 * firstRow * this.hidden, ids + 8 * pairs, rows, format);
    endpoint.counters.pulled_bytes += blockBytes(format, rows, this.hidden);
    if (this.#checks !== null && sumOfPart(this.#checks, note, part, rows, pairs, format, this.hidden) !== words[offsetOf(part) / 4 + 1]) {
      this.damaged[source] = 1;
      return;
    }
    this.#checkPairs(space, rank, firstPair, pairs, firstRow, rows);
  }

  /** Rows of a part are numbered from 0; here they are behind those of the sources before. What was pulled is not believed: kernels index by it. */
  #checkPairs(space: AddressSpace, rank: number, firstPair: number, pairs: number, firstRow: number, rows: number): void {
    const words = space.wordsOf(this.memory.pair_rows);
    const rowAt = offsetOf(this.memory.pair_rows) / 4 + firstPair;
    const expertAt = offsetOf(this.memory.pair_experts) / 4 + firstPair;
    for (let pair = 0; pair < pairs; pair++) {
      const row = (words[rowAt + pair] as number) >>> 0;
      const expert = words[expertAt + pair] as number;
      if (row >= rows || this.#destinationOf[expert & PLACE_MASK] !== this.#destination) {
        const peer = this.#membership.nameOf(rank);
        throw new MinipodError(
          'memory_fault',
          `${peer} asks for row ${row} of ${rows} by expert ${expert & PLACE_MASK}, which is not of rank ${this.#membership.rank}`,
        );
      }
      words[rowAt + pair] = firstRow + row;
    }
  }
}
