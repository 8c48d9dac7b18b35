/**
 * A ring of frames between one producer thread and one consumer thread, in shared memory (ring-layout.ts).
 *
 * Frames become visible by one store of head for a whole batch, after their bytes: the consumer sees all of a frame or none of it.
 *
 * Races. Producer: payload and header with plain stores, *then* head, atomically; the consumer loads head atomically before it reads them.
 * Consumer: payload copied out, *then* slab tail, *then* tail; the producer loads tail before slab tail, and writes only what both leave free.
 * test/fabric/small-model.ts tries all interleavings of these steps.
 * @module
 */
import { invariantBroken } from '../protocol/errors.ts';
import { FrameSum } from './frame-sum.ts';
import {
  EXTENDED,
  EXTENDED_BYTES,
  EXTENT,
  FLAGS_MASK,
  FRAME,
  HEADER_BYTES,
  HEADER_WORDS,
  inlineBytesMax,
  KIND_MASK,
  PAD,
  PAYLOAD_BYTES_MAX,
  partBytesMax,
  type RingShape,
  RingView,
  SLAB_TAIL_WORD,
  WAITS_WORD,
  wholeBytesMax,
} from './ring-layout.ts';
import { copyWords, type Scratch, wordsOfBytes } from './scratch.ts';
import { roundUp8, SlabReader, SlabWriter } from './slab.ts';

/** Kinds of frames: 8 bits. 0 is padding. */
export const FRAME_KIND = { message: 1 } as const;

const ATOMIC_LOOKS = 64;
const EXTENT_WORDS = (EXTENDED_BYTES - HEADER_BYTES) / 4;

/** What the sender says of a frame; the rest of its header is the ring's and the link's. */
export type FrameAddress = { kind: number; source: number; destination: number; roles: number };
export type FrameHeader = FrameAddress & { sequence: number; epoch: number; time: number; bytes: number };

export class RingProducer extends RingView {
  readonly slab: SlabWriter | null;
  readonly whole_bytes_max: number;
  readonly part_bytes_max: number;
  readonly #inline_bytes_max: number;
  /** Of the thread that writes: what it writes under an older one is dropped where it is consumed. */
  readonly #epoch: number;
  #head: number;
  #published: number;
  #tailSeen: number;
  #sequence = 0;
  #waits = false;
  readonly #sum = new FrameSum();

  constructor(memory: WebAssembly.Memory, shape: RingShape, epoch: number) {
    super(memory, shape);
    const { offset, capacity, slab_bytes } = shape;
    this.slab = slab_bytes === 0 ? null : new SlabWriter(this.words, offset / 4 + SLAB_TAIL_WORD, this.dataByte + capacity, slab_bytes);
    this.whole_bytes_max = wholeBytesMax(shape);
    this.part_bytes_max = partBytesMax(shape);
    this.#inline_bytes_max = inlineBytesMax(shape);
    this.#epoch = epoch;
    this.#head = Atomics.load(this.words, this.headWord);
    this.#published = this.#head;
    this.#tailSeen = Atomics.load(this.words, this.tailWord);
  }

