/**
 * The whole pod on one thread and a virtual clock: the live pod's actors, addresses and memory, without its threads, rings and timers.
 * Kernels compute when they are launched; what they found arrives when the device would have been done.
 * @module
 */
import { fetchTime_us } from '../../actors/policies/cache-costs.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { Admission } from '../fabric/admission.ts';
import { ExpertLoads } from '../flowserve/experts/expert-loads.ts';
import { expertPlaces } from '../flowserve/experts/expert-places.ts';
import { FrontendProcess } from '../flowserve/frontend/frontend-process.ts';
import { type OutputProcess, outputProcesses } from '../flowserve/frontend/output-process.ts';
import { checkHashSampling } from '../flowserve/hash-model/hash-sampler.ts';
import { type AnyPodPlan, recordTableOf } from '../flowserve/pod-plan.ts';
import { Claims } from '../flowserve/records/claims.ts';
import { DeliveredRecords } from '../flowserve/records/delivered-records.ts';
import { RequestRecords } from '../flowserve/records/request-records.ts';
import { attendedBy, WARM_SHAPES, type WarmShape } from '../flowserve/steps/warm-up.ts';
import { type Checkpoint, openCheckpoint, parametersOf } from '../model/checkpoint.ts';
import type { ModelConfig } from '../model/config.ts';
import { layersInMemory } from '../model/moe-layers.ts';
import { loadTokenizer, type Tokenizer } from '../model/tokenizer.ts';
import { type Address, address, idOf, type Role } from '../protocol/address.ts';
import type { StepSample } from '../protocol/balancing.ts';
import type { KvEventPage } from '../protocol/kv-events.ts';
import type { ControlMessage, FrontendMessage, Message, Work } from '../protocol/messages.ts';
import type { OutputMessage } from '../protocol/output.ts';
import type { StepPlan } from '../protocol/steps.ts';
import { firstGroups, leaderOf, type NpuPlace } from '../protocol/topology.ts';
import type { Transfer, TransferMessage } from '../protocol/transfers.ts';
import { Codec } from '../protocol/wire.ts';
import type { Act, Mail } from '../runtime/cast.ts';
import { Directory, ON_CONTROL } from '../runtime/directory.ts';
import { SeededRandom } from '../runtime/seeded-random.ts';
import { VirtualHost } from '../runtime/virtual-host.ts';
import { ASCEND_910C_DIE, ROCE, rooflineExpert, type StepTime } from '../simulate/roofline.ts';
import { endInspection, InspectionEvents } from '../trace/inspection-events.ts';
import { isBackground } from './background-timers.ts';
import { birthOf, expertMapsOf, roleSwitchesOf } from './births.ts';
import { buildMachine, type Machine } from './build-machine.ts';
import { withCacheCosts } from './cache-costs.ts';
import type { ControlStats, ExpertsReport } from './control-handle.ts';
import { DomainSteps, type WaitingStep } from './domain-steps.ts';
import { balancingReports, Rebalances } from './expert-balancing.ts';
import { LayerTimes, type Link } from './layer-times.ts';
import { expertLosses } from './lost-experts.ts';
import { MachineNpus } from './machine.ts';
import { VirtualRecordings } from './recording.ts';
import { ScaleRequests } from './scale-requests.ts';
import { StepCosts } from './step-costs.ts';
import { unplacedTasks } from './unplaced-tasks.ts';
import { virtualLinkTerms } from './virtual-link-terms.ts';
import { toControl } from './virtual-messages.ts';
import type { VirtualOptions, VirtualPorts } from './virtual-options.ts';
import { VirtualWorkers } from './virtual-workers.ts';

/** Within a thread a message only waits for its turn. */
const NEAR_MESSAGE_NS = 200;
/** A launch that computes nothing for a sequence: freeing slots, reading counters. */
const SMALL_WORK_NS = 1_000;
/** Delays are up to a half longer, by chance: so another seed is another interleaving. */
const JITTER = 0.5;
const NS_PER_US = 1_000;
/** Which job executor takes a request is drawn from a stream of its own. */
const JOB_EXECUTORS = 2;

/** A sequence's part of a step, beside what it computes. */
const ALONE = { first_block: 0, blocks: [], shared: 0, generated: 0, samples: false, drafts: 0, foresees: -1, attach: null, output: [] } as const;

