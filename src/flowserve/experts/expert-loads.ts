/**
 * Tokens routed to each expert: every NPU counts what its gate chose, in its own memory; the sum over NPUs is an expert's load (xDeepServe §4.5, collect).
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Executor } from '../../protocol/topology.ts';
import type { Directory } from '../../runtime/directory.ts';
import { attentionLayouts } from '../layouts/step-layout.ts';
import type { AnyPodPlan } from '../pod-plan.ts';

export type LayerLoads = { readonly layer: number; readonly by_executor: readonly (readonly number[])[] };

export class ExpertLoads {
  readonly #plan: AnyPodPlan;
  readonly #space: AddressSpace;
  readonly #directory: Directory;

  constructor(plan: AnyPodPlan, space: AddressSpace, directory: Directory) {
    this.#plan = plan;
    this.#space = space;
    this.#directory = directory;
  }

  /** Layers that have experts. */
  get layers(): number[] {
    return (attentionLayouts(this.#plan.layouts)[0]?.counts ?? []).flatMap((counts, layer) => (counts === null ? [] : [layer]));
  }

  /** In one task executor, as its attention NPUs' gates have chosen. */
  of(executor: Executor, layer: number, expert: number): number {
    const { first, npus } = executor.attention;
    let sum = 0;
    for (let npu = first; npu < first + npus; npu++) {
      const layout = this.#plan.layouts[npu];
      const counts = layout?.kind === 'attention' ? (layout.counts[layer] ?? null) : null;
      if (layout === undefined || counts === null) continue;
      const address = (this.#plan.dies[this.#directory.dieOfNpu(npu)]?.base ?? 0) + counts - layout.base;
      sum += (this.#space.wordsOf(address)[(offsetOf(address) >>> 2) + expert] as number) >>> 0;
    }
    return sum;
  }

  /** Tokens routed to each expert of each layer that has any: `[task executor][expert id]`. */
  byExecutor(): LayerLoads[] {
    const { executors } = this.#plan.hosting.deployment;
    const { experts } = this.#plan.config.moe;
    const loadsOf = (executor: Executor, layer: number): number[] => Array.from({ length: experts }, (_, expert) => this.of(executor, layer, expert));
    return this.layers.map((layer) => ({ layer, by_executor: executors.map((executor) => loadsOf(executor, layer)) }));
  }

  /** Tokens routed to each expert, `[MoE layer][expert id]`, in all task executors together. */
  table(): number[][] {
    const { executors } = this.#plan.hosting.deployment;
    const sumOf = (layer: number, expert: number): number => executors.reduce((sum, executor) => sum + this.of(executor, layer, expert), 0);
    return this.layers.map((layer) => Array.from({ length: this.#plan.config.moe.experts }, (_, expert) => sumOf(layer, expert)));
  }
}
