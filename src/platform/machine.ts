/**
 * A model and all of its NPUs on one thread, whoever asks it to compute: a pod on a virtual clock, or a replay that computes kernels again.
 * @module
 */
import { segmentOf } from '../fabric/address.ts';
import { AddressSpace } from '../fabric/address-space.ts';
import { allocateSegments } from '../fabric/memory-plan.ts';
import type { Arithmetic } from '../flowserve/arithmetic.ts';
import { plainChecksum } from '../flowserve/distflow/checksum.ts';
import { ExpertForward } from '../flowserve/expert-forward.ts';
import type { ServiceClock } from '../flowserve/expert-times.ts';
import { Forward } from '../flowserve/forward.ts';
import { HashExperts } from '../flowserve/hash-model/hash-experts.ts';
import { HashForward } from '../flowserve/hash-model/hash-forward.ts';
import { loadHashWeights, planHashPod } from '../flowserve/hash-model/hash-layout.ts';
import type { KvTransfers } from '../flowserve/kv-transfers.ts';
import { Npus, type NpusHost, type NpusOptions } from '../flowserve/npus.ts';
import { type AnyPodPlan, areasOfDie, type PlanOptions, planPod } from '../flowserve/pod-plan.ts';
import type { OnRouted } from '../flowserve/routed-steps.ts';
import type { StepProgram } from '../flowserve/step-program.ts';
import type { StepTimes } from '../flowserve/step-times.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import { instantiateKernels, type Kernels, loadKernelModule } from '../model/kernels/kernels.ts';
import { type Address, idOf } from '../protocol/address.ts';
import type { StepSample } from '../protocol/balancing.ts';
import type { KvEventPage } from '../protocol/kv-events.ts';
import type { Work } from '../protocol/messages.ts';
import type { ExpertReport } from '../protocol/threads.ts';
import { attentionPlaceOf, type Deployment, type DpGroupPlace } from '../protocol/topology.ts';
import type { Transfer } from '../protocol/transfers.ts';
import type { Cast } from '../runtime/cast.ts';
import type { Directory } from '../runtime/directory.ts';
import type { Areas } from '../xccl/areas.ts';
import { loadWeights, type ProgressReport } from './weights.ts';

/** The model, however it is computed: a plan, its memory, and each NPU's arithmetic. */
export type Machine = { readonly plan: AnyPodPlan; readonly space: AddressSpace; readonly arithmetics: NpusOptions['arithmetics'] };

export type OnProgress = (report: ProgressReport) => Promise<void>;

/** Weights of the hash model have a version, of which there is one. */
const WEIGHT_VERSION = 1;
/** Dispatches that an NPU's experts serve before the next NPU's do. */
const DISPATCHES_PER_TURN = 64;

/** Without rings: nobody else computes. @throws as `planPod` does */
export async function buildMachine(checkpoint: Checkpoint, kernels: 'real' | 'hash', options: PlanOptions, onProgress: OnProgress): Promise<Machine> {
  const alone = { ...options, has_rings: false };
  return kernels === 'hash' ? hashMachine(checkpoint, alone) : realMachine(checkpoint, alone, onProgress);
}

async function realMachine(checkpoint: Checkpoint, options: PlanOptions, onProgress: OnProgress): Promise<Machine> {
  const module = await loadKernelModule();
  const plan = planPod(checkpoint, options);
  const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
  await loadWeights(checkpoint, plan, space, module, onProgress);
  const kernels = space.memories.map((memory) => instantiateKernels(module, memory));
  const arithmetics = plan.layouts.map((layout) => {
    const kernelsOfSegment = kernels[segmentOf(layout.base)] as Kernels;
    return layout.kind === 'attention'
      ? new Forward(plan.config, layout, kernelsOfSegment)
      : new ExpertForward(plan.config, layout, layout.layers, kernelsOfSegment);
  });
  return { plan, space, arithmetics };
}

function hashMachine({ config }: Checkpoint, options: PlanOptions): Machine {
  const plan = planHashPod(config, options);
  const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
  for (const layout of plan.layouts) loadHashWeights(plan, layout, space, WEIGHT_VERSION);
  const arithmetics = plan.layouts.map((layout) =>
    layout.kind === 'attention' ? new HashForward(plan.config, layout, space) : new HashExperts(plan.config, layout, space),
  );
  return { plan, space, arithmetics };
}

