/**
 * The network card of a target: works off queue pairs over connections to the cards of sources. Bytes that arrive are written where they were to go, by this
 * card alone, and only while the queue pair is open.
 * @module
 */
import { globalAddress } from '../../../fabric/address.ts';
import type { AddressSpace } from '../../../fabric/address-space.ts';
import { numericsDiffer } from '../../../protocol/numerics.ts';
import { ANSWER, ANSWER_WORDS, bytesOf, type NetworkKey, NUMERICS_WORDS_MAX, numericsBytes, numericsIn, REQUEST_WORDS, WordsIn } from './frames.ts';
import { ENTRY, OP, type QueuePair, STATUS } from './queue-pair.ts';
import type { Network, Stream } from './stream.ts';

/**
 * `thread`: that pulls by it. `numerics`: by which the target has its KV. `port`, `key`: of the source's card. `wake`: tells that thread that something was completed, or that there is no more to come.
 */
export type Line = {
  readonly queue: QueuePair;
  readonly thread: number;
  readonly source: number;
  readonly target: number;
  readonly numerics: string;
  readonly port: number;
  readonly key: NetworkKey;
  readonly wake: () => void;
};

export class CardClient {
  readonly #space: AddressSpace;
  readonly #network: Network;
  readonly #lines: WatchedLine[] = [];

  constructor(space: AddressSpace, network: Network) {
    this.#space = space;
    this.#network = network;
  }

  /** From now on what is posted there is worked off, whenever it is opened; a card that does not answer closes the queue pair. */
  attach(line: Line): void {
    this.#lines.push(new WatchedLine(this.#space, this.#network, line));
  }

  /** Queue pairs that are open. */
  get open_count(): number {
    return this.#lines.filter(({ isOpen }) => isOpen).length;
  }

  /** There is work that `pump` has not seen. */
  get hasWork(): boolean {
    return this.#lines.some((line) => line.hasWork);
  }

