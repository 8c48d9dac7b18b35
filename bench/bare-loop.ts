/**
 * The bare loop: the pod's own kernels called by one plain function, no actors, no threads, no rings. What a pod is measured against.
 * Continuous batch of fixed size: every prompt is prefilled, then all decode together, greedily.
 * @module
 */

import { offsetOf } from '../src/fabric/address.ts';
import { AddressSpace } from '../src/fabric/address-space.ts';
import { allocateSegments } from '../src/fabric/memory-plan.ts';
import { ExpertBatches } from '../src/flowserve/experts/expert-batches.ts';
import { ExpertService } from '../src/flowserve/experts/expert-service.ts';
import type { Span } from '../src/flowserve/forward/arithmetic.ts';
import { Forward } from '../src/flowserve/forward/forward.ts';
import { attentionLayouts, SPAN, SPAN_WORDS } from '../src/flowserve/layouts/step-layout.ts';
import { areasOfDie, planPod } from '../src/flowserve/pod-plan.ts';
import { SelectedRows } from '../src/flowserve/steps/selected-rows.ts';
import { WeightLoader } from '../src/flowserve/weights/load-weights.ts';
import { openCheckpoint } from '../src/model/checkpoint.ts';
import { instantiateKernels, loadKernelModule } from '../src/model/kernels/kernels.ts';
import { isMoeLayer } from '../src/model/moe-layers.ts';
import { resolveModel } from '../src/model/registry.ts';
import { colocated } from '../src/protocol/topology.ts';
import { Endpoint } from '../src/xccl/endpoint.ts';
import { Exchange } from '../src/xccl/exchange.ts';

export type BareLoop = {
  /** Generates `count` tokens for each prompt; returns the ids, `[sequence][token]`. */
  generate(prompts: readonly (readonly number[])[], count: number): number[][];
  /** One step of `tokens` that follow `known` others of their sequence. Whatever lies where the KV of those should be: it takes as long, and its rows mean nothing. */
  goOn(known: number, tokens: readonly number[]): void;
};

const BATCH_TOKENS = 256;