export class VirtualControl {
  readonly config: ModelConfig;
  readonly plan: AnyPodPlan;
  readonly rebalances = new Rebalances();
  readonly host: VirtualHost;
  readonly frontend: FrontendProcess;
  readonly scale: ScaleRequests;
  readonly workers: VirtualWorkers;
  readonly directory: Directory;
  readonly npus: MachineNpus;
  readonly space: AddressSpace;
  /** KV that nobody wants any more, or whose lease is over, is on its way so long at most: it lay there when it was asked for, and cannot be called off as live. */
  slowestMove_ns = 0;
  /** What the caller's side keeps of calls. */
  readonly delivered: DeliveredRecords;
  readonly tokenizer: Tokenizer;
  readonly parameters: number;
  readonly #outputs: Map<Address, OutputProcess>;
  readonly #loads: ExpertLoads;
  readonly #codec = new Codec();
  readonly #device = ASCEND_910C_DIE;
  readonly #layers: LayerTimes;
  readonly #stepCosts: StepCosts;
  /** Microseconds that experts would have computed. */
  #experts_us = 0;
  readonly #recordings: VirtualRecordings;
  #inspection: InspectionEvents | null;
  /** When what the work at hand finds is there. */
  #done_ns = 0;
  /** By NPU: when its last step is done. */
  readonly #steps_done_ns = new Map<Address, number>();
  readonly #domains: DomainSteps;
  readonly #closeMachine: () => void;
  /** By DP group: when the copies between its tiers end that it has asked for; and how long the one at hand takes. */
  readonly #swaps_done_ns = new Map<Address, number>();
  #swap_ns: number | null = null;
  /** What the transfer at hand goes by. */
  #link: Link = ASCEND_910C_DIE;

  static async create(options: VirtualOptions, ports: VirtualPorts): Promise<VirtualControl> {
    using own = new DisposableStack();
    const { tokenizer, checkpoint } = ports.model ?? { tokenizer: await loadTokenizer(options.folder), checkpoint: own.use(openCheckpoint(options.folder)) };
    const planned = { ...options, records_routing: options.record_routing !== undefined };
    const machine = await buildMachine(checkpoint, options.kernels, withCacheCosts(planned, checkpoint.config, ASCEND_910C_DIE), ports.onProgress);
    try {
      return new VirtualControl(options, checkpoint, machine, tokenizer, ports);
    } catch (error) {
      machine.close();
      throw error;
    }
  }

