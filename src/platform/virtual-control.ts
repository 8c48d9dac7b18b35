/**
 * The whole pod on one thread and a virtual clock: the live pod's actors, addresses and memory, without its threads, rings and timers.
 * Kernels compute when they are launched; what they found arrives when the device would have been done.
 * @module
 */
import { segmentOf } from '../fabric/address.ts';
import { AddressSpace } from '../fabric/address-space.ts';
import { allocateSegments } from '../fabric/memory-plan.ts';
import type { Arithmetic } from '../flowserve/arithmetic.ts';
import { ExpertLoads } from '../flowserve/expert-loads.ts';
import { Forward } from '../flowserve/forward.ts';
import { FrontendProcess } from '../flowserve/frontend-process.ts';
import { HashForward } from '../flowserve/hash-model/hash-forward.ts';
import { loadHashWeights, planHashPod } from '../flowserve/hash-model/hash-layout.ts';
import { checkHashSampling } from '../flowserve/hash-model/hash-sampler.ts';
import { Npus } from '../flowserve/npus.ts';
import { type AnyPodPlan, areasOfDie, type PlanOptions, planPod } from '../flowserve/pod-plan.ts';
import type { StepProgram } from '../flowserve/step-program.ts';
import { type Checkpoint, openCheckpoint, parametersOf } from '../model/checkpoint.ts';
import type { ModelConfig } from '../model/config.ts';
import { instantiateKernels, type Kernels, loadKernelModule } from '../model/kernels/kernels.ts';
import { modelDigest } from '../model/model-digest.ts';
import { loadTokenizer, type Tokenizer } from '../model/tokenizer.ts';
import { type Address, address, idOf } from '../protocol/address.ts';
import type { PodToCaller } from '../protocol/caller.ts';
import type { FrontendMessage, Message, StepPlan, Work } from '../protocol/messages.ts';
import { Codec } from '../protocol/wire.ts';
import type { Act } from '../runtime/cast.ts';
import { Directory } from '../runtime/directory.ts';
import { SeededRandom } from '../runtime/seeded-random.ts';
import { VirtualHost } from '../runtime/virtual-host.ts';
import { ASCEND_910C_DIE, rooflineStep } from '../simulate/roofline.ts';
import { Recorder } from '../trace/recorder.ts';
import { type RunHeader, runHeader } from '../trace/run-header.ts';
import type { Areas } from '../xccl/areas.ts';
import { birthOf, spawnExecutors } from './births.ts';
import type { ControlStats } from './control.ts';
import { loadWeights, type ProgressReport } from './weights.ts';

export type VirtualOptions = PlanOptions & {
  readonly folder: string;
  readonly seed: number;
  readonly kernels: 'real' | 'hash';
  readonly max_queued: number;
  /** The trace to write, if any. */
  readonly record: string | undefined;
};

/** Within a thread a message only waits for its turn. */
const NEAR_MESSAGE_NS = 200;
/** A launch that computes nothing for a sequence: freeing slots, reading counters. */
const SMALL_WORK_NS = 1_000;
/** Delays are up to a half longer, by chance: so another seed is another interleaving. */
const JITTER = 0.5;
const NS_PER_US = 1_000;
/** Dispatches that an NPU's experts serve before the next NPU's do. */
const DISPATCHES_PER_TURN = 64;

/** The model, however it is computed: a plan, its memory, and each NPU's arithmetic. */
type Machine = { readonly plan: AnyPodPlan; readonly space: AddressSpace; readonly arithmetics: readonly Arithmetic[] };

/** Weights of the hash model have a version, of which there is one. */
const WEIGHT_VERSION = 1;

async function realMachine(checkpoint: Checkpoint, options: PlanOptions, onProgress: OnProgress): Promise<Machine> {
  const module = await loadKernelModule();
  const plan = planPod(checkpoint, options);
  const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
  await loadWeights(checkpoint, plan, space, module, onProgress);
  const kernels = space.memories.map((memory) => instantiateKernels(module, memory));
  return { plan, space, arithmetics: plan.layouts.map((layout) => new Forward(plan.config, layout, kernels[segmentOf(layout.base)] as Kernels)) };
}

function hashMachine({ config }: Checkpoint, options: PlanOptions): Machine {
  const plan = planHashPod(config, options);
  const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
  for (const layout of plan.layouts) loadHashWeights(plan, layout, space, WEIGHT_VERSION);
  return { plan, space, arithmetics: plan.layouts.map((layout) => new HashForward(plan.config, layout, space)) };
}

type OnProgress = (report: ProgressReport) => Promise<void>;

export type VirtualPorts = {
  readonly tell: (message: PodToCaller) => void;
  readonly onProgress: OnProgress;
};

function headerOf({ seed, kernels, max_queued }: VirtualOptions, checkpoint: Checkpoint, { npus, workers, options }: AnyPodPlan): RunHeader {
  const { kv_blocks, kv_block_size, max_batch_tokens, max_batch_requests } = options;
  return runHeader({
    clock: 'virtual',
    seed,
    kernels,
    model: { name: checkpoint.config.name, digest: modelDigest(checkpoint) },
    npus,
    workers,
    options: { kv_blocks, kv_block_size, max_batch_tokens, max_batch_requests, max_queued },
  });
}

