/**
 * Dispatch and combine between NPUs, pull-based (xDeepServe §3.2): an attention NPU leaves its tokens and, for each expert NPU that it needs, the list of
 * (expert, tokens) in its own memory, and sends one DISPATCH with their addresses; the expert NPU pulls the rows, computes, writes one row per
 * (token, expert) to the place that the sender reserved, and answers with COMBINE. The sender sums; so the bits do not depend on who answers first.
 *
 * Whether the peer shares the thread or not looks the same: a queue or a ring carries the same words.
 * @module
 */

import { SEGMENT_STRIDE } from '../fabric/address-space.ts';
import type { Links } from '../fabric/links.ts';
import { FRAME_KIND, type FrameHeader, type RingConsumer } from '../fabric/ring.ts';

/** What one DISPATCH says. All addresses are global and lie in the sender's region. */
export type Dispatch = {
  readonly source: number;
  readonly destination: number;
  /** The sender's step, so that an answer to a step that was given up is known as such. */
  readonly step: number;
  readonly layer: number;
  /** u32 (expert, pairs) × `segments`. */
  readonly segmentsAddress: number;
  readonly segments: number;
  /** u32 token row of each pair, in the segments' order. */
  readonly pairRowsAddress: number;
  /** Row 0 of the tokens' activations. */
  readonly rowsAddress: number;
  /** Where the row of the first pair goes; the others follow. */
  readonly replyAddress: number;
};

export type Combine = {
  readonly source: number;
  readonly destination: number;
  readonly step: number;
  readonly layer: number;
  /** The expert NPU could not compute it: its rows are not there. */
  readonly failed: boolean;
};

export type ExchangeHandlers = { readonly onDispatch: (dispatch: Dispatch) => void; readonly onCombine: (combine: Combine) => void };

const DISPATCH_WORDS = 11;

export class Exchange {
  readonly #links: Links;
  readonly #threadOfNpu: (npu: number) => number;
  readonly #handlers: ExchangeHandlers;
  readonly #header: FrameHeader = { kind: 0, source: 0, destination: 0, sequence: 0, epoch: 0, time: 0, bytes: 0, roles: 0 };
  readonly #words = new Uint32Array(DISPATCH_WORDS);
  readonly #payload = new Uint8Array(this.#words.buffer);

  constructor(links: Links, threadOfNpu: (npu: number) => number, handlers: ExchangeHandlers) {
    this.#links = links;
    this.#threadOfNpu = threadOfNpu;
    this.#handlers = handlers;
  }

  dispatch(dispatch: Dispatch): void {
    const thread = this.#threadOfNpu(dispatch.destination);
    if (thread === this.#links.thread) {
      this.#handlers.onDispatch(dispatch);
      return;
    }
    const words = this.#words;
    words[0] = dispatch.layer;
    words[1] = dispatch.segments;
    this.#putAddress(2, dispatch.segmentsAddress);
    this.#putAddress(4, dispatch.pairRowsAddress);
    this.#putAddress(6, dispatch.rowsAddress);
    this.#putAddress(8, dispatch.replyAddress);
    this.#send(thread, FRAME_KIND.dispatch, dispatch.source, dispatch.destination, dispatch.step, this.#payload);
  }

  /** Shows to the peers what was sent so far, before this thread goes on computing. */
  publish(): void {
    this.#links.flush();
  }

  combine({ source, destination, step, layer, failed }: Combine): void {
    const thread = this.#threadOfNpu(destination);
    if (thread === this.#links.thread) {
      this.#handlers.onCombine({ source, destination, step, layer, failed });
      return;
    }
    this.#words[0] = layer;
    this.#words[1] = failed ? 1 : 0;
    this.#send(thread, FRAME_KIND.combine, source, destination, step, this.#payload.subarray(0, 8));
  }

  /** Takes a frame of either kind off a ring. */
  receive(ring: RingConsumer): void {
    const { kind, source, destination, epoch: step } = ring.header;
    const layer = ring.payloadWord(0);
    if (kind === FRAME_KIND.combine) {
      this.#handlers.onCombine({ source, destination, step, layer, failed: ring.payloadWord(1) === 1 });
      return;
    }
    const addressAt = (index: number): number => (ring.payloadWord(index) >>> 0) * SEGMENT_STRIDE + (ring.payloadWord(index + 1) >>> 0);
    this.#handlers.onDispatch({
      source,
      destination,
      step,
      layer,
      segments: ring.payloadWord(1),
      segmentsAddress: addressAt(2),
      pairRowsAddress: addressAt(4),
      rowsAddress: addressAt(6),
      replyAddress: addressAt(8),
    });
  }

  #putAddress(index: number, address: number): void {
    this.#words[index] = Math.floor(address / SEGMENT_STRIDE);
    this.#words[index + 1] = address % SEGMENT_STRIDE;
  }

  #send(thread: number, kind: number, source: number, destination: number, step: number, payload: Uint8Array): void {
    const header = this.#header;
    header.kind = kind;
    header.source = source;
    header.destination = destination;
    header.epoch = step;
    // A peer that is lost is asked again when it is back (dispatchAgain), and waits for no answer.
    if (this.#links.isAttached(thread)) this.#links.send(thread, 'data', header, payload);
  }
}