  /** Sends what was posted. True if there was any. */
  pump(): boolean {
    let any = false;
    for (const line of this.#lines) any = line.pump() || any;
    return any;
  }

  close(): void {
    for (const line of this.#lines) line.close();
  }
}

/** A queue pair, as it is opened and closed again and again: a connection of its own each time. */
class WatchedLine {
  readonly #space: AddressSpace;
  readonly #network: Network;
  readonly #line: Line;
  #connection: Connection | null = null;
  #openings: number;

  constructor(space: AddressSpace, network: Network, line: Line) {
    this.#space = space;
    this.#network = network;
    this.#line = line;
    // Race: it may be opened between the two looks. In this order that is one opening more than was seen, and `pump` finds it; in the other it would be missed.
    const { openings, isClosed } = line.queue;
    // One that is open was opened while there was no card.
    this.#openings = isClosed || openings === 0 ? openings : openings - 1;
  }

  get isOpen(): boolean {
    return this.#connection !== null && !this.#connection.isClosed;
  }

  get hasWork(): boolean {
    const { queue } = this.#line;
    if (queue.openings !== this.#openings) return true;
    return this.#connection === null ? queue.isClosing && !queue.isClosed : this.#connection.hasWork;
  }

  pump(): boolean {
    const { queue } = this.#line;
    const { openings } = queue;
    if (openings !== this.#openings) {
      this.#openings = openings;
      this.#connection?.close();
      this.#connection = queue.isClosed ? null : new Connection(this.#space, this.#network, this.#line);
      return true;
    }
    if (this.#connection === null) {
      if (!queue.isClosing || queue.isClosed) return false;
      queue.close();
      return true;
    }
    const any = this.#connection.pump();
    if (this.#connection.isClosed) this.#connection = null;
    return any;
  }

  close(): void {
    this.#connection?.close();
    this.#line.queue.close();
    this.#line.wake();
  }
}

class Connection {
  readonly #line: Line;
  readonly #space: AddressSpace;
  readonly #queue: QueuePair;
  readonly #thread: number;
  /** The life of the thread that opened it. */
  readonly #owner: number;
  readonly #wake: () => void;
  readonly #head = new WordsIn(ANSWER_WORDS);
  readonly #theirNumerics = new WordsIn(NUMERICS_WORDS_MAX);
  #stream: Stream | null = null;
  /** Entries that were sent, and those that were answered. */
  #sent = 0;
  #answered = 0;
  /** Bytes of the answer at hand that have arrived. */
  #arrived = 0;
  #isOver = false;

  constructor(space: AddressSpace, network: Network, line: Line) {
    const { queue, thread, port, wake } = line;
    this.#line = line;
    this.#space = space;
    this.#queue = queue;
    this.#thread = thread;
    this.#owner = queue.owner;
    this.#wake = wake;
    network.connect(port).then(
      (stream) => this.#open(stream),
      () => this.close(),
    );
  }

  get isClosed(): boolean {
    return this.#isOver;
  }

  /** Whoever opened it was given up: its entries may be rubbish, and its memory another's soon. */
  get #isGivenUp(): boolean {
    return this.#space.control.epochOf(this.#thread) !== this.#owner;
  }

  get hasWork(): boolean {
    return this.#isOver || this.#queue.isClosing || this.#isGivenUp || (this.#stream !== null && this.#queue.posted !== this.#sent);
  }

  /** Ends it: what arrives from now on is not looked at. */
  close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (this.#stream !== null) this.#stream.destroy();
    this.#queue.askToClose();
    this.#queue.close();
    this.#wake();
  }

  pump(): boolean {
    if (this.#isOver) return false;
    if (this.#queue.isClosing || this.#isGivenUp) {
      this.close();
      return true;
    }
    const { posted } = this.#queue;
    const count = (posted - this.#sent) | 0;
    if (this.#stream === null || count === 0) return false;
    // One write for all: a gather's indices follow its request.
    const requests: Uint8Array[] = [];
    for (; this.#sent !== posted; this.#sent = (this.#sent + 1) | 0) this.#put(requests, this.#queue.entryAt(this.#sent));
    this.#stream.write(requests.length === 1 ? (requests[0] as Uint8Array) : joined(requests));
    return true;
  }

  #open(stream: Stream): void {
    if (this.#isOver) {
      stream.destroy();
      return;
    }
    this.#stream = stream;
    stream.onClose(() => this.close());
    stream.onData((bytes) => {
      if (!this.#isOver) this.#receive(bytes);
    });
    const { key, source, target, numerics } = this.#line;
    const own = numericsBytes(numerics);
    stream.write(joined([bytesOf(key), bytesOf(Int32Array.of(source, target, this.#thread, own.length)), own]));
    this.pump();
  }

  #put(requests: Uint8Array[], at: number): void {
    const { words, staging } = this.#queue;
    const [op, bytes] = [words[at + ENTRY.op] as number, words[at + ENTRY.bytes] as number];
    const { segment, offset, a, b } = ENTRY;
    const request = Int32Array.of(op, bytes, ...[segment, offset, a, b].map((word) => words[at + word] as number));
    requests.push(bytesOf(request.subarray(0, REQUEST_WORDS)));
    const staged = words[at + ENTRY.target_offset] as number;
    if (op === OP.gather) requests.push(bytesOf(Int32Array.from(staging.subarray(staged, staged + bytes / 4))));
  }

  #receive(bytes: Uint8Array): void {
    if (this.#isGivenUp) {
      this.close();
      return;
    }
    for (let at = 0; at < bytes.length; ) {
      at += this.#head.take(bytes, at);
      if (!this.#head.isFull()) break;
      if (this.#head.words[ANSWER.status] === STATUS.refused) {
        this.#takeRefusal(bytes, at);
        return;
      }
      if (!this.#isExpected()) {
        this.close();
        return;
      }
      at += this.#arrive(bytes, at);
      if (this.#arrived < (this.#head.words[ANSWER.bytes] as number)) break;
      this.#complete();
    }
    this.#wake();
  }

  /** It comes whole or in pieces, and nothing after it. */
  #takeRefusal(bytes: Uint8Array, at: number): void {
    const { source, target, numerics, queue } = this.#line;
    const wanted = Math.min(this.#head.words[ANSWER.bytes] as number, NUMERICS_WORDS_MAX * 4);
    this.#theirNumerics.take(bytes, at, wanted);
    if (!this.#theirNumerics.isFull(wanted)) return;
    const theirs = numericsIn(bytesOf(this.#theirNumerics.words).subarray(0, wanted));
    queue.refuse(numericsDiffer({ executor: source, numerics: theirs }, { executor: target, numerics }).message);
    this.close();
  }

  /** It answers what was asked, with as many bytes as there is room for; else its sender is no card of ours. */
  #isExpected(): boolean {
    const entry = this.#queue.entryAt(this.#answered);
    const bytes = this.#head.words[ANSWER.bytes] as number;
    const { words } = this.#queue;
    return this.#answered !== this.#sent && (bytes === 0 || bytes === words[entry + ENTRY.bytes]);
  }

  /** Bytes of the answer at hand, to where they go; how many there were. */
  #arrive(bytes: Uint8Array, at: number): number {
    const { words, staging } = this.#queue;
    const entry = this.#queue.entryAt(this.#answered);
    const wanted = (this.#head.words[ANSWER.bytes] as number) - this.#arrived;
    const taken = Math.min(wanted, bytes.length - at);
    if (taken === 0) return 0;
    const piece = bytes.subarray(at, at + taken);
    const target = words[entry + ENTRY.target_offset] as number;
    if (words[entry + ENTRY.op] === OP.read) {
      const address = globalAddress(words[entry + ENTRY.target_segment] as number, target >>> 0);
      this.#space.bytesAt(address + this.#arrived, taken).set(piece);
    } else new Uint8Array(staging.buffer, staging.byteOffset + target * 4 + this.#arrived, taken).set(piece);
    this.#arrived += taken;
    return taken;
  }

  #complete(): void {
    const queue = this.#queue;
    const entry = queue.entryAt(this.#answered);
    queue.words[entry + ENTRY.value] = this.#head.words[ANSWER.value] as number;
    queue.words[entry + ENTRY.status] = this.#head.words[ANSWER.status] === STATUS.done ? STATUS.done : STATUS.fault;
    this.#answered = (this.#answered + 1) | 0;
    this.#arrived = 0;
    this.#head.clear();
    queue.completed = this.#answered;
  }
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
