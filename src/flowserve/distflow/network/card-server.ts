/**
 * The network card of a source: does what cards of other fabrics ask of its memory, as RDMA does; no thread of the source takes part.
 * @module
 */
import { globalAddress } from '../../../fabric/address.ts';
import type { AddressSpace } from '../../../fabric/address-space.ts';
import { type Cancel, eventLoopTimers, type Timers } from '../../../runtime/clock.ts';
import { WorkRequest } from '../backend.ts';
import { MemoryBackend } from '../memory-backend.ts';
import { epochOfRegion } from '../region-epoch.ts';
import {
  ANSWER,
  ANSWER_WORDS,
  bytesOf,
  HELLO,
  HELLO_WORDS,
  KEY_WORDS,
  type NetworkKey,
  NUMERICS_WORDS_MAX,
  numericsBytes,
  REQUEST,
  REQUEST_WORDS,
  WordsIn,
} from './frames.ts';
import { OP, STAGING_WORDS, STATUS } from './queue-pair.ts';
import type { Listening, Network, Stream } from './stream.ts';

/** More than a chunked copy ever asks for at once: who asks for more is no card of ours. */
const READ_BYTES_MAX = 1 << 26;

/** `isRefused`: it has other numerics, was told so, and is to hang up. */
type Link = { readonly stream: Stream; source: number; target: number; puller: number; isRefused: boolean };

/** What a card of ours does at once: to say who it is, and to hang up where it was refused. */
export const PEER_DEADLINE_MS = 5_000;

/** Connections beyond those of our own lines that may be open before they have said who they are: each costs a socket, whoever it is. */
export const STRANGERS_MAX = 64;

export class CardServer {
  readonly counters = { requests: 0, bytes: 0, faults: 0, refused: 0 };
  readonly #space: AddressSpace;
  readonly #links = new Set<Link>();
  /** Of them those that have yet to say who they are. */
  readonly #strangers = new Set<Link>();
  readonly #strangers_max: number;
  readonly #numerics: Uint8Array;
  readonly #key: NetworkKey;
  readonly #timers: Timers;
  #listening: Listening | null = null;

  /**
   * `numerics`: by which the KV in this memory came about: who has others reads nothing here, nor does who does not know `key`. `lines`: that lead here, which
   * may all be opened in one turn of the event loop, before any is heard.
   */
  constructor(space: AddressSpace, numerics: string, key: NetworkKey, lines: number, timers: Timers = eventLoopTimers) {
    this.#space = space;
    this.#strangers_max = lines + STRANGERS_MAX;
    this.#key = key;
    this.#timers = timers;
    this.#numerics = numericsBytes(numerics);
  }

  /** Returns the port. */
  async listen(network: Network, port = 0): Promise<number> {
    this.#listening = await network.listen(port, (stream) => this.#accept(stream));
    return this.#listening.port;
  }

