/**
 * Links between threads of a virtual pod, where something on the way loses, doubles, reorders or damages frames: what a receiver does by their numbers and sums.
 *
 *   send: number, sum ─▶ the way ─▶ is the sum right? ─▶ is it the next one? ─▶ mailbox
 *                          │ lost        │ no: discarded      │ it was there: discarded; it is early: kept until those before it have come
 *                          └─────────────┴─▶ sent again, after a time that doubles; after TRIES_MAX the link is broken
 *
 * Who publishes a frame sees whether it is read, as at a ring (fabric/ring.ts): so nobody answers, and what is not read is sent again. Streams are numbered
 * while anything of them is disturbed: where nothing is, a virtual host keeps their order by itself.
 * @module
 */
import type { Message } from '../protocol/messages.ts';
import type { Mail } from './cast.ts';
import type { Copy } from './disturbance.ts';

/** The first wait before a frame is sent again; each is twice the one before: after them all a fifth of a second has gone by. */
const AGAIN_NS = 100_000;
const TRIES_MAX = 10;

/** Of the pod. */
export type LinkTerms = {
  /** Within a thread nothing goes by a link. */
  readonly crosses: (mail: Mail) => boolean;
  readonly sumOf: (message: Message) => number;
  /** What was sent so often has never come whole. */
  readonly onBroken: (mail: Mail) => void;
};

/** Of the host. */
export type LinkHost = {
  readonly later: (delay_ns: number, act: () => void) => void;
  /** From now, not before what was sent without a number. */
  readonly delayOf: (copy: Copy) => number;
  /** Once more. */
  readonly transmit: (mail: Mail) => readonly Copy[];
  readonly isLost: (frame: Frame) => boolean;
  readonly deliver: (mail: Mail) => void;
};

type Stream = { readonly key: string; sent: number; taken: number; last: Frame | null; readonly early: Map<number, Mail> };
export type Frame = { readonly stream: Stream; readonly number: number; readonly sum: number; readonly mail: Mail; readonly order: number; tries: number };

export class VirtualLinks {
  readonly #terms: LinkTerms;
  readonly #host: LinkHost;
  /** By `sender>receiver`, while frames between them are numbered. */
  readonly #streams = new Map<string, Stream>();

  constructor(terms: LinkTerms, host: LinkHost) {
    this.#terms = terms;
    this.#host = host;
  }

  /** Nothing that was disturbed is on its way. */
  get isQuiet(): boolean {
    return this.#streams.size === 0;
  }

  /** Frames that those who live have sent one another, and that are not taken. */
  get underWay(): number {
    let frames = 0;
    for (const { last, sent, taken } of this.#streams.values()) if (last !== null && !this.#host.isLost(last)) frames += sent - taken;
    return frames;
  }

  /** False: it goes as ever. `copies`: what becomes of it on the way. */
  send(mail: Mail, order: number, copies: readonly Copy[], isDisturbed: boolean): boolean {
    const key = `${mail.from}>${mail.to}`;
    const known = this.#streams.get(key);
    // Of one whose end has died nothing comes any more: its successor's begins anew.
    const open = known?.last != null && this.#host.isLost(known.last) ? undefined : known;
    if ((!isDisturbed && open === undefined) || !this.#terms.crosses(mail)) return false;
    const stream = open ?? { key, sent: 0, taken: 0, last: null, early: new Map() };
    this.#streams.set(key, stream);
    const frame = { stream, number: stream.sent++, sum: this.#terms.sumOf(mail.message), mail, order, tries: 0 };
    stream.last = frame;
    this.#go(frame, copies);
    return true;
  }

  #go(frame: Frame, copies: readonly Copy[]): void {
    for (const copy of copies) this.#host.later(this.#host.delayOf(copy), () => this.#receive(frame, copy.mail));
    if (copies.length === 0) this.#sendAgain(frame);
  }

  #receive(frame: Frame, mail: Mail): void {
    if (this.#host.isLost(frame)) return;
    const { stream, number, sum } = frame;
    if (this.#terms.sumOf(mail.message) !== sum) {
      this.#sendAgain(frame);
      return;
    }
    if (number < stream.taken || stream.early.has(number)) return;
    stream.early.set(number, mail);
    for (let next = stream.early.get(stream.taken); next !== undefined; next = stream.early.get(stream.taken)) {
      stream.early.delete(stream.taken++);
      this.#host.deliver(next);
    }
    if (stream.taken === stream.sent && this.#streams.get(stream.key) === stream) this.#streams.delete(stream.key);
  }

  #sendAgain(frame: Frame): void {
    this.#host.later(AGAIN_NS * 2 ** frame.tries, () => {
      if (this.#host.isLost(frame) || frame.number < frame.stream.taken || frame.stream.early.has(frame.number)) return;
      if (++frame.tries > TRIES_MAX) this.#terms.onBroken(frame.mail);
      else this.#go(frame, this.#host.transmit(frame.mail));
    });
  }
}
