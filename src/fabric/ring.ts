/**
 * A ring of frames between one producer thread and one consumer thread, in shared memory.
 *
 *   word 0   head: bytes ever written; stored by the producer only
 *   word 32  tail: bytes ever read; stored by the consumer only (128 bytes apart: each side spins on its own line)
 *   word 64  data, a power of two in size; positions are wrapping int32, compared by subtraction
 *
 *   frame:  | kind | source | destination | sequence | epoch | time | bytes | roles |  payload … padded to 8 bytes
 *
 * A frame never wraps: where it would, a PAD frame fills the end. Frames become visible by one store of head for a whole batch,
 * after their bytes: the consumer sees all of a frame or none of it.
 * @module
 */
import { assert } from '../protocol/errors.ts';

export const FRAME = { kind: 0, source: 1, destination: 2, sequence: 3, epoch: 4, time: 5, bytes: 6, roles: 7 } as const;
const HEADER_WORDS = 8;
const HEADER_BYTES = HEADER_WORDS * 4;
const TAIL_WORD = 32;
const DATA_WORD = 64;
const PAD = 0;

/** Kinds of frames. 0 is padding; `part`: the beginning of a message that goes on in the next frame. */
export const FRAME_KIND = { message: 1, dispatch: 2, combine: 3, part: 4 } as const;

export const ringBytes = (capacity: number): number => DATA_WORD * 4 + capacity;
/** The largest payload that a ring takes: half of it, so that a frame and its padding always fit an empty ring. */
export const payloadBytesMax = (capacity: number): number => capacity / 2 - HEADER_BYTES;

export type FrameHeader = {
  kind: number;
  source: number;
  destination: number;
  sequence: number;
  epoch: number;
  time: number;
  bytes: number;
  roles: number;
};

const roundUp8 = (bytes: number): number => (bytes + 7) & ~7;

class RingView {
  protected readonly words: Int32Array;
  protected readonly bytes: Uint8Array;
  protected readonly headWord: number;
  protected readonly tailWord: number;
  protected readonly dataByte: number;
  protected readonly capacity: number;

  constructor(memory: WebAssembly.Memory, offset: number, capacity: number) {
    assert(capacity >= 256 && (capacity & (capacity - 1)) === 0, `a ring's capacity is a power of two, not ${capacity}`);
    assert(offset % 128 === 0, `a ring starts on a cache line pair, not at ${offset}`);
    this.words = new Int32Array(memory.buffer);
    this.bytes = new Uint8Array(memory.buffer);
    this.headWord = offset / 4;
    this.tailWord = offset / 4 + TAIL_WORD;
    this.dataByte = offset + DATA_WORD * 4;
    this.capacity = capacity;
  }
}

export class RingProducer extends RingView {
  #head: number;
  #published: number;
  #tailSeen: number;
  #sequence = 0;

  constructor(memory: WebAssembly.Memory, offset: number, capacity: number) {
    super(memory, offset, capacity);
    this.#head = Atomics.load(this.words, this.headWord);
    this.#published = this.#head;
    this.#tailSeen = Atomics.load(this.words, this.tailWord);
  }

