/**
 * One thread of the pod on the fabric: its actors, its rings, and how messages become frames.
 * @module
 */
import { Links } from '../fabric/links.ts';
import { FRAME_KIND, type FrameHeader, type RingConsumer } from '../fabric/ring.ts';
import { type Address, idOf, roleIndexOf, toAddress } from '../protocol/address.ts';
import type { Message } from '../protocol/messages.ts';
import { Codec } from '../protocol/wire.ts';

/** Sends messages over this thread's links and decodes what arrives. */
export class MessagePort {
  readonly links: Links;
  readonly #codec = new Codec();
  readonly #header: FrameHeader = { kind: FRAME_KIND.message, source: 0, destination: 0, sequence: 0, epoch: 0, time: 0, bytes: 0, roles: 0 };

  constructor(links: Links) {
    this.links = links;
  }

  send(thread: number, to: Address, from: Address, message: Message | object, lane: 'control' | 'data' = 'data'): void {
    const header = this.#header;
    header.source = idOf(from);
    header.destination = idOf(to);
    header.roles = (roleIndexOf(from) << 8) | roleIndexOf(to);
    this.links.send(thread, lane, header, this.#codec.encode(message));
  }

  /** The message of the frame at hand. */
  read(ring: RingConsumer): { readonly to: Address; readonly from: Address; readonly message: unknown } {
    const { roles, source, destination } = ring.header;
    return { to: toAddress(roles & 0xff, destination), from: toAddress((roles >> 8) & 0xff, source), message: this.#codec.decode(ring.payload()) };
  }
}


