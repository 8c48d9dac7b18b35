/**
 * How messages become frames of this thread's rings, and frames messages.
 * @module
 */
import type { Lane } from '../fabric/link-counters.ts';
import type { Links } from '../fabric/links.ts';
import { FRAME_KIND, type FrameAddress, type RingConsumer } from '../fabric/ring.ts';
import { Scratch } from '../fabric/scratch.ts';
import { type Address, idOf, roleIndexOf, toAddress } from '../protocol/address.ts';
import type { Message } from '../protocol/messages.ts';
import { Codec } from '../protocol/wire.ts';

/** Larger messages are decoded from memory of their own, so that the scratch stays small. */
const SCRATCH_BYTES_MAX = 2 ** 20;
/** Addresses kept as numbers and as text: reading one anew costs more than encoding a small message. */
const ADDRESSES_MAX = 4_096;
const ID_SPAN = 2 ** 32;

/** Sends messages over this thread's links and decodes what arrives. */
export class MessagePort {
  readonly links: Links;
  readonly #codec = new Codec();
  readonly #header: FrameAddress = { kind: FRAME_KIND.message, source: 0, destination: 0, roles: 0 };
  readonly #scratch = new Scratch(4_096);
  /** role × 2³² + id of an address, and back. */
  readonly #numbers = new Map<Address, number>();
  readonly #addresses = new Map<number, Address>();

  constructor(links: Links) {
    this.links = links;
  }

  /** False: the message waits for room on the link. @throws `internal` when its shape is not declared. */
  send(thread: number, to: Address, from: Address, message: Message | object, lane: Lane = 'data'): boolean {
    const source = this.#numberOf(from);
    const destination = this.#numberOf(to);
    const header = this.#header;
    header.source = source >>> 0;
    header.destination = destination >>> 0;
    header.roles = (Math.floor(source / ID_SPAN) << 8) | Math.floor(destination / ID_SPAN);
    const { words, from: first, bytes } = this.#codec.pack(message);
    return this.links.sendWords(thread, lane, header, words, first, bytes);
  }

  /** The message of the frame at hand. */
  read(ring: RingConsumer): { readonly to: Address; readonly from: Address; readonly message: unknown } {
    const { roles, source, destination, bytes } = ring.header;
    const to = this.#addressOf(roles & 0xff, destination);
    const from = this.#addressOf((roles >>> 8) & 0xff, source);
    if (bytes > SCRATCH_BYTES_MAX) return { to, from, message: this.#codec.decode(ring.payload()) };
    ring.copyPayload(this.#scratch);
    return { to, from, message: this.#codec.decode(this.#scratch.bytes, bytes) };
  }

  #numberOf(address: Address): number {
    let number = this.#numbers.get(address);
    if (number === undefined) {
      number = roleIndexOf(address) * ID_SPAN + idOf(address);
      if (this.#numbers.size >= ADDRESSES_MAX) this.#numbers.clear();
      this.#numbers.set(address, number);
    }
    return number;
  }

  #addressOf(role: number, id: number): Address {
    const number = role * ID_SPAN + id;
    let address = this.#addresses.get(number);
    if (address === undefined) {
      address = toAddress(role, id);
      if (this.#addresses.size >= ADDRESSES_MAX) this.#addresses.clear();
      this.#addresses.set(number, address);
    }
    return address;
  }
}