  /** Writes a frame; the consumer sees it after `publish`. False: no room now, try again when the consumer has read. */
  write(header: Readonly<FrameHeader>, payload: Uint8Array | null): boolean {
    const length = payload === null ? 0 : payload.length;
    const frame = HEADER_BYTES + roundUp8(length);
    assert(length <= payloadBytesMax(this.capacity), `a payload of ${length} bytes does not fit a ring of ${this.capacity}`);
    let at = this.#head & (this.capacity - 1);
    const toEnd = this.capacity - at;
    const needed = frame <= toEnd ? frame : toEnd + frame;
    if (!this.#hasRoom(needed)) return false;
    if (frame > toEnd) {
      const pad = (this.dataByte + at) >> 2;
      this.words[pad + FRAME.kind] = PAD;
      this.words[pad + 1] = toEnd;
      this.#head = (this.#head + toEnd) | 0;
      at = 0;
    }
    const words = this.words;
    const word = (this.dataByte + at) >> 2;
    words[word + FRAME.kind] = header.kind;
    words[word + FRAME.source] = header.source;
    words[word + FRAME.destination] = header.destination;
    words[word + FRAME.sequence] = this.#sequence;
    words[word + FRAME.epoch] = header.epoch;
    words[word + FRAME.time] = header.time;
    words[word + FRAME.bytes] = length;
    words[word + FRAME.roles] = header.roles;
    if (payload !== null) this.bytes.set(payload, this.dataByte + at + HEADER_BYTES);
    this.#sequence = (this.#sequence + 1) | 0;
    this.#head = (this.#head + frame) | 0;
    return true;
  }

  /** Shows all frames written so far to the consumer. True if there were any. */
  publish(): boolean {
    if (this.#head === this.#published) return false;
    Atomics.store(this.words, this.headWord, this.#head);
    this.#published = this.#head;
    return true;
  }

  /** The consumer's index is re-read only when the one seen last leaves no room. */
  #hasRoom(bytes: number): boolean {
    if (this.capacity - ((this.#head - this.#tailSeen) | 0) >= bytes) return true;
    this.#tailSeen = Atomics.load(this.words, this.tailWord);
    return this.capacity - ((this.#head - this.#tailSeen) | 0) >= bytes;
  }
}

export class RingConsumer extends RingView {
  #tail: number;
  #headSeen: number;
  #sequence = 0;
  readonly header: FrameHeader = { kind: 0, source: 0, destination: 0, sequence: 0, epoch: 0, time: 0, bytes: 0, roles: 0 };
  #payloadByte = 0;

  constructor(memory: WebAssembly.Memory, offset: number, capacity: number) {
    super(memory, offset, capacity);
    this.#tail = Atomics.load(this.words, this.tailWord);
    this.#headSeen = this.#tail;
  }

  isEmpty(): boolean {
    if (this.#headSeen !== this.#tail) return false;
    this.#headSeen = Atomics.load(this.words, this.headWord);
    return this.#headSeen === this.#tail;
  }

  /** Takes the next frame: its words are in `header`, its payload valid until `release`. False: nothing there. */
  next(): boolean {
    if (this.isEmpty()) return false;
    let word = (this.dataByte + (this.#tail & (this.capacity - 1))) >> 2;
    if (this.words[word + FRAME.kind] === PAD) {
      this.#tail = (this.#tail + this.#word(word + 1)) | 0;
      word = this.dataByte >> 2;
    }
    const header = this.header;
    header.kind = this.#word(word + FRAME.kind);
    header.source = this.#word(word + FRAME.source) >>> 0;
    header.destination = this.#word(word + FRAME.destination) >>> 0;
    header.sequence = this.#word(word + FRAME.sequence);
    header.epoch = this.#word(word + FRAME.epoch);
    header.time = this.#word(word + FRAME.time);
    header.bytes = this.#word(word + FRAME.bytes);
    header.roles = this.#word(word + FRAME.roles);
    assert(header.sequence === this.#sequence, `frame ${header.sequence} follows ${this.#sequence - 1}: the ring is corrupt`);
    assert(header.bytes >= 0 && header.bytes <= payloadBytesMax(this.capacity), `a frame of ${header.bytes} bytes: the ring is corrupt`);
    this.#sequence = (this.#sequence + 1) | 0;
    this.#payloadByte = word * 4 + HEADER_BYTES;
    this.#tail = (this.#tail + HEADER_BYTES + roundUp8(header.bytes)) | 0;
    return true;
  }

  /** The payload, copied out of shared memory, since decoders do not accept shared views. */
  payload(): Uint8Array {
    return this.bytes.slice(this.#payloadByte, this.#payloadByte + this.header.bytes);
  }

  payloadWord(index: number): number {
    return this.#word((this.#payloadByte >> 2) + index);
  }

  /** Gives the room of all frames taken so far back to the producer. */
  release(): void {
    Atomics.store(this.words, this.tailWord, this.#tail);
  }

  #word(index: number): number {
    return this.words[index] as number;
  }
}
