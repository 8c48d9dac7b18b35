/**
 * The network card of a target: works off queue pairs over connections to the cards of sources. Bytes that arrive are written where they were to go, by this
 * card alone, and only while the queue pair is open.
 * @module
 */
import { globalAddress } from '../../../fabric/address.ts';
import type { AddressSpace } from '../../../fabric/address-space.ts';
import { ANSWER, ANSWER_WORDS, bytesOf, MAGIC, REQUEST_WORDS, WordsIn } from './frames.ts';
import { ENTRY, OP, type QueuePair, STATUS } from './queue-pair.ts';
import type { Network, Stream } from './stream.ts';

/** `port`: of the source's card. `wake`: tells the thread that pulls that something was completed, or that there is no more to come. */
export type Line = { readonly queue: QueuePair; readonly source: number; readonly target: number; readonly port: number; readonly wake: () => void };

export class CardClient {
  readonly #space: AddressSpace;
  readonly #network: Network;
  readonly #lines: Connection[] = [];

  constructor(space: AddressSpace, network: Network) {
    this.#space = space;
    this.#network = network;
  }

  /** From now on what is posted there is worked off; a card that does not answer closes the queue pair. */
  attach(line: Line): void {
    this.#lines.push(new Connection(this.#space, this.#network, line));
  }

  /** Queue pairs that are not closed. */
  get open_count(): number {
    return this.#lines.length;
  }

  /** There is work that `pump` has not seen. */
  get hasWork(): boolean {
    return this.#lines.some((line) => line.hasWork);
  }

  /** Sends what was posted. True if there was any. */
  pump(): boolean {
    let any = false;
    for (const line of this.#lines) any = line.pump() || any;
    if (this.#lines.some(({ isClosed }) => isClosed)) this.#lines.splice(0, this.#lines.length, ...this.#lines.filter(({ isClosed }) => !isClosed));
    return any;
  }

  close(): void {
    for (const line of this.#lines) line.close();
  }
}

class Connection {
  readonly #space: AddressSpace;
  readonly #queue: QueuePair;
  readonly #wake: () => void;
  readonly #head = new WordsIn(ANSWER_WORDS);
  #stream: Stream | null = null;
  /** Entries that were sent, and those that were answered. */
  #sent = 0;
  #answered = 0;
  /** Bytes of the answer at hand that have arrived. */
  #arrived = 0;

  constructor(space: AddressSpace, network: Network, { queue, source, target, port, wake }: Line) {
    this.#space = space;
    this.#queue = queue;
    this.#wake = wake;
    network.connect(port).then(
      (stream) => this.#open(stream, source, target),
      () => this.close(),
    );
  }

  get isClosed(): boolean {
    return this.#queue.isClosed;
  }

  get hasWork(): boolean {
    return this.#queue.isClosing || (this.#stream !== null && this.#queue.posted !== this.#sent);
  }

  /** Ends it: what arrives from now on is not looked at. */
  close(): void {
    if (this.#stream !== null) this.#stream.destroy();
    this.#queue.askToClose();
    this.#queue.close();
    this.#wake();
  }

  pump(): boolean {
    if (this.isClosed) return false;
    if (this.#queue.isClosing) {
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

  #open(stream: Stream, source: number, target: number): void {
    if (this.isClosed) {
      stream.destroy();
      return;
    }
    this.#stream = stream;
    stream.onClose(() => this.close());
    stream.onData((bytes) => {
      if (!this.isClosed) this.#receive(bytes);
    });
    stream.write(bytesOf(Int32Array.of(MAGIC, source, target)));
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
    for (let at = 0; at < bytes.length; ) {
      at += this.#head.take(bytes, at);
      if (!this.#head.isFull()) break;
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
