/**
 * The two halves of combine (xDeepServe §3.2): an expert rank leaves a row for each (token, expert) in its own reply area, by source; the rank that has
 * the tokens pulls them and sums, weighted by the gate's scores, by ascending expert id. So the bits never depend on who answers first.
 * @module
 */
import { offsetOf, segmentOf } from '../fabric/address.ts';
import type { Arena } from '../fabric/arena.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { ReceivedTokens } from './dispatch.ts';
import type { Membership } from './membership.ts';
import { answerBytes, checkRange, checkRoom, type Extent, formatOfCode, type PartList, REFUSED } from './parts.ts';
import type { RowChecks } from './row-sums.ts';
import type { TokenRouting } from './token-routing.ts';
import { blockBytes, formatCode, type RowCodec, stagingBytes, type WireFormat, type WireKernels } from './wire-format.ts';

/** What the experts made of the pairs received: f32 [pairs, hidden] in the order of the pairs. */
export type Replies = {
  readonly rows: number;
  /** In which the answers travel; f32 if it is left out, which changes no bit. */
  readonly format?: WireFormat;
  /** By source: other than 0 where it is refused, so that its rows are nothing; missing: nobody is. */
  readonly refused?: ArrayLike<number> | null;
};

/** Leaves answers in the own reply area, a block for each source. */
export class ReplyBlocks {
  /** By source, from the start of the area. */
  readonly offsets: Int32Array;
  /** By source: rows of the answer, and its format's code or REFUSED. */
  readonly pairs: Int32Array;
  readonly codes: Int32Array;
  /** By source: of the answer's rows, 0 where nobody looks at them. */
  readonly sums: Int32Array;
  bytes = 0;
  readonly #membership: Membership;
  readonly #received: ReceivedTokens;
  readonly #extent: Extent;
  readonly #checks: RowChecks | null;

  constructor(membership: Membership, received: ReceivedTokens, extent: Extent, checks: RowChecks | null) {
    this.#checks = checks;
    this.#membership = membership;
    this.#received = received;
    this.#extent = extent;
    this.offsets = new Int32Array(received.sources);
    this.pairs = new Int32Array(received.sources);
    this.codes = new Int32Array(received.sources);
    this.sums = new Int32Array(received.sources);
  }

  /** Answers that are computed here, and travel as f32, need not be copied. */
  get address(): number {
    return this.#membership.endpoint.areas.reply + this.#extent.offset;
  }