  /** Links that are open, as the pairs of executors that they join. */
  links(): { readonly source: number; readonly target: number }[] {
    return [...this.#links].map(({ source, target }) => ({ source, target }));
  }

  /** From now on the target reads nothing here: the fence of a puller that cannot be heard. */
  cut(source: number, target: number): void {
    for (const link of this.#links) if (link.source === source && link.target === target) link.stream.destroy();
  }

  async close(): Promise<void> {
    const closed = this.#listening?.close();
    for (const { stream } of this.#links) stream.destroy();
    await closed;
  }

  #accept(stream: Stream): void {
    if (this.#strangers.size >= this.#strangers_max) {
      this.#refuse(stream);
      return;
    }
    const link: Link = { stream, source: -1, target: -1, puller: -1, isRefused: false };
    const requests = new Requests(this.#space, stream, this.counters);
    const hello = new WordsIn(HELLO_WORDS);
    const theirs = new WordsIn(NUMERICS_WORDS_MAX);
    let isKnown = false;
    this.#links.add(link);
    this.#strangers.add(link);
    let cancel = this.#timers.after(PEER_DEADLINE_MS, () => this.#refuse(stream));
    stream.onClose(() => {
      cancel();
      this.#links.delete(link);
      this.#strangers.delete(link);
    });
    stream.onData((bytes) => {
      let at = 0;
      if (!isKnown) {
        at = hello.take(bytes, 0);
        const length = hello.words[HELLO.bytes] as number;
        if ((hello.isFull(KEY_WORDS * 4) && !this.#isKeyOf(hello.words)) || length < 0 || length > NUMERICS_WORDS_MAX * 4) {
          this.#refuse(stream);
          return;
        }
        if (!hello.isFull()) return;
        at += theirs.take(bytes, at, length);
        if (!theirs.isFull(length)) return;
        isKnown = true;
        this.#strangers.delete(link);
        cancel();
        [link.source, link.target, link.puller] = hello.words.subarray(HELLO.source) as unknown as [number, number, number];
        this.#replaceBy(link);
        if (!this.#hasSame(bytesOf(theirs.words).subarray(0, length))) cancel = this.#refuseNumerics(link);
      }
      if (!this.#links.has(link) || link.isRefused) return;
      if (!requests.receive(bytes, at)) this.#refuse(stream);
    });
  }

  /** What the same puller had before is over: a request that still comes by it, such as a claim, must do nothing that the new link was told of otherwise. */
  #replaceBy({ stream, source, target, puller }: Link): void {
    for (const other of this.#links) {
      if (other.stream === stream || other.source !== source || other.target !== target || other.puller !== puller) continue;
      this.#links.delete(other);
      other.stream.destroy();
    }
  }

  /** Takes as long wherever they differ: who may try often learns nothing of its words. */
  #isKeyOf(hello: Int32Array): boolean {
    return this.#key.reduce((differing, word, index) => differing | (word ^ (hello[index] as number)), 0) === 0;
  }

  #hasSame(theirs: Uint8Array): boolean {
    return theirs.length === this.#numerics.length && theirs.every((byte, index) => byte === this.#numerics[index]);
  }

  /** It hears by which numerics this memory is, so that it can name both, and hangs up; or this side does. */
  #refuseNumerics(link: Link): Cancel {
    this.counters.refused++;
    link.isRefused = true;
    const head = Int32Array.of(STATUS.refused, 0, this.#numerics.length);
    const frame = new Uint8Array(ANSWER_WORDS * 4 + this.#numerics.length);
    frame.set(bytesOf(head));
    frame.set(this.#numerics, ANSWER_WORDS * 4);
    link.stream.write(frame);
    return this.#timers.after(PEER_DEADLINE_MS, () => link.stream.destroy());
  }

  #refuse(stream: Stream): void {
    this.counters.refused++;
    stream.destroy();
  }
}

/** The requests of one connection, answered in their order. */
class Requests {
  readonly #space: AddressSpace;
  readonly #stream: Stream;
  readonly #counters: CardServer['counters'];
  readonly #memory: MemoryBackend;
  readonly #work = new WorkRequest();
  readonly #request = new WordsIn(REQUEST_WORDS);
  readonly #indices = new WordsIn(STAGING_WORDS);

  constructor(space: AddressSpace, stream: Stream, counters: CardServer['counters']) {
    this.#space = space;
    this.#stream = stream;
    this.#counters = counters;
    this.#memory = new MemoryBackend(space);
    stream.onDrain(() => stream.resume());
  }

  /** False: this is no card of ours. */
  receive(bytes: Uint8Array, from: number): boolean {
    for (let at = from; at < bytes.length; ) {
      at += this.#request.take(bytes, at);
      if (!this.#request.isFull()) return true;
      const { words } = this.#request;
      const asked = words[REQUEST.bytes] as number;
      if (asked < 0 || asked > READ_BYTES_MAX || (words[REQUEST.op] !== OP.read && asked > STAGING_WORDS * 4)) return false;
      const wanted = words[REQUEST.op] === OP.gather ? asked : 0;
      at += this.#indices.take(bytes, at, wanted);
      if (!this.#indices.isFull(wanted)) return true;
      this.#counters.requests++;
      this.#answer();
      this.#request.clear();
      this.#indices.clear();
    }
    return true;
  }

  #answer(): void {
    const { words } = this.#request;
    const op = words[REQUEST.op] as number;
    const payload = op === OP.read || op === OP.words || op === OP.gather ? (words[REQUEST.bytes] as number) : 0;
    const frame = new Uint8Array(ANSWER_WORDS * 4 + payload);
    const isDone = this.#performs(op, frame);
    const head = new Int32Array(frame.buffer, 0, ANSWER_WORDS);
    head[ANSWER.status] = isDone ? STATUS.done : STATUS.fault;
    head[ANSWER.value] = this.#work.value;
    head[ANSWER.bytes] = isDone ? payload : 0;
    if (isDone) this.#counters.bytes += payload;
    else this.#counters.faults++;
    if (!this.#stream.write(isDone ? frame : frame.subarray(0, ANSWER_WORDS * 4))) this.#stream.pause();
  }

  /** False: no such memory, or it is not held. */
  #performs(op: number, frame: Uint8Array): boolean {
    const [, bytes, segment, offset, a, b] = this.#request.words as unknown as [number, number, number, number, number, number];
    const address = globalAddress(segment, offset >>> 0);
    const memory = this.#memory;
    const work = this.#work;
    if (op === OP.epoch) {
      memory.regionEpoch(work, address, a * 2 ** 32 + (b >>> 0));
      return true;
    }
    const epoch = epochOfRegion(this.#space, address, op === OP.read || op === OP.words ? bytes : 4);
    if (epoch < 0) return false;
    if (op === OP.swap) memory.compareSwap(work, address, a, b);
    else if (op === OP.read) frame.set(this.#space.bytesAt(address, bytes), ANSWER_WORDS * 4);
    else return this.#readsWords(op, address, new Int32Array(frame.buffer, ANSWER_WORDS * 4, bytes / 4));
    // What was read is of an owner who still was it afterwards.
    return epochOfRegion(this.#space, address, 4) === epoch;
  }

  #readsWords(op: number, address: number, into: Int32Array): boolean {
    try {
      this.#memory.readWords(this.#work, address, op === OP.gather ? this.#indices.words : null, into.length, into);
      return true;
    } catch {
      // An index beyond the segment.
      return false;
    }
  }
}