  private constructor(options: VirtualOptions, checkpoint: Checkpoint, machine: Machine, tokenizer: Tokenizer, ports: VirtualPorts) {
    const { seed, kernels } = options;
    const { plan, space } = machine;
    this.#closeMachine = machine.close;
    this.config = checkpoint.config;
    this.plan = plan;
    this.tokenizer = tokenizer;
    this.parameters = parametersOf(checkpoint);
    this.space = space;
    this.directory = new Directory(plan.hosting);
    this.#loads = new ExpertLoads(plan, space, this.directory);
    const { draftLayers } = plan.config;
    const drafting = draftLayers === undefined ? this.config : { ...this.config, draftLayers };
    this.#stepCosts = new StepCosts(drafting, plan.hosting.deployment, this.#device, plan.options, (executor) => this.scale.servingNow(executor));
    const recordings = new VirtualRecordings({ clock: 'virtual', ...options }, { checkpoint, plan }, ports.disk);
    this.#recordings = recordings;
    this.#domains = new DomainSteps(plan.options, {
      now_ns: () => this.host.now_ns,
      later: (delay_ns, act) => this.host.later(delay_ns, act),
      durationOf: ({ npu, plan: step }) => this.#stepOf(npu)(step),
      begin: (steps, done_ns) => this.#beginTogether(steps, done_ns),
    });
    this.#layers = new LayerTimes(layersInMemory(plan.config), () => this.host.now_ns);
    const { inspect } = ports;
    this.#inspection = inspect === undefined ? null : new InspectionEvents(inspect);
    this.host = new VirtualHost({
      birthOf,
      hands: new Map<Role, (mail: Mail, act: number) => void>([
        ['frontend', ({ message, from }) => this.frontend.receive(message as FrontendMessage, from)],
        ['control', ({ message }) => toControl(message as ControlMessage, this)],
        ['output', ({ to, message }, act) => this.#outputs.get(to)?.receive(message as OutputMessage, act)],
      ]),
      onUnexpected: () => {},
      costs: { message_ns: (to, from, message) => this.#message_ns(to, from, message), jitter: JITTER },
      random: new SeededRandom(seed),
      launch: (npu, work, cause) => this.#launch(npu, work, cause),
      transfer: (group, work, cause) => this.#transfer(group, work, cause),
      claim: (actor, claim, cause) => {
        for (const message of claims.perform(actor, claim)) this.host.complete(actor, message, cause, NEAR_MESSAGE_NS);
      },
      links: virtualLinkTerms(this.directory, this.#codec, ({ to, from }) => this.workers.loseOfLink(to, from)),
      isBackground,
      begins_ns: ports.begins_ns,
      ...((recordings.acts || inspect) && { witness: (act: Act) => this.#show(act) }),
    });
    this.scale = new ScaleRequests(plan, this.host, { space, directory: this.directory, now_ms: this.host.clock.now_ms, wake: () => {} });
    const table = recordTableOf(plan, space);
    this.delivered = new DeliveredRecords(table);
    const newOutputs = (npus: readonly number[]): Map<Address, OutputProcess> =>
      outputProcesses(plan, npus, tokenizer, {
        show: (from, message) => ports.tell(message, idOf(from)),
        send: (to, from, message, cause) => this.host.send(to, from, message, cause),
      });
    this.#outputs = newOutputs([...plan.layouts.keys()]);
    const shared = { control: space.control, records: table, directory: this.directory, now_ms: this.host.clock.now_ms };
    const claims = new Claims({ ...shared, progressOf: (member) => ({ word: this.npus.progressOf(member), share: 100 }) });
    this.frontend = new FrontendProcess(this.config, tokenizer, {
      random: new SeededRandom(seed, JOB_EXECUTORS),
      records: new RequestRecords(table),
      isAlive: (executor, life) => space.control.lifeOf(this.directory.hostOf(executor)) === life,
      send: (to, from, message, cause) => this.host.send(to, from, message, cause),
      tellCaller: (message) => ports.tell(message, -1),
      now_ms: () => this.host.clock.now_ms(),
      firstGroups: firstGroups(plan.hosting.deployment),
      shares_prefixes: plan.options.prefix_sharing,
      kv_positions: plan.options.kv_blocks * plan.options.kv_block_size,
      ...(kernels === 'hash' && { checkSampling: checkHashSampling }),
    });
    this.npus = new MachineNpus(machine, this.directory, {
      now_ms: this.host.clock.now_ms,
      host: {
        spawn: (address, birth) => this.host.spawn(address, birth),
        send: (to, from, message) => this.host.send(to, from, message),
        // What waited for a lost peer is later than it was to be.
        complete: (npu, message, cause) => this.host.complete(npu, message, cause, Math.max(0, this.#done_ns - this.host.now_ns)),
        tellTransfer: (group, message, cause, bytes) => this.#tellTransfer(group, message, cause, bytes),
      },
      samplesOf: (npu) => WARM_SHAPES.map((shape) => this.#sampleOf(npu, shape)),
      onLayers: (npu, step, layers) => this.#reach(npu, step, layers),
      onRouted: recordings.onRouted,
      onDamage: (worker, { message }) => this.workers.loseWeights(worker, message),
    });
    this.workers = new VirtualWorkers({
      ...{ plan, space, directory: this.directory, host: this.host, npus: this.npus },
      forget: (npus) => {
        for (const npu of npus) this.#forget(address('npu', npu));
        for (const [self, output] of newOutputs(npus)) this.#outputs.set(self, output);
      },
    });
    for (const { self, birth } of [...expertMapsOf(plan), ...roleSwitchesOf(plan)]) this.host.spawn(self, birth);
    for (const worker of [ON_CONTROL, ...Array.from({ length: plan.workers }, (_, worker) => worker)]) this.workers.spawnControllers(worker);
    this.npus.spawn();
  }

  /** Choices that admission counts. */
  get choicesHeld(): number {
    return new Admission(this.space.control).held;
  }

  /** @throws `invalid_request` for a group that there is not */
  kvEvents(dp_group: number, from: number): KvEventPage {
    const worker = this.directory.workerOfNpu(leaderOf(this.plan.hosting.deployment, dp_group));
    return { ...this.npus.kvEvents(this.host.cast, dp_group, from), life: this.space.control.lifeOf(worker) };
  }

  /** `measure`: what their batches take from now on, too, as the cost model has it. */
  experts(measure: boolean): ExpertsReport {
    const expert_ns = rooflineExpert(this.config, this.#device);
    const clock = (tokens: number): number => (this.#experts_us += tokens === 0 ? 0 : expert_ns(tokens) / NS_PER_US);
    const places = expertPlaces(this.plan, this.space, this.directory);
    return {
      loads: this.#loads.byExecutor(),
      places,
      reports: this.npus.expertReports(measure ? clock : null),
      balancing: balancingReports(this.host.cast, this.plan, this.host.clock.now_ms()),
    };
  }

  stats(): ControlStats {
    const npus = this.npus.report(this.host.cast);
    return {
      ...{ npus, loops: this.workers.loops.report(this.host.clock.now_ms(), npus) },
      // No threads, so no rings.
      ...{ links: [], threads: [], garbage: [] },
      kv_links: this.npus.transfersReport(),
      regions: this.space.table.report(),
      scaling: this.scale.stats(),
      expert_loads: this.#loads.table(),
      expert_balancing: balancingReports(this.host.cast, this.plan, this.host.clock.now_ms()),
      ...{ ...expertLosses(this.host.cast, this.plan), ...unplacedTasks(this.host.cast, this.plan) },
      ...{ suspicions: this.workers.suspicions.report(), recoveries: [] },
      unexpected: [...this.host.cast.unexpected.keys()],
      actors: this.host.cast.actors,
    };
  }

  /** Nothing happens any more. */
  close(): void {
    this.#recordings.close();
    this.#closeMachine();
  }

  /** Requests that have not ended, and where they are. */
  waiting(): string[] {
    return [...this.frontend.open.values()].map(({ id }) => `${address('request', id)}, which is ${this.host.cast.stateOf(address('request', id))}`);
  }

  /** Lets the next event happen. False: nothing is left to happen. */
  step(): boolean {
    return this.host.step();
  }

  #show(act: Act): void {
    const time_us = Math.floor(this.host.now_ns / NS_PER_US);
    this.#recordings.acts?.record(act, time_us);
    try {
      this.#inspection?.tell(act, `0/${act.number}`, time_us);
    } catch (error) {
      this.#inspection = null;
      endInspection(error);
    }
  }

  #launch(npu: Address, work: Work, cause: number): void {
    if (work.kind === 'step') {
      if (this.#domains.launch({ npu, plan: work.plan, cause })) return;
      // One that was launched ahead begins when the step before it has ended.
      const began_ns = Math.max(this.host.now_ns, this.#steps_done_ns.get(npu) ?? 0);
      this.#note(npu, work.plan, began_ns, began_ns + this.#stepOf(npu)(work.plan));
    } else this.#done_ns = this.host.now_ns + SMALL_WORK_NS;
    if (work.kind === 'reset') this.#forget(npu);
    this.npus.launch([{ npu, work, cause }]);
  }

  #forget(npu: Address): void {
    this.#steps_done_ns.delete(npu);
    this.#layers.reset(npu);
    this.#domains.reset(npu);
  }

  /** The steps of a domain's iteration. */
  #beginTogether(steps: readonly WaitingStep[], done_ns: number): void {
    for (const { npu, plan } of steps) this.#note(npu, plan, this.host.now_ns, done_ns);
    this.npus.launch(steps.map(({ npu, plan, cause }) => ({ npu, work: { kind: 'step', plan }, cause })));
  }

  #note(npu: Address, planned: StepPlan, began_ns: number, done_ns: number): void {
    const plan = this.npus.resolved(npu, planned);
    this.#done_ns = done_ns;
    // What disturbs a step disturbs its drafts.
    const { step_ns, drafts_ns } = this.#timesOf(npu, plan);
    const draft_us = (((done_ns - began_ns) / (step_ns + drafts_ns)) * drafts_ns) / NS_PER_US;
    this.npus.timesOf(npu).add(plan, began_ns / NS_PER_US, done_ns / NS_PER_US, draft_us);
    this.#steps_done_ns.set(npu, done_ns);
    if (this.plan.options.kv_transfer === 'layer') this.#layers.begin(npu, plan.step, { began_ns, done_ns });
  }

  /** What the cost model says of a step that a live NPU would measure. */
  #sampleOf(npu: Address, shape: WarmShape): StepSample {
    const entry = { slot: 0, start: shape.from, tokens: new Array<number>(shape.tokens).fill(0), ...ALONE };
    const us = this.#stepOf(npu)({ step: 1, after: 0, entries: [entry], detach: [] }) / NS_PER_US;
    return { tokens: shape.tokens, attended: attendedBy(shape), us };
  }

  /** Blocks of a group move between its tiers one copy after the other. */
  #transfer(group: Address, work: Transfer, cause: number): void {
    const costs = this.plan.options.cache_costs;
    if (costs !== null && (work.kind === 'swap-out' || work.kind === 'swap-in')) {
      const began_ns = Math.max(this.host.now_ns, this.#swaps_done_ns.get(group) ?? 0);
      const done_ns = began_ns + Math.ceil(fetchTime_us(costs, 'dram', work.to.blocks.length) * NS_PER_US);
      this.#swaps_done_ns.set(group, done_ns);
      this.#swap_ns = done_ns - this.host.now_ns;
    }
    this.#link = this.#linkOf(work.kind);
    if (work.kind === 'pull' || (work.kind === 'offer' && work.step > 0)) this.#layers.beginTransfer(group, work.id);
    this.npus.transfer(group, work, cause);
    this.#swap_ns = null;
  }

  #tellTransfer(group: Address, message: TransferMessage, cause: number, bytes: number): void {
    const moves_ns = this.#swap_ns ?? this.#layers.untilMoved_ns(group, message.id, bytes, this.#link);
    this.slowestMove_ns = Math.max(this.slowestMove_ns, moves_ns);
    this.host.complete(group, message, cause, moves_ns);
    if (message.type !== 'OFFERED') this.#layers.endTransfer(group, message.id);
  }

  #linkOf(kind: Transfer['kind']): Link {
    const { kv_fabric, link_bytes_per_s } = this.plan.options;
    const link = kind === 'pull' && kv_fabric === 'tcp' ? ROCE : this.#device;
    return link_bytes_per_s === undefined ? link : { ...link, link_bytes_per_s };
  }

  /** A step's kernels compute at once; its layers come when the device would have them. */
  #reach(npu: number, step: number, layers: number): void {
    if (this.plan.options.kv_transfer === 'request') return;
    // Its worker's controllers may be lost and begin anew meanwhile: that is nothing to it.
    const program = this.npus.programOf(npu);
    this.host.later(this.#layers.untilLayers_ns(address('npu', npu), step, layers), () => {
      if (this.npus.programOf(npu) !== program) return;
      this.#link = this.#linkOf('pull');
      this.npus.reach(npu, step, layers);
    });
  }

  #stepOf(npu: Address): (plan: StepPlan) => number {
    const step_ns = (plan: StepPlan): number => {
      const { step_ns, drafts_ns } = this.#timesOf(npu, this.npus.resolved(npu, plan));
      return step_ns + drafts_ns;
    };
    const { disturbance } = this.host;
    return disturbance === null ? step_ns : (plan) => disturbance.step_ns(npu, step_ns(plan));
  }

  #timesOf(npu: Address, resolved: StepPlan): StepTime {
    const { executor } = this.plan.hosting.deployment.npus[idOf(npu)] as NpuPlace;
    return this.#stepCosts.timesOf(executor, resolved);
  }

  #transfer_ns(bytes: number, { link_latency_ns, link_bytes_per_s }: typeof ROCE = this.#device): number {
    return link_latency_ns + Math.ceil((bytes * 1e9) / link_bytes_per_s);
  }

  #message_ns(to: Address, from: Address, message: Message): number {
    if (this.directory.threadOf(to) === this.directory.threadOf(from)) return NEAR_MESSAGE_NS;
    return this.#transfer_ns(this.#codec.pack(message).bytes);
  }
}