  /** @throws `out_of_memory` with the bytes needed and granted, before anything is written there. */
  leave(what: string, { rows, format = 'f32', refused = null }: Replies): void {
    const { sources, hidden, pairs, codec, first_pair } = this.#received;
    let bytes = 0;
    for (let source = 0; source < sources; source++) {
      const isRefused = refused !== null && refused[source] !== 0;
      this.offsets[source] = this.#extent.offset + bytes;
      this.pairs[source] = isRefused ? 0 : this.#received.pairsFrom(source);
      this.codes[source] = isRefused ? REFUSED : formatCode(format);
      bytes += blockBytes(format, this.#received.pairsFrom(source), hidden);
    }
    const { endpoint } = this.#membership;
    checkRoom(`${what} of ${pairs} rows as ${format}`, bytes, this.#extent.bytes, `die ${endpoint.die}'s reply area`);
    this.bytes = bytes;
    const isThere = rows === this.address && format === 'f32';
    for (let source = 0; source < sources; source++) {
      const block = endpoint.areas.reply + (this.offsets[source] as number);
      if (!isThere) codec.encode(block, rows + 4 * (first_pair[source] as number) * hidden, this.#received.pairsFrom(source), format);
      const answered = this.pairs[source] as number;
      if (answered > 0) this.sums[source] = this.#sumOf(block, blockBytes(format, answered, hidden));
      else this.sums[source] = this.#received.damaged[source] === 0 ? 0 : WAS_DAMAGED;
    }
  }

  #sumOf(address: number, bytes: number): number {
    if (this.#checks === null) return 0;
    const sum = this.#checks.sum(0, address, bytes);
    const { die, surroundings } = this.#membership.endpoint;
    if (surroundings.watch?.isOn) surroundings.watch.left(die, [{ address, bytes }]);
    return sum;
  }
}

/** In place of a refusal's sum: what was asked was not what it had been. */
const WAS_DAMAGED = 1;

/** Where a rank with tokens takes the answers in. */
export type CollectMemory = {
  readonly tokens_max: number;
  readonly top_k: number;
  /** u32 [pairs]: tables of the routing. */
  readonly row_tokens: number;
  /** f32 [pairs] */
  readonly weights: number;
  /** u32 [pairs]: where in the segment the answer of each slot lies. */
  readonly places: number;
  /** A narrow block of tokens_max rows. */
  readonly encoded: number;
  /** f32 [pairs, hidden]: answers that do not lie in this segment as f32. */
  readonly replies: number;
  readonly staging: number;
};

/** `replies`: where they lie, if somebody has room for them already. */
export function layoutCollectMemory(tokens_max: number, top_k: number, hidden: number, arena: Arena, replies?: number): CollectMemory {
  const pairs = tokens_max * top_k;
  return {
    tokens_max,
    top_k,
    row_tokens: arena.allocate(4 * pairs),
    weights: arena.allocate(4 * pairs),
    places: arena.allocate(4 * pairs),
    encoded: arena.allocate(Math.max(blockBytes('bf16', tokens_max, hidden), blockBytes('int8', tokens_max, hidden))),
    replies: replies ?? arena.allocate(4 * pairs * hidden),
    staging: arena.allocate(stagingBytes(hidden)),
  };
}

/** Where the sum goes, all in the segment of the die. */
export type CombineTarget = {
  /** f32 [tokens, hidden], to which the weighted sum is added. Undefined after a failure. */
  readonly into: number;
  /** f32 [tokens, hidden] added last, such as the shared expert's; 0: none. */
  readonly shared: number;
};

/** Pulls answers and sums them. */
export class ReplyCollector {
  readonly #membership: Membership;
  readonly #kernels: WireKernels;
  readonly #codec: RowCodec;
  readonly #routing: TokenRouting;
  readonly #hidden: number;
  readonly #memory: CollectMemory;
  readonly #checks: RowChecks | null;
  /** Of what was asked last: some rank has refused its part; some part or answer is not what it was, and how many answers are not. */
  #hasRefusals = false;
  #hasDamage = false;
  #damaged = 0;

  constructor(
    membership: Membership,
    kernels: WireKernels,
    codec: RowCodec,
    routing: TokenRouting,
    hidden: number,
    memory: CollectMemory,
    checks: RowChecks | null,
  ) {
    this.#checks = checks;
    this.#membership = membership;
    this.#kernels = kernels;
    this.#codec = codec;
    this.#routing = routing;
    this.#hidden = hidden;
    this.#memory = memory;
  }

  /** Then what was pulled is nothing. */
  get isRefused(): boolean {
    return this.#hasRefusals || this.#hasDamage;
  }

  /** It is for nothing else. */
  get isDamaged(): boolean {
    return this.#hasDamage && !this.#hasRefusals;
  }

  /**
   * `blocks` by destination.
   * @throws `memory_fault` naming a rank whose block does not lie in its area, or has another number of rows than was asked for.
   */
  collect(what: string, blocks: PartList, { into, shared }: CombineTarget): void {
    const { tokens, destinations } = this.#routing;
    this.#checkAll(what, blocks);
    if (this.isRefused) return;
    for (let from = 0; from < destinations; from++) this.#pullBlock(blocks, from);
    if (tokens === 0 || this.isRefused) return;
    const { places, weights, top_k } = this.#memory;
    const hidden = this.#hidden;
    const sharedOffset = shared === 0 ? 0 : offsetOf(shared);
    this.#kernels.combineRowsAt(offsetOf(into), hidden, offsetOf(places), offsetOf(weights), top_k, sharedOffset, hidden, tokens, hidden);
  }

  /**
   * Pulls all answers to `replies`, as f32: by destination, `last` after all others, of each in the order of the routing's pairs. `places` then holds the number
   * of each slot's row. @throws as `collect` does
   */
  bring(what: string, blocks: PartList, last: number): void {
    this.#checkAll(what, blocks);
    if (this.isRefused) return;
    let row = 0;
    for (let from = 0; from < this.#routing.destinations; from++) if (from !== last) row = this.#bringBlock(blocks, from, row);
    this.#bringBlock(blocks, last, row);
  }

  /** What was pulled was not written anew meanwhile. */
  confirm(): void {
    for (let count = 0; count < this.#damaged; count++) this.#checks?.found();
  }

  /** To `row` and after; the row that follows them. */
  #bringBlock(blocks: PartList, from: number, row: number): number {
    const pairs = blocks.pairs[from] as number;
    if (pairs === 0) return row;
    const { first_pair, slot_of_pair } = this.#routing;
    this.#codec.decode(this.#memory.replies + row * 4 * this.#hidden, this.#rowsOf(blocks, from), pairs, this.#formatOf(blocks, from));
    this.#note(blocks, from);
    const words = this.#membership.space.wordsOf(this.#memory.places);
    const places = offsetOf(this.#memory.places) / 4;
    const first = first_pair[from] as number;
    for (let pair = 0; pair < pairs; pair++) words[places + (slot_of_pair[first + pair] as number)] = row + pair;
    return row + pairs;
  }

  #checkAll(what: string, blocks: PartList): void {
    this.#hasRefusals = false;
    this.#hasDamage = false;
    this.#damaged = 0;
    for (let from = 0; from < this.#routing.destinations; from++) this.#check(what, blocks, from);
  }

  #check(what: string, blocks: PartList, from: number): void {
    const rank = blocks.holders[from] as number;
    const peer = this.#membership.nameOf(rank);
    const { reply_bytes } = this.#membership.endpoint.surroundings.areasOf(this.#membership.dieOf(rank));
    const pairs = blocks.pairs[from] as number;
    const code = blocks.formats[from] as number;
    if (code === REFUSED && this.#routing.pairsTo(from) > 0) {
      if (blocks.rows[from] === WAS_DAMAGED) this.#hasDamage = true;
      else this.#hasRefusals = true;
      return;
    }
    if (pairs !== this.#routing.pairsTo(from))
      throw new MinipodError('memory_fault', `${what}: ${peer} answers with ${pairs} rows of destination ${from}, asked for ${this.#routing.pairsTo(from)}`);
    checkRange(peer, 'reply', blocks.offsets[from] as number, answerBytes(peer, code, pairs, this.#hidden), reply_bytes);
  }

  #pullBlock(blocks: PartList, from: number): void {
    const { space } = this.#membership;
    const pairs = blocks.pairs[from] as number;
    if (pairs === 0) return;
    const { first_pair, slot_of_pair } = this.#routing;
    const first = first_pair[from] as number;
    const rowBytes = 4 * this.#hidden;
    const format = this.#formatOf(blocks, from);
    let rows = this.#rowsOf(blocks, from);
    this.#note(blocks, from);
    // What the kernel can read where it lies is summed from there.
    if (format !== 'f32' || segmentOf(rows) !== segmentOf(this.#memory.replies)) {
      const pulled = this.#memory.replies + first * rowBytes;
      this.#codec.decode(pulled, rows, pairs, format);
      rows = pulled;
    }
    const words = space.wordsOf(this.#memory.places);
    const places = offsetOf(this.#memory.places) / 4;
    const base = offsetOf(rows);
    for (let pair = 0; pair < pairs; pair++) words[places + (slot_of_pair[first + pair] as number)] = base + pair * rowBytes;
  }

  /** A block was pulled. */
  #note(blocks: PartList, from: number): void {
    const bytes = blockBytes(this.#formatOf(blocks, from), blocks.pairs[from] as number, this.#hidden);
    this.#membership.endpoint.counters.pulled_bytes += bytes;
    if (this.#checks === null || this.#checks.sum(0, this.#rowsOf(blocks, from), bytes) >>> 0 === blocks.rows[from]) return;
    this.#hasDamage = true;
    this.#damaged++;
  }

  #rowsOf(blocks: PartList, from: number): number {
    const die = this.#membership.dieOf(blocks.holders[from] as number);
    return this.#membership.endpoint.surroundings.areasOf(die).reply + (blocks.offsets[from] as number);
  }

  #formatOf(blocks: PartList, from: number): WireFormat {
    return formatOfCode(this.#membership.nameOf(blocks.holders[from] as number), blocks.formats[from] as number);
  }
}