  /**
   * Writes a frame whose payload is `bytes` bytes of `words` from `from` on; the consumer sees it after `publish`.
   * False: no room now, try again when the consumer has read. `time`: microseconds of the link's clock, 0 if not sampled.
   */
  write(header: Readonly<FrameAddress>, words: Int32Array, from: number, bytes: number, time: number): boolean {
    if (bytes > this.#inline_bytes_max) return this.#writeExtended(header, words, from, 0, bytes, bytes, time);
    const frame = HEADER_BYTES + roundUp8(bytes);
    const word = this.#claim(frame);
    if (word < 0) return false;
    this.copyIn(word + HEADER_WORDS, words, from, bytes);
    this.#sum.begin(header.kind);
    this.#sum.add(words, from, wordsOfBytes(bytes));
    this.#putHeader(word, header.kind, header, bytes, time);
    this.#head = (this.#head + frame) | 0;
    return true;
  }

  /** Writes the next part, from byte `at`, of a payload larger than `whole_bytes_max`. Returns its bytes, 0 if there is no room now. */
  writePart(header: Readonly<FrameAddress>, words: Int32Array, at: number, total: number, time: number): number {
    const bytes = Math.min(total - at, this.part_bytes_max);
    return this.#writeExtended(header, words, at >>> 2, at, bytes, total, time) ? bytes : 0;
  }

  #writeExtended(header: Readonly<FrameAddress>, words: Int32Array, from: number, at: number, bytes: number, total: number, time: number): boolean {
    if (bytes > this.whole_bytes_max || total > PAYLOAD_BYTES_MAX) invariantBroken(`a payload of ${bytes} bytes does not fit a ring of ${this.capacity}`);
    const { slab } = this;
    const frame = EXTENDED_BYTES + (slab === null ? roundUp8(bytes) : 0);
    // Tail first: what was given back before it was stored is then seen in the slab too, and a later look at tail alone tells of news in both.
    this.#tailSeen = Atomics.load(this.words, this.tailWord);
    const slabOffset = slab === null ? 0 : slab.claim(bytes);
    if (slabOffset < 0) return false;
    const word = this.#claim(frame);
    if (word < 0) return false;
    this.copyIn(slab === null ? word + HEADER_WORDS + 4 : (slab.offset + slabOffset) >>> 2, words, from, bytes);
    this.words[word + EXTENT.slab_offset] = slabOffset;
    this.words[word + EXTENT.slab_bytes] = slab === null ? 0 : slab.commit(bytes);
    this.words[word + EXTENT.at] = at;
    this.words[word + EXTENT.total] = total;
    this.#sum.begin(header.kind | EXTENDED);
    this.#sum.add(words, from, wordsOfBytes(bytes));
    this.#sum.add(this.words, word + HEADER_WORDS, EXTENT_WORDS);
    this.#putHeader(word, header.kind | EXTENDED, header, bytes, time);
    this.#head = (this.#head + frame) | 0;
    return true;
  }

  /** Apart, and not private, so that a test can kill the writer between payload and header. */
  protected copyIn(at: number, words: Int32Array, from: number, bytes: number): void {
    copyWords(this.words, at, words, from, wordsOfBytes(bytes));
  }

