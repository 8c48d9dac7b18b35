/** Pods of the hash model on one thread: real schedulers, step programs, blocks and exchange, polled in turn, with a place to interfere. */

import { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { offsetOf } from '../../src/fabric/address.ts';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { allocateSegments } from '../../src/fabric/memory-plan.ts';
import { plainChecksum } from '../../src/flowserve/distflow/checksum.ts';
import { firstMap } from '../../src/flowserve/experts/expert-routing.ts';
import type { ExpertService } from '../../src/flowserve/experts/expert-service.ts';
import type { Arithmetic } from '../../src/flowserve/forward/arithmetic.ts';
import { HashExperts } from '../../src/flowserve/hash-model/hash-experts.ts';
import { HashForward } from '../../src/flowserve/hash-model/hash-forward.ts';
import { type HashPodPlan, loadHashWeights, planHashPod } from '../../src/flowserve/hash-model/hash-layout.ts';
import type { ModelShape } from '../../src/flowserve/layouts/step-layout.ts';
import { exchangeOptions } from '../../src/flowserve/layouts/step-layout.ts';
import { type AnyPodPlan, areasOfDie, type PlanOptions } from '../../src/flowserve/pod-plan.ts';
import { StepProgram } from '../../src/flowserve/steps/step-program.ts';
import type { Poll } from '../../src/flowserve/steps/step-run.ts';
import { newExpertService } from '../../src/flowserve/steps/turns.ts';
import type { Address } from '../../src/protocol/address.ts';
import { NO_TERMS } from '../../src/protocol/constructors.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import type { Sampling, Sequence } from '../../src/protocol/messages.ts';
import { attentionPlaceOf, colocated, executorOfNpu } from '../../src/protocol/topology.ts';
import type { Areas } from '../../src/xccl/areas.ts';
import { Endpoint } from '../../src/xccl/endpoint.ts';
import { Exchange } from '../../src/xccl/exchange.ts';
import { TravelWatch } from '../../src/xccl/travel-watch.ts';
import { GREEDY } from '../golden/greedy.ts';

/** Written down, not read: a dense layer, then experts, one of them shared. */
export const SHAPE: ModelShape = {
  layers: 4,
  vocabSize: 50_000,
  maxPositions: 512,
  eosTokenIds: [2],
  moe: { experts: 16, topK: 4, sharedExperts: 1, denseLayers: [0] },
};

export const VERSION = 1;

/** `programs`: of NPUs that run steps, before which no others come. */
export type HashPod = {
  readonly plan: HashPodPlan;
  readonly space: AddressSpace;
  readonly programs: readonly StepProgram<HashForward>[];
  readonly services: readonly ExpertService[];
  readonly travel: TravelWatch;
};

export function makeHashPod(npus: number, { model = SHAPE, ...options }: Partial<PlanOptions> & { model?: ModelShape } = {}): HashPod {
  const plan = planHashPod(model, {
    topology: colocated(npus),
    workers: 1,
    spare_workers: 0,
    job_executors: 1,
    max_queued: 16,
    kv_blocks: 64,
    kv_block_size: 8,
    max_batch_tokens: 64,
    max_batch_requests: 8,
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
    row_checks: 'off',
    has_rings: false,
    ...options,
  });
  const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
  for (const layout of plan.layouts) loadHashWeights(plan, layout, space, VERSION);
  let time = 0;
  const areas = plan.dies.map((_, die) => areasOfDie(plan, die));
  const travel = new TravelWatch();
  const surroundings = { space, areasOf: (die: number) => areas[die] as Areas, arrive: () => {}, now_ms: () => (time += 0.01), watch: travel };
  const programs: StepProgram<HashForward>[] = [];
  const services = plan.layouts.map((layout) => {
    const exchange = new Exchange(
      new Endpoint(layout.npu, surroundings),
      layout.row_bytes,
      exchangeOptions(plan.options, layout.npu, plainChecksum(space).rest),
    );
    if (layout.kind === 'experts') return newExpertService(new HashExperts(plan.config, layout, space), space, exchange, (npu) => npu);
    const program = new StepProgram(new HashForward(plan.config, layout, space), space, exchange, (npu) => npu, {
      map: firstMap(plan.config, plan.options, executorOfNpu(plan.hosting.deployment, layout.npu)),
    });
    programs.push(program);
    return program.service;
  });
  return { plan, space, programs, services, travel };
}

/** What generates: programs of any arithmetic. */
export type Rig = { readonly plan: AnyPodPlan; readonly programs: readonly StepProgram<Arithmetic>[]; readonly services: readonly ExpertService[] };

export type Call = {
  /** Its DP group generates, on all of its ranks. */
  readonly npu: number;
  readonly prompt: readonly number[];
  readonly max_tokens: number;
  readonly sampling?: Partial<Sampling>;
  readonly choice?: number;
};

/** Where a test may reach into the pod; numbers of steps from 1, of layers from 0. */
export type Interference = {
  /** The step is planned, its tokens are embedded. */
  readonly onStart?: (npu: number, step: number) => void;
  /** The NPU has dispatched a layer, nobody has looked yet. */
  readonly onAsked?: (npu: number, step: number, asked: number) => void;
  /** Everybody has served what was asked, nobody has pulled yet. */
  readonly onServed?: () => void;
};

export type Run = {
  readonly tokens: readonly (readonly number[])[];
  readonly errors: readonly (ErrorRecord | null)[];
  readonly preemptions: number /** Steps that ranks of a group ended with different activations or tokens. */;
  readonly diverged: number;
  /** Of the steps, as they ended. */
  readonly digests: readonly number[];
};

/** Generates all calls' tokens; `calls[i]` is request i. */
export function generate({ plan, programs, services }: Rig, calls: readonly Call[], interference: Interference = {}): Run {
  const { kv_blocks, kv_block_size, max_batch_tokens: batch_tokens_max, max_batch_requests: batch_requests_max } = plan.options;
  const { groups } = plan.hosting.deployment;
  const limits = {
    kv_blocks,
    kv_block_size,
    batch_tokens_max,
    batch_requests_max,
    has_prefix_cache: true,
    is_asynchronous: false,
    has_priorities: true,
    dram_blocks: 0,
    cache_costs: null,
    lends_by_layer: false,
    offers_max: 8,
    shares_prefixes: false,
  };
  const schedulers = groups.map(() => new StepScheduler(limits, 'dp-group/0'));
  const tokens: number[][] = calls.map(() => []);
  const errors: (ErrorRecord | null)[] = calls.map(() => null);
  const digests: number[] = [];
  const hear = (messages: Readonly<ReturnType<StepScheduler['retire']>>): void => {
    for (const { to, message } of messages) {
      if (message.type === 'TOKENS') for (const out of message.tokens) tokens[out.request]?.push(out.token);
      if (message.type === 'GENERATION_FAILED') errors[Number(to.split('/')[1])] = message.error;
    }
  };
  calls.forEach(({ npu, prompt, max_tokens, sampling, choice = 0 }, request) => {
    const sequence: Sequence = {
      request,
      choice,
      prompt,
      max_tokens,
      sampling: { ...GREEDY, ...sampling },
      ...NO_TERMS,
    };
    const { group } = attentionPlaceOf(plan.hosting.deployment, npu);
    hear((schedulers[group] as StepScheduler).enqueue(`task/${request}` as Address, sequence));
  });
  const asked = programs.map(() => 0);
  /** By NPU: how its step ended, while other ranks still run it. */
  const ends = programs.map((): Extract<Poll, { state: 'done' }> | null => null);
  let diverged = 0;
  let busy = true;
  while (busy) {
    busy = false;
    for (const { id, npus: ranks } of groups) {
      const scheduler = schedulers[id] as StepScheduler;
      if (!scheduler.isStepping) {
        const step = scheduler.plan()?.plan;
        if (step === undefined) continue;
        for (const npu of ranks) {
          programs[npu]?.start(step);
          asked[npu] = 0;
          interference.onStart?.(npu, step.step);
        }
      }
      busy = true;
      for (const npu of ranks) {
        if (ends[npu] !== null) continue;
        const poll = (programs[npu] as StepProgram<Arithmetic>).poll();
        if (poll.state === 'asked') interference.onAsked?.(npu, scheduler.step, (asked[npu] as number)++);
        if (poll.state === 'done') ends[npu] = poll;
      }
      const done = ranks.flatMap((npu) => ends[npu] ?? []);
      const [first] = done;
      if (first === undefined || done.length < ranks.length) continue;
      const tokensOf = ({ outcomes }: typeof first): string => outcomes.map(({ token }) => token).join();
      if (done.some((end) => end.digest !== first.digest || tokensOf(end) !== tokensOf(first))) diverged++;
      for (const npu of ranks) ends[npu] = null;
      digests.push(first.digest);
      hear(scheduler.retire(first.outcomes));
    }
    for (const service of services) service.serve(64);
    interference.onServed?.();
  }
  for (const { id, npus: ranks } of groups) {
    const slots = (schedulers[id] as StepScheduler).takeDetached();
    for (const npu of ranks) programs[npu]?.release(slots);
  }
  return { tokens, errors, preemptions: schedulers.reduce((sum, { preemptions }) => sum + preemptions, 0), diverged, digests };
}

/** The words of an address, which may be written. */
export const wordsAt = ({ space }: HashPod, address: number, count: number): Int32Array =>
  space.wordsOf(address).subarray(offsetOf(address) / 4, offsetOf(address) / 4 + count);
