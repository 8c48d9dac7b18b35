/**
 * How messages become frames of this thread's rings, and frames messages.
 * @module
 */
import type { Links } from '../fabric/links.ts';
import { FRAME_KIND, type FrameHeader, type RingConsumer } from '../fabric/ring.ts';
import { type Address, idOf, roleIndexOf, toAddress } from '../protocol/address.ts';
import type { Message } from '../protocol/messages.ts';
import { Codec } from '../protocol/wire.ts';

/** Sends messages over this thread's links and decodes what arrives. A message too large for one frame travels in several, one after the other. */
export class MessagePort {
  readonly links: Links;
  readonly #codec = new Codec();
  readonly #header: FrameHeader = { kind: FRAME_KIND.message, source: 0, destination: 0, sequence: 0, epoch: 0, time: 0, bytes: 0, roles: 0 };
  /** Parts of messages whose last frame has not come yet. */
  readonly #parts = new WeakMap<RingConsumer, Uint8Array[]>();

  constructor(links: Links) {
    this.links = links;
  }

  send(thread: number, to: Address, from: Address, message: Message | object, lane: 'control' | 'data' = 'data'): void {
    const header = this.#header;
    header.source = idOf(from);
    header.destination = idOf(to);
    header.roles = (roleIndexOf(from) << 8) | roleIndexOf(to);
    let rest = this.#codec.encode(message);
    const bytes_max = this.links.payloadBytesMax(thread, lane);
    header.kind = FRAME_KIND.part;
    for (; rest.length > bytes_max; rest = rest.subarray(bytes_max)) this.links.send(thread, lane, header, rest.subarray(0, bytes_max));
    header.kind = FRAME_KIND.message;
    this.links.send(thread, lane, header, rest);
  }

  /** The message of the frame at hand; null for a part, whose message comes with a later frame. */
  read(ring: RingConsumer): { readonly to: Address; readonly from: Address; readonly message: unknown } | null {
    const { kind, roles, source, destination } = ring.header;
    const parts = this.#parts.get(ring);
    if (kind === FRAME_KIND.part) {
      if (parts === undefined) this.#parts.set(ring, [ring.payload()]);
      else parts.push(ring.payload());
      return null;
    }
    let bytes = ring.payload();
    if (parts !== undefined) {
      bytes = join([...parts, bytes]);
      this.#parts.delete(ring);
    }
    return { to: toAddress(roles & 0xff, destination), from: toAddress((roles >> 8) & 0xff, source), message: this.#codec.decode(bytes) };
  }
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
