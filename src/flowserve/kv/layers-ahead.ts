/**
 * What prefill lends while it computes it (DeepServe §4.5, by layer): offers that are opened when their step begins, and whose layers come with the step's.
 *
 *   asked for with the step ─▶ the step begins: its blocks are held, the offer is open ─▶ layer 0 … is there ─▶ all are
 * @module
 */
import type { Offer, Offers } from '../distflow/offers.ts';

type Asked<Token> = { readonly npu: number; readonly step: number; readonly token: Token; readonly blocks: readonly number[] };
type Growing<Token> = { readonly npu: number; readonly step: number; readonly offer: Offer<Token>; readonly offers: Offers<Token> };

export class LayersAhead<Token> {
  #asked: Asked<Token>[] = [];
  readonly #growing: Growing<Token>[] = [];

  ask(npu: number, step: number, token: Token, blocks: readonly number[]): void {
    this.#asked.push({ npu, step, token, blocks });
  }

  /** Nobody wants it any more. False: its step has begun, or it is none of these. */
  withdraw(isIt: (token: Token) => boolean): boolean {
    const before = this.#asked.length;
    this.#asked = this.#asked.filter(({ token }) => !isIt(token));
    return this.#asked.length < before;
  }

  /** The NPU's step has begun: what was asked for with it. */
  begin(npu: number, step: number): readonly Asked<Token>[] {
    if (this.#asked.length === 0) return [];
    const begun = this.#asked.filter((asked) => asked.npu === npu && asked.step === step);
    this.#asked = this.#asked.filter((asked) => !begun.includes(asked));
    return begun;
  }

  opened(npu: number, step: number, offer: Offer<Token>, offers: Offers<Token>): void {
    this.#growing.push({ npu, step, offer, offers });
  }

  /** Somebody waits for the step's layers. */
  lends(npu: number, step: number): boolean {
    return this.#growing.some((growing) => growing.npu === npu && growing.step === step);
  }

  /** Layers 0 … `layers` − 1 of the step are there. */
  reach(npu: number, step: number, layers: number): void {
    for (const growing of this.#growing) if (growing.npu === npu && growing.step === step) growing.offers.reach(growing.offer, layers);
  }

  /** It is over, or all of it is there. */
  forget(offer: Offer<Token>): void {
    const at = this.#growing.findIndex((growing) => growing.offer === offer);
    if (at >= 0) this.#growing.splice(at, 1);
  }
}
