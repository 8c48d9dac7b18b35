/**
 * When things are there on a virtual clock that move by layer: a step's kernels compute all at once when it is launched, its layers come one after the other
 * until it is done, and what copies them takes the link's time, but for what it copies while the step goes on.
 *
 *   step    began │ layer 0 │ layer 1 │ … │ head │ done
 *   link                    │ 0 │     │ 1 │ …    │ last │ there
 * @module
 */
import type { Address } from '../protocol/address.ts';
import type { Device } from '../simulate/roofline.ts';

export type Link = Pick<Device, 'link_bytes_per_s' | 'link_latency_ns'>;
type Span = { readonly began_ns: number; readonly done_ns: number };

export class LayerTimes {
  readonly #layers: number;
  readonly #now_ns: () => number;
  /** By NPU and step, until the step is done. */
  readonly #steps = new Map<Address, Map<number, Span>>();
  /** By DP group and transfer. */
  readonly #began_ns = new Map<string, number>();

  constructor(layers: number, now_ns: () => number) {
    this.#layers = layers;
    this.#now_ns = now_ns;
  }

  begin(npu: Address, step: number, span: Span): void {
    const steps = this.#steps.get(npu) ?? new Map<number, Span>();
    // Most steps lend nothing, and nobody asks for their layers.
    for (const [before, { done_ns }] of steps) if (done_ns <= this.#now_ns()) steps.delete(before);
    this.#steps.set(npu, steps.set(step, span));
  }

  reset(npu: Address): void {
    this.#steps.delete(npu);
  }

  /** From now until the first `layers` layers of the step are there; the head takes as long as a layer. */
  untilLayers_ns(npu: Address, step: number, layers: number): number {
    const span = this.#steps.get(npu)?.get(step);
    if (span === undefined) return 0;
    const at_ns = span.began_ns + Math.ceil(((span.done_ns - span.began_ns) * layers) / (this.#layers + 1));
    return Math.max(0, at_ns - this.#now_ns());
  }

  /** A transfer begins whose layers may still be to come. */
  beginTransfer(group: Address, id: number): void {
    this.#began_ns.set(`${group} ${id}`, this.#now_ns());
  }

  /** From now until its bytes are there; the last layer comes now. */
  untilMoved_ns(group: Address, id: number, bytes: number, { link_latency_ns, link_bytes_per_s }: Link): number {
    const copy_ns = Math.ceil((bytes * 1e9) / link_bytes_per_s);
    const now_ns = this.#now_ns();
    const began_ns = this.#began_ns.get(`${group} ${id}`) ?? now_ns;
    return link_latency_ns + Math.max(Math.ceil(copy_ns / this.#layers), began_ns + copy_ns - now_ns);
  }

  endTransfer(group: Address, id: number): void {
    this.#began_ns.delete(`${group} ${id}`);
  }
}
