/** A model on one thread, without actors: what the goldens are held against first, and what the bench calls the bare loop. */

import type { ExpertMap } from '../../actors/policies/expert-placement/expert-map.ts';
import { segmentOf } from '../../src/fabric/address.ts';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { allocateSegments } from '../../src/fabric/memory-plan.ts';
import { kernelChecksum } from '../../src/flowserve/distflow/checksum.ts';
import { firstMap } from '../../src/flowserve/experts/expert-routing.ts';
import type { ExpertService } from '../../src/flowserve/experts/expert-service.ts';
import type { ExpertArithmetic } from '../../src/flowserve/forward/arithmetic.ts';
import { ExpertForward } from '../../src/flowserve/forward/expert-forward.ts';
import { Forward } from '../../src/flowserve/forward/forward.ts';
import { newExchange } from '../../src/flowserve/forward/narrow-rows.ts';
import { exchangeOptions } from '../../src/flowserve/layouts/step-layout.ts';
import { areasOfDie, type PlanOptions, type PodPlan, planPod } from '../../src/flowserve/pod-plan.ts';
import { StepProgram } from '../../src/flowserve/steps/step-program.ts';
import type { Poll } from '../../src/flowserve/steps/step-run.ts';
import { newExpertService } from '../../src/flowserve/steps/turns.ts';
import { WeightLoader } from '../../src/flowserve/weights/load-weights.ts';
import { openCheckpoint } from '../../src/model/checkpoint.ts';
import { instantiateKernels, type Kernels, loadKernelModule } from '../../src/model/kernels/kernels.ts';
import { NO_TERMS } from '../../src/protocol/constructors.ts';
import type { Sampling, Sequence } from '../../src/protocol/messages.ts';
import type { StepOutcome, StepPlan } from '../../src/protocol/steps.ts';
import { attentionPlaceOf, colocated, type DpGroupPlace, executorOfNpu } from '../../src/protocol/topology.ts';
import type { Areas } from '../../src/xccl/areas.ts';
import { Endpoint } from '../../src/xccl/endpoint.ts';
import type { Exchange } from '../../src/xccl/exchange.ts';
import { GREEDY } from './greedy.ts';

/** `programs`: of NPUs that run steps, before which no others come. */
export type BareModel = {
  readonly plan: PodPlan;
  readonly space: AddressSpace;
  readonly programs: readonly StepProgram[];
  readonly services: readonly ExpertService[];
  readonly kernels: Kernels;
};

/** `onDrafts`: told when a step begins to compute drafts. */
export async function loadBareModel(folder: string, options: Partial<PlanOptions> = {}, onDrafts = (): void => {}): Promise<BareModel> {
  using checkpoint = openCheckpoint(folder);
  const plan = planPod(checkpoint, {
    topology: colocated(1),
    workers: 1,
    spare_workers: 0,
    job_executors: 1,
    max_queued: 16,
    kv_blocks: 256,
    kv_block_size: 16,
    max_batch_tokens: 256,
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
    ...options,
  });
  const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
  const module = await loadKernelModule();
  const kernels = space.memories.map((memory) => instantiateKernels(module, memory));
  const mapOf = (npu: number): ExpertMap => firstMap(plan.config, plan.options, executorOfNpu(plan.hosting.deployment, npu));
  const kernelsOf = (segment: number): Kernels => kernels[segment] as Kernels;
  for (const _ of new WeightLoader(checkpoint, space, kernelsOf).load(plan.layouts, mapOf)) {
  }
  const areas = plan.dies.map((_, die) => areasOfDie(plan, die));
  const surroundings = { space, areasOf: (die: number) => areas[die] as Areas, arrive: () => {}, now_ms: () => 0 };
  const programs: StepProgram[] = [];
  const services = plan.layouts.map((layout) => {
    const ownKernels = kernelsOf(segmentOf(layout.base));
    const exchangeOf = (arithmetic: ExpertArithmetic): Exchange =>
      newExchange(new Endpoint(layout.npu, surroundings), arithmetic, exchangeOptions(plan.options, layout.npu, kernelChecksum(space, kernels).rest));
    if (layout.kind === 'experts') {
      const experts = new ExpertForward(plan.config, layout, layout.layers, ownKernels);
      return newExpertService(experts, space, exchangeOf(experts), (npu) => npu);
    }
    const forward = new Forward(plan.config, layout, ownKernels);
    const exchange = exchangeOf(forward);
    const program = new StepProgram(forward, space, exchange, (npu) => npu, { map: mapOf(layout.npu), speculative: plan.options.speculative, onDrafts });
    programs.push(program);
    return program.service;
  });
  return { plan, space, programs, services, kernels: kernelsOf(0) };
}

