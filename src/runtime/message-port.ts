/**
 * How messages become frames of this thread's rings, and frames messages.
 * @module
 */
import type { Lane } from '../fabric/link-counters.ts';
import type { Links } from '../fabric/links.ts';
import { FRAME_KIND, type FrameAddress, type RingConsumer } from '../fabric/ring.ts';
import { copyWords, Scratch, wordsOfBytes } from '../fabric/scratch.ts';
import { type Address, idOf, ROLES, roleIndexOf, toAddress } from '../protocol/address.ts';
import type { Message } from '../protocol/messages.ts';
import { wakesNobody } from '../protocol/wakes.ts';
import { Codec } from '../protocol/wire.ts';

/** Larger messages are decoded from memory of their own, so that the scratch stays small. */
const SCRATCH_BYTES_MAX = 2 ** 20;
/** Addresses kept as numbers and as text: reading one anew costs more than encoding a small message. */
const ADDRESSES_MAX = 4_096;
const ROLE_BITS = 8;
const ID_SPAN = 2 ** 32;

export type ReceivedMail = { readonly to: Address; readonly from: Address; readonly message: unknown /** 0: not traced. */; readonly cause: number };

/** Behind a message, where acts are recorded: its cause, as two words, and its own bytes. */
const TRAILER_WORDS = 3;

/** What a frame's header says of an address. */
type Parts = { readonly address: Address; readonly role: number; readonly id: number };
const CALLER: Parts = { address: 'caller/0', role: roleIndexOf('caller/0'), id: 0 };

/** Sends messages over this thread's links and decodes what arrives. */
export class MessagePort {
  readonly links: Links;
  readonly #codec = new Codec();
  readonly #header: FrameAddress = { kind: FRAME_KIND.message, source: 0, destination: 0, roles: 0 };
  readonly #scratch = new Scratch(4_096);
  readonly #parts = new Map<Address, Parts>();
  /** Who was written to last, and by whom: each step the same. */
  #destination = CALLER;
  #source = CALLER;
  /** By role, then by id: both in one number would be no small one, which a map finds in a third of the time. */
  #addresses: Map<number, Address>[] = ROLES.map(() => new Map());
  #addressesKept = 0;
  readonly #isTraced: boolean;
  readonly #traced = new Scratch(1_024);

  /** `isTraced`: messages carry their cause with them; all threads of a pod agree on it. */
  constructor(links: Links, isTraced = false) {
    this.links = links;
    this.#isTraced = isTraced;
  }

  /** As `send`; or it goes to nobody, and is counted, where this thread has no rings with that one: it was lost, or this thread has not been told of its successor. */
  sendToLiving(thread: number, to: Address, from: Address, message: Message, cause: number): void {
    if (this.links.isAttached(thread)) this.send(thread, to, from, message, 'data', cause);
    else this.links.control.drop(this.links.thread);
  }

  /** False: the message waits for room on the link. @throws `internal` when its shape is not declared. */
  send(thread: number, to: Address, from: Address, message: Message | object, lane: Lane = 'data', cause = 0): boolean {
    if (from !== this.#source.address) this.#source = this.#partsOf(from);
    if (to !== this.#destination.address) this.#destination = this.#partsOf(to);
    const [source, destination] = [this.#source, this.#destination];
    const header = this.#header;
    header.source = source.id;
    header.destination = destination.id;
    header.roles = (source.role << ROLE_BITS) | destination.role;
    const { words, bytes } = this.#codec.pack(message);
    const wakes = !wakesNobody(message);
    if (this.#isTraced) return this.#sendTraced(thread, lane, words, bytes, cause, wakes);
    return this.links.sendWords(thread, lane, header, words, 0, bytes, wakes);
  }

  #sendTraced(thread: number, lane: Lane, words: Int32Array, bytes: number, cause: number, wakes: boolean): boolean {
    const traced = this.#traced;
    const length = wordsOfBytes(bytes);
    traced.reserve((length + TRAILER_WORDS) * 4);
    copyWords(traced.words, 0, words, 0, length);
    traced.words[length] = (cause % ID_SPAN) | 0;
    traced.words[length + 1] = Math.floor(cause / ID_SPAN);
    traced.words[length + 2] = bytes;
    return this.links.sendWords(thread, lane, this.#header, traced.words, 0, (length + TRAILER_WORDS) * 4, wakes);
  }

  /** The message of the frame at hand. */
  read(ring: RingConsumer): ReceivedMail {
    const { roles, source, destination, bytes } = ring.header;
    const to = this.#addressOf(roles & 0xff, destination);
    const from = this.#addressOf((roles >>> ROLE_BITS) & 0xff, source);
    let payload: Uint8Array;
    if (bytes > SCRATCH_BYTES_MAX) payload = ring.payload();
    else {
      ring.copyPayload(this.#scratch);
      payload = this.#scratch.bytes;
    }
    if (!this.#isTraced) return { to, from, message: this.#codec.decode(payload, bytes), cause: 0 };
    const trailer = new DataView(payload.buffer, payload.byteOffset + bytes - TRAILER_WORDS * 4);
    const cause = trailer.getInt32(4, true) * ID_SPAN + trailer.getUint32(0, true);
    return { to, from, message: this.#codec.decode(payload, trailer.getInt32(8, true)), cause };
  }

  #partsOf(address: Address): Parts {
    let parts = this.#parts.get(address);
    if (parts === undefined) {
      parts = { address, role: roleIndexOf(address), id: idOf(address) };
      if (this.#parts.size >= ADDRESSES_MAX) this.#parts.clear();
      this.#parts.set(address, parts);
    }
    return parts;
  }

  #addressOf(role: number, id: number): Address {
    const known = this.#addresses[role]?.get(id);
    if (known !== undefined) return known;
    const address = toAddress(role, id);
    if (this.#addressesKept++ >= ADDRESSES_MAX) {
      this.#addresses = ROLES.map(() => new Map());
      this.#addressesKept = 1;
    }
    this.#addresses[role]?.set(id, address);
    return address;
  }
}