export class VirtualControl {
  readonly config: ModelConfig;
  readonly plan: AnyPodPlan;
  readonly host: VirtualHost;
  readonly frontend: FrontendProcess;
  readonly tokenizer: Tokenizer;
  readonly parameters: number;
  readonly #space: AddressSpace;
  readonly #npus: Npus;
  readonly #programs: readonly StepProgram<Arithmetic>[];
  readonly #loads: ExpertLoads;
  readonly #directory: Directory;
  readonly #codec = new Codec();
  readonly #device = ASCEND_910C_DIE;
  readonly #step_ns: (plan: StepPlan) => number;
  readonly #recorder: Recorder | null;
  /** What the work at hand takes. */
  #work_ns = SMALL_WORK_NS;

  static async create(options: VirtualOptions, ports: VirtualPorts): Promise<VirtualControl> {
    const tokenizer = await loadTokenizer(options.folder);
    using checkpoint = openCheckpoint(options.folder);
    const planOptions = { ...options, has_rings: false };
    const machine = options.kernels === 'hash' ? hashMachine(checkpoint, planOptions) : await realMachine(checkpoint, planOptions, ports.onProgress);
    return new VirtualControl(options, checkpoint, machine, tokenizer, ports);
  }

  private constructor(options: VirtualOptions, checkpoint: Checkpoint, machine: Machine, tokenizer: Tokenizer, ports: VirtualPorts) {
    const { seed, max_queued, kernels } = options;
    const { plan, space, arithmetics } = machine;
    this.config = checkpoint.config;
    this.plan = plan;
    this.tokenizer = tokenizer;
    this.parameters = parametersOf(checkpoint);
    this.#space = space;
    this.#directory = new Directory(plan.topology);
    this.#loads = new ExpertLoads(plan, space, this.#directory);
    this.#step_ns = rooflineStep(this.config, plan.npus, this.#device);
    const recorder = options.record === undefined ? null : new Recorder(options.record, headerOf(options, checkpoint, plan));
    this.#recorder = recorder;
    this.host = new VirtualHost({
      birthOf,
      hands: new Map([['frontend', (_to: Address, message: Message) => this.frontend.receive(message as FrontendMessage)]]),
      onUnexpected: () => {},
      costs: { message_ns: (to, from, message) => this.#message_ns(to, from, message), jitter: JITTER },
      random: new SeededRandom(seed),
      launch: (npu, work, cause) => this.#launch(npu, work, cause),
      ...(recorder && { witness: (act: Act) => recorder.record(act, Math.floor(this.host.now_ns / NS_PER_US)) }),
    });
    this.frontend = new FrontendProcess(this.config, tokenizer, {
      send: (to, from, message) => this.host.send(to, from, message),
      tellCaller: ports.tell,
      ...(kernels === 'hash' && { checkSampling: checkHashSampling }),
    });
    const areas = plan.dies.map((_, die) => areasOfDie(plan, die));
    this.#npus = new Npus({
      plan,
      space,
      directory: this.#directory,
      // Who waits for a peer is polled until it has its answers: nobody needs to be told.
      surroundings: { space, areasOf: (die) => areas[die] as Areas, arrive: () => {}, now_ms: this.host.clock.now_ms },
      arithmetics,
      host: {
        spawn: (address, birth) => this.host.spawn(address, birth),
        send: (to, from, message) => this.host.send(to, from, message),
        complete: (npu, message, cause) => this.host.complete(npu, message, cause, this.#work_ns),
      },
    });
    this.#programs = [...this.#npus.programs.values()];
    spawnExecutors((address, birth) => this.host.spawn(address, birth), plan, max_queued);
    this.#npus.spawn();
  }

  stats(): ControlStats {
    return {
      npus: this.#npus.report(this.host.cast),
      // No threads, so no rings.
      links: [],
      threads: [],
      regions: this.#space.table.report(),
      expert_loads: this.#loads.table(),
      ...this.frontend.report(),
      unexpected: [...this.host.cast.unexpected.keys()],
      actors: this.host.cast.actors,
    };
  }

  /** Nothing happens any more. */
  close(): void {
    this.#recorder?.close();
  }

  /** Requests that have not ended, and where they are. */
  waiting(): string[] {
    return this.frontend.output.open_ids().map((id) => {
      const request = address('request', id);
      return `${request}, which is ${this.host.cast.stateOf(request)}`;
    });
  }

  /** Lets the next event happen, and its tokens go out. False: nothing is left to happen. */
  step(): boolean {
    const happened = this.host.step();
    this.frontend.output.flush();
    return happened;
  }

  #launch(npu: Address, work: Work, cause: number): void {
    this.#work_ns = work.kind === 'step' ? this.#step_ns(work.plan) : SMALL_WORK_NS;
    this.#npus.launch(npu, work, cause);
    const program = this.#npus.programs.get(idOf(npu));
    if (work.kind === 'step' && program !== undefined) this.#compute(program);
  }

  /** A step from its beginning to its end, with the other NPUs' experts serving it. */
  #compute(program: StepProgram<Arithmetic>): void {
    while (program.isRunning && this.#npus.poll(program, false) !== 'done') for (const peer of this.#programs) peer.serve(DISPATCHES_PER_TURN);
  }

  #message_ns(to: Address, from: Address, message: Message): number {
    if (this.#directory.threadOf(to) === this.#directory.threadOf(from)) return NEAR_MESSAGE_NS;
    const { link_latency_ns, link_bytes_per_s } = this.#device;
    return link_latency_ns + Math.ceil((this.#codec.pack(message).bytes * 1e9) / link_bytes_per_s);
  }
}