/** Generates greedily, the prompt in chunks; calls `onStep` after each step, while its logits are still there. */
export function generateGreedily(
  { plan, programs, services }: BareModel,
  prompt: readonly number[],
  count: number,
  options: {
    npu?: number;
    chunk?: number;
    sampling?: Partial<Sampling>;
    foresees?: number;
    foreseesAt?: (start: number) => number;
    onStep?: (start: number, rows: number) => void;
  } = {},
): StepOutcome[] {
  // All ranks of the NPU's group run the step, as one program.
  const { group } = attentionPlaceOf(plan.hosting.deployment, options.npu ?? 0);
  const ranks = (plan.hosting.deployment.groups[group] as DpGroupPlace).npus.map((npu) => programs[npu] as StepProgram);
  const sequence: Sequence = {
    request: 1,
    choice: 0,
    prompt,
    // Drafts are of tokens that are wanted.
    max_tokens: count + 1 + Math.max(0, options.foresees ?? 0),
    sampling: { ...GREEDY, logprobs: 0, ...options.sampling },
    ...NO_TERMS,
  };
  const tokens = [...prompt];
  const outcomes: StepOutcome[] = [];
  let computed = 0;
  let blocks = 0;
  for (let step = 1; outcomes.length < count; step++) {
    const rows = Math.min(options.chunk ?? 256, tokens.length - computed);
    const { foresees = -1 } = options;
    const needed = Math.ceil((computed + rows + Math.max(0, foresees)) / plan.options.kv_block_size);
    const samples = computed + rows === tokens.length;
    const stepPlan: StepPlan = {
      step,
      after: 0,
      detach: step === 1 ? [0] : [],
      entries: [
        {
          slot: 0,
          start: computed,
          tokens: tokens.slice(computed, computed + rows),
          first_block: blocks,
          blocks: Array.from({ length: needed - blocks }, (_, index) => blocks + index),
          shared: 0,
          generated: outcomes.length,
          samples,
          drafts: 0,
          foresees: options.foreseesAt?.(computed) ?? foresees,
          attach: step === 1 ? sequence : null,
          output: [],
        },
      ],
    };
    for (const rank of ranks) rank.start(stepPlan);
    const ends = ranks.map((): Extract<Poll, { state: 'done' }> | null => null);
    for (let isMoving = true; isMoving; ) {
      isMoving = false;
      for (const [index, rank] of ranks.entries()) {
        if (ends[index] !== null) continue;
        const poll = rank.poll();
        if (poll.state === 'done') ends[index] = poll;
        isMoving ||= poll.state !== 'pending';
      }
      for (const service of services) isMoving = service.serve(64) > 0 || isMoving;
    }
    const [poll] = ends;
    if (poll == null || ends.includes(null)) throw new Error(`step ${step} waits for NPUs ${ranks.flatMap((rank) => rank.missing)}`);
    if (ends.some((end) => end?.digest !== poll.digest)) throw new Error(`ranks end step ${step} with different activations`);
    options.onStep?.(computed, rows);
    blocks = needed;
    computed += rows;
    const outcome = poll.outcomes[0] as StepOutcome;
    if (!samples) continue;
    outcomes.push(outcome);
    tokens.push(outcome.token);
  }
  return outcomes;
}