export async function loadBareLoop(model = 'tiny-deepseek-v3'): Promise<BareLoop> {
  using checkpoint = openCheckpoint(resolveModel(model));
  const block_size = 16;
  const plan = planPod(checkpoint, {
    topology: colocated(1),
    workers: 1,
    spare_workers: 0,
    job_executors: 1,
    max_queued: 16,
    kv_blocks: undefined,
    kv_block_size: block_size,
    max_batch_tokens: BATCH_TOKENS,
    max_batch_requests: 64,
    segment_bytes: 2 ** 32 - 65_536,
    memory_bytes: undefined,
    prefix_caching: true,
    async_scheduling: false,
    scheduling_policy: 'fcfs',
    load_balancing: 'auto',
    long_prompt_groups: 0,
    long_prompt_tokens: 1,
    kv_transfer: 'request',
    enforce_eager: false,
  });
  const { config } = plan;
  const [layout] = attentionLayouts(plan.layouts);
  if (layout === undefined) throw new Error('no NPU');
  const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
  const kernels = instantiateKernels(await loadKernelModule(), space.memories[0] as WebAssembly.Memory);
  for (const _ of new WeightLoader(checkpoint, space, () => kernels).load(plan.layouts)) {
  }
  const forward = new Forward(config, layout, kernels);
  const batches = new ExpertBatches(forward, space);
  const surroundings = { space, areasOf: (die: number) => areasOfDie(plan, die), arrive: () => {}, now_ms: () => 0 };
  const service = new ExpertService(forward, space, new Exchange(new Endpoint(0, surroundings), layout.row_bytes));
  const selected = new SelectedRows(forward, space);
  const words = space.wordsOf(layout.base);
  const { at } = forward;

  const tableOf = (slot: number): number => offsetOf(layout.blockTables.address) + slot * layout.blockTables.blocks_max * 4;

  function computeLayer(layer: number, rows: number, spans: readonly Span[]): void {
    forward.attention(layer, rows, spans);
    forward.postNorm(layer, rows);
    if (!isMoeLayer(config, layer)) {
      forward.dense(layer, rows);
      return;
    }
    forward.gate(layer, rows);
    const [all] = batches.sort(layer, rows);
    if (all !== undefined) service.compute(batches.describe(all, layer), batches.replyAddress(all), all.pairs);
    forward.sharedExpert(layer, rows);
    forward.combine(layer, rows);
  }

  /** One forward pass over the spans' tokens; the token that follows each span's last row. */
  function step(spans: readonly Span[], tokens: readonly (readonly number[])[], starts: readonly number[]): number[] {
    let rows = 0;
    spans.forEach(({ slot, row, rows: count }, index) => {
      const span = (at.spans >>> 2) + index * SPAN_WORDS;
      words[span + SPAN.row] = row;
      words[span + SPAN.rows] = count;
      words[span + SPAN.table] = tableOf(slot);
      words[span + SPAN.from] = 0;
      tokens[index]?.forEach((token, offset) => {
        words[(at.tokenIds >>> 2) + row + offset] = token;
        words[(at.positions >>> 2) + row + offset] = (starts[index] as number) + offset;
      });
      rows += tokens[index]?.length ?? 0;
    });
    forward.embed(rows);
    const last = config.layers - 1;
    for (let layer = 0; layer < last; layer++) computeLayer(layer, rows, spans);
    if (rows === spans.length) computeLayer(last, rows, spans);
    else {
      // As in the pod's steps: of the last layer's rows, those that nobody reads leave their KV there and are computed no further.
      forward.writeCells(last, rows, spans);
      selected.clear();
      for (const [index, { slot, row, rows: count }] of spans.entries())
        selected.take({ slot, row: row + count - 1, rows: 1, kept: 1 }, (starts[index] as number) + count - 1);
      computeLayer(last, selected.rows, selected.spans);
    }
    forward.head((index) => index, spans.length);
    return spans.map((_, index) => kernels.argmaxRow(at.logits + index * config.vocabSize * 4, config.vocabSize));
  }

  function giveBlocks(slots: number, positions: number): void {
    const blocksOfEach = Math.ceil(positions / block_size);
    for (let slot = 0; slot < slots; slot++) {
      const table = tableOf(slot) >>> 2;
      for (let block = 0; block < blocksOfEach; block++)
        words[table + block] = offsetOf(layout?.kv.address ?? 0) + (slot * blocksOfEach + block) * (layout?.kv.block_bytes ?? 0);
    }
  }

  function goOn(known: number, tokens: readonly number[]): void {
    giveBlocks(1, known + tokens.length);
    step([{ slot: 0, row: 0, rows: tokens.length }], [tokens], [known]);
  }

  function generate(prompts: readonly (readonly number[])[], count: number): number[][] {
    giveBlocks(prompts.length, Math.max(...prompts.map(({ length }) => length)) + count);
    const output: number[][] = prompts.map(() => []);
    for (let from = 0; from < prompts.length; ) {
      let to = from;
      let row = 0;
      const spans: Span[] = [];
      while (to < prompts.length && row + (prompts[to]?.length ?? 0) <= BATCH_TOKENS) {
        const rows = prompts[to]?.length ?? 0;
        spans.push({ slot: to, row, rows });
        row += rows;
        to++;
      }
      if (to === from) throw new Error('a prompt is longer than a batch');
      step(
        spans,
        prompts.slice(from, to),
        spans.map(() => 0),
      ).forEach((token, index) => {
        output[from + index]?.push(token);
      });
      from = to;
    }
    const spans = prompts.map((_, slot): Span => ({ slot, row: slot, rows: 1 }));
    for (let generated = 1; generated < count; generated++) {
      const tokens = output.map((ids) => [ids.at(-1) as number]);
      const starts = prompts.map(({ length }) => length + generated - 1);
      step(spans, tokens, starts).forEach((token, slot) => {
        output[slot]?.push(token);
      });
    }
    return output;
  }
  return { generate, goOn };
}