export type Launch = { readonly npu: Address; readonly work: Work; readonly cause: number };

/** All NPUs of a machine. A step is computed whole when it is launched, at all ranks that run it, with the other NPUs' experts serving it. */
export class MachineNpus {
  readonly #npus: Npus;
  readonly #deployment: Deployment;

  constructor(
    { plan, space, arithmetics }: Machine,
    directory: Directory,
    now_ms: () => number,
    host: NpusHost,
    samplesOf: (npu: Address) => readonly StepSample[] = () => [],
    onLayers?: (npu: number, step: number, layers: number) => void,
    onRouted?: OnRouted,
  ) {
    this.#deployment = plan.hosting.deployment;
    const areas = plan.dies.map((_, die) => areasOfDie(plan, die));
    this.#npus = new Npus({
      plan,
      space,
      directory,
      // Who waits for a peer is polled until it has its answers: nobody needs to be told.
      surroundings: { space, areasOf: (die) => areas[die] as Areas, arrive: () => {}, now_ms },
      arithmetics,
      checksum: plainChecksum(space),
      host,
      measuresSteps: false,
      samplesOf: ({ self }) => samplesOf(self),
      warmExperts: () => {},
      onLayers,
      onRouted,
    });
  }

  spawn(): void {
    this.#npus.spawn();
  }

  report(cast: Pick<Cast, 'stateOf' | 'contextOf'>): ReturnType<Npus['report']> {
    return this.#npus.report(cast);
  }

  expertReports(clock: ServiceClock | null): ExpertReport[] {
    return this.#npus.expertReports(clock);
  }

  kvEvents(...args: Parameters<Npus['kvEvents']>): KvEventPage {
    return this.#npus.kvEvents(...args);
  }

  transfersReport(): ReturnType<KvTransfers['report']> {
    return this.#npus.transfers.report();
  }

  /** Performs a transfer to its end, as far as that is in one hand: an offer stands until somebody pulls it. */
  transfer(group: Address, work: Transfer, cause: number): void {
    this.#npus.transfers.perform(group, work, cause);
    this.#move();
  }

  /** The KV of the step's first `layers` layers is there: who waits for it goes on. */
  reach(npu: number, step: number, layers: number): void {
    this.#npus.transfers.reach(npu, step, layers);
    this.#move();
  }

  /** Until all wait. Once more than is seen to be needed: who pulls sees in the next turn what the holder has summed in this one. */
  #move(): void {
    const { transfers } = this.#npus;
    for (let quiet = 0; quiet < 2; quiet = transfers.isBusy ? 0 : quiet + 1) transfers.poll();
  }

  timesOf(npu: Address): StepTimes {
    return this.#npus.timesOf(idOf(npu));
  }

  /** Performs NPUs' work, to its end unless it waits for other ranks; what comes of it goes to the host's `complete`. */
  launch(launches: readonly Launch[]): void {
    for (const { npu, work, cause } of launches) this.#npus.launch(npu, work, cause);
    // Weights move to their end; and a step that was refused goes on by the map that has come.
    while (this.#npus.moves.poll());
    const mayGoOn = ({ npu, work }: Launch): boolean => work.kind === 'step' || (work.kind === 'experts' && this.#npus.programs.has(idOf(npu)));
    const ranks = launches.flatMap((launch) => (mayGoOn(launch) ? this.#ranksOf(idOf(launch.npu)) : []));
    if (ranks.length === 0) return;
    const isAtWork = (program: StepProgram<Arithmetic>): boolean => program.isRunning && !this.#npus.hasFailed(program.npu);
    // Where other ranks of the NPU's group have yet to be given the step, it goes on when they are.
    for (let isMoving = true; isMoving; ) {
      isMoving = false;
      for (const program of ranks) isMoving = (isAtWork(program) && this.#npus.poll(program, false) !== 'pending') || isMoving;
      if (!ranks.some(isAtWork)) return;
      for (const service of this.#npus.services) isMoving = this.#npus.serve(service, DISPATCHES_PER_TURN) > 0 || isMoving;
    }
  }

  #ranksOf(npu: number): readonly StepProgram<Arithmetic>[] {
    const { npus } = this.#deployment.groups[attentionPlaceOf(this.#deployment, npu).group] as DpGroupPlace;
    return npus.map((rank) => this.#npus.programs.get(rank) as StepProgram<Arithmetic>);
  }
}