  #putHeader(word: number, kind: number, header: Readonly<FrameAddress>, bytes: number, time: number): void {
    const { words } = this;
    words[word + FRAME.source] = header.source;
    words[word + FRAME.destination] = header.destination;
    words[word + FRAME.sequence] = this.#sequence;
    words[word + FRAME.epoch] = this.#epoch;
    words[word + FRAME.time] = time;
    words[word + FRAME.bytes] = bytes;
    words[word + FRAME.roles] = header.roles;
    this.#sum.add(words, word + 1, HEADER_WORDS - 1);
    words[word + FRAME.kind] = kind | this.#sum.end();
    this.#sequence = (this.#sequence + 1) | 0;
  }

  /** Shows all frames written so far to the consumer. True if there were any. */
  publish(): boolean {
    if (this.#head === this.#published) return false;
    Atomics.store(this.words, this.headWord, this.#head);
    this.#published = this.#head;
    return true;
  }

  /** Stores again what this end alone stores, where anybody else has written over it. */
  restate(): void {
    Atomics.store(this.words, this.headWord, this.#published);
  }

  /** Bytes that the consumer leaves free now; a frame takes its payload and 32 more, and the end of the ring may have to be skipped. */
  get free_bytes(): number {
    return this.capacity - ((this.#head - Atomics.load(this.words, this.tailWord)) | 0);
  }

  /** Where what the consumer may read ends. */
  get published(): number {
    return this.#published;
  }

  /** The consumer's position, for who wants to see it move: `published` if all is read. */
  get tail(): number {
    return Atomics.load(this.words, this.tailWord);
  }

  /** Has the consumer given room back since the last write that found none? */
  hasNews(): boolean {
    return Atomics.load(this.words, this.tailWord) !== this.#tailSeen;
  }

  /**
   * Asks the consumer to ring this thread's bell when it gives room back.
   * Race: this thread stores `waits`, marks itself asleep, *then* looks at tail; the consumer stores tail, *then* looks at `waits` and the mark.
   */
  setWaits(waits: boolean): void {
    if (waits === this.#waits) return;
    this.#waits = waits;
    Atomics.store(this.words, this.headWord + WAITS_WORD, waits ? 1 : 0);
  }

  /** Word index for a frame of so many bytes, past the padding that it needs; -1: no room now. */
  #claim(frame: number): number {
    const at = this.#head & (this.capacity - 1);
    const toEnd = this.capacity - at;
    if (frame <= toEnd) return this.#hasRoom(frame) ? (this.dataByte + at) >>> 2 : -1;
    if (!this.#hasRoom(toEnd + frame)) return -1;
    const pad = (this.dataByte + at) >>> 2;
    this.words[pad + FRAME.kind] = PAD;
    this.words[pad + 1] = toEnd;
    this.#head = (this.#head + toEnd) | 0;
    return this.dataByte >>> 2;
  }

  /** The consumer's index is re-read only when the one seen last leaves no room. */
  #hasRoom(bytes: number): boolean {
    if (this.capacity - ((this.#head - this.#tailSeen) | 0) >= bytes) return true;
    this.#tailSeen = Atomics.load(this.words, this.tailWord);
    return this.capacity - ((this.#head - this.#tailSeen) | 0) >= bytes;
  }
}

export class RingConsumer extends RingView {
  readonly header: FrameHeader = { kind: 0, source: 0, destination: 0, sequence: 0, epoch: 0, time: 0, bytes: 0, roles: 0 };
  readonly #slab: SlabReader | null;
  readonly #inline_bytes_max: number;
  #tail: number;
  #headSeen: number;
  #looks = 0;
  #sequence = 0;
  #payloadByte = 0;
  /** Of the payload that the frame at hand belongs to. */
  #total = 0;
  #at = 0;
  /** A payload that comes in parts, and how much of it is there. */
  #whole: Int32Array | null = null;
  #gathered = 0;
  readonly #sum = new FrameSum();

  constructor(memory: WebAssembly.Memory, shape: RingShape) {
    super(memory, shape);
    const { offset, capacity, slab_bytes } = shape;
    this.#slab = slab_bytes === 0 ? null : new SlabReader(this.words, offset / 4 + SLAB_TAIL_WORD, this.dataByte + capacity, slab_bytes);
    this.#inline_bytes_max = inlineBytesMax(shape);
    this.#tail = Atomics.load(this.words, this.tailWord);
    this.#headSeen = this.#tail;
  }

  isEmpty(): boolean {
    if (this.#headSeen !== this.#tail) return false;
    this.#headSeen = Atomics.load(this.words, this.headWord);
    return this.#headSeen === this.#tail;
  }

  /** A plain look, 1 ns against 7: most looks end here. A compiler may take it for the one before, so now and then one is atomic. */
  #hasNews(): boolean {
    if (this.words[this.headWord] === this.#tail) {
      this.#looks = (this.#looks + 1) % ATOMIC_LOOKS;
      if (this.#looks !== 0) return false;
    }
    return !this.isEmpty();
  }

  /** Takes the next frame: its words are in `header`; its payload, once `gather` says so, is valid until `release`. False: nothing there. */
  next(): boolean {
    if (!this.hasNext()) return false;
    this.#take();
    return true;
  }

  /** There is a frame to take; if none was seen before, it looks for some. */
  hasNext(): boolean {
    return this.#headSeen !== this.#tail || this.#hasNews();
  }

  /** Sees all that is published by now. True: there is a frame to take. */
  look(): boolean {
    this.#headSeen = Atomics.load(this.words, this.headWord);
    return this.#headSeen !== this.#tail;
  }

  /** Takes the next one of the frames that were seen, without another look. */
  nextSeen(): boolean {
    if (this.#headSeen === this.#tail) return false;
    this.#take();
    return true;
  }

  /** Apart, so that a look that finds nothing is inlined into the loop that looks. */
  #take(): void {
    if (this.#whole !== null && this.#gathered === this.#total) this.#whole = null;
    let word = (this.dataByte + (this.#tail & (this.capacity - 1))) >>> 2;
    if (this.words[word + FRAME.kind] === PAD) {
      this.#tail = (this.#tail + this.#word(word + 1)) | 0;
      word = this.dataByte >>> 2;
    }
    const header = this.header;
    const kind = this.#word(word + FRAME.kind);
    header.kind = kind & KIND_MASK;
    header.source = this.#word(word + FRAME.source) >>> 0;
    header.destination = this.#word(word + FRAME.destination) >>> 0;
    header.sequence = this.#word(word + FRAME.sequence);
    header.epoch = this.#word(word + FRAME.epoch);
    header.time = this.#word(word + FRAME.time);
    header.bytes = this.#word(word + FRAME.bytes);
    header.roles = this.#word(word + FRAME.roles);
    if (header.sequence !== this.#sequence) this.#corrupt(`frame ${header.sequence} follows ${this.#sequence - 1}`);
    this.#sequence = (this.#sequence + 1) | 0;
    if ((kind & EXTENDED) !== 0) {
      this.#takeExtended(word);
      return;
    }
    if (header.bytes < 0 || header.bytes > this.#inline_bytes_max) this.#corrupt(`a frame of ${header.bytes} bytes`);
    this.#payloadByte = word * 4 + HEADER_BYTES;
    this.#total = header.bytes;
    this.#sum.begin(kind & FLAGS_MASK);
    this.#checkSum(word, kind);
    this.#tail = (this.#tail + HEADER_BYTES + roundUp8(header.bytes)) | 0;
  }

  #takeExtended(word: number): void {
    const { bytes } = this.header;
    const slab = this.#slab;
    const kind = this.#word(word + FRAME.kind);
    this.#at = this.#word(word + EXTENT.at);
    this.#total = this.#word(word + EXTENT.total);
    if (this.#at < 0 || bytes <= 0 || this.#total > PAYLOAD_BYTES_MAX || this.#at + bytes > this.#total || (slab === null && bytes > this.capacity))
      this.#corrupt(`${bytes} bytes from ${this.#at} of ${this.#total}`);
    const slabOffset = this.#word(word + EXTENT.slab_offset);
    slab?.take(slabOffset, bytes, this.#word(word + EXTENT.slab_bytes));
    this.#payloadByte = slab === null ? word * 4 + EXTENDED_BYTES : slab.offset + slabOffset;
    this.#sum.begin(kind & FLAGS_MASK);
    this.#checkSum(word, kind);
    this.#tail = (this.#tail + EXTENDED_BYTES + (slab === null ? roundUp8(bytes) : 0)) | 0;
  }

  /** Its writer has summed its payload, what follows the header, and the header but for the word that has the sum. */
  #checkSum(word: number, kind: number): void {
    const sum = this.#sum;
    sum.add(this.words, this.#payloadByte >>> 2, wordsOfBytes(this.header.bytes));
    if ((kind & EXTENDED) !== 0) sum.add(this.words, word + HEADER_WORDS, EXTENT_WORDS);
    sum.add(this.words, word + 1, HEADER_WORDS - 1);
    if (((kind ^ sum.end()) & ~FLAGS_MASK) !== 0) this.#corrupt('a frame has another sum than it was written with');
  }

  /** Is the payload of the frame at hand whole? A part is copied aside; with the last one the whole is at hand, and `header.bytes` is its length. */
  gather(): boolean {
    const { header } = this;
    if (header.bytes === this.#total) {
      if (this.#whole !== null) this.#corrupt(`a frame between the parts of another`);
      return true;
    }
    if (this.#at === 0) {
      if (this.#whole !== null) this.#corrupt(`a payload begins before another has ended`);
      this.#whole = new Int32Array(wordsOfBytes(this.#total));
      this.#gathered = 0;
    }
    if (this.#whole === null || this.#at !== this.#gathered || wordsOfBytes(this.#total) !== this.#whole.length) {
      this.#corrupt(`a part from ${this.#at} of ${this.#total} follows ${this.#gathered} bytes`);
    }
    copyWords(this.#whole, this.#at >>> 2, this.words, this.#payloadByte >>> 2, wordsOfBytes(header.bytes));
    this.#gathered += header.bytes;
    if (this.#gathered < this.#total) return false;
    header.bytes = this.#total;
    return true;
  }

  /** The payload, copied out of shared memory, since decoders do not accept shared views. */
  payload(): Uint8Array {
    if (this.#whole !== null) return new Uint8Array(this.#whole.buffer, 0, this.header.bytes);
    return this.bytes.slice(this.#payloadByte, this.#payloadByte + this.header.bytes);
  }

  /** The same into memory that the caller keeps: allocates nothing. */
  copyPayload(into: Scratch): void {
    into.reserve(this.header.bytes);
    copyWords(into.words, 0, this.#whole ?? this.words, this.#whole === null ? this.#payloadByte >>> 2 : 0, wordsOfBytes(this.header.bytes));
  }

  payloadWord(index: number): number {
    return this.#whole === null ? this.#word((this.#payloadByte >>> 2) + index) : (this.#whole[index] as number);
  }

  /** Gives the room of all frames taken so far back to the producer. */
  release(): void {
    this.#slab?.release();
    Atomics.store(this.words, this.tailWord, this.#tail);
  }

  /** The same as it is stored already, where anybody else has written over it: while nothing comes, nothing else would give the producer its room back. */
  restate(): void {
    this.#slab?.restate();
    Atomics.store(this.words, this.tailWord, this.#tail);
  }

  /** Did the producer ask to be woken when it gets room? */
  producerWaits(): boolean {
    return Atomics.load(this.words, this.headWord + WAITS_WORD) === 1;
  }

  #corrupt(what: string): never {
    invariantBroken(`${what}: the ring is corrupt`);
  }

  #word(index: number): number {
    return this.words[index] as number;
  }
}
