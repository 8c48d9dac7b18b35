/**
 * The NPUs of one host, live or virtual: their step programs, their actors, and what those have launched.
 * @module
 */
import { dpGroup } from '../../actors/dp-group.ts';
import { npu as npuMachine } from '../../actors/npu.ts';
import type { ExpertMap } from '../../actors/policies/expert-placement/expert-map.ts';
import type { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { type Address, address, expertAddress, idOf } from '../protocol/address.ts';
import type { StepSample } from '../protocol/balancing.ts';
import { launchDone, launchFailed, loadsCounted, npuReady, resetDone, servedDispatches, started } from '../protocol/constructors.ts';
import { assert, invariantBroken, toErrorRecord, UnsoundMemory } from '../protocol/errors.ts';
import { expertWorkDone } from '../protocol/expert-maps.ts';
import type { KvEventBatches } from '../protocol/kv-events.ts';
import type { Message, Work } from '../protocol/messages.ts';
import type { StepPlan } from '../protocol/steps.ts';
import type { ExpertReport, NpuReport } from '../protocol/threads.ts';
import type { DpGroupPlace, Executor, NpuPlace } from '../protocol/topology.ts';
import type { TransferMessage } from '../protocol/transfers.ts';
import type { Birth, Cast } from '../runtime/cast.ts';
import type { Directory } from '../runtime/directory.ts';
import { Endpoint, type Surroundings } from '../xccl/endpoint.ts';
import type { Checksum } from './distflow/checksum.ts';
import type { LinkClusterOptions } from './distflow/link-cluster.ts';
import { expertsAt, spawnExperts } from './experts/expert-births.ts';
import { ExpertLoads } from './experts/expert-loads.ts';
import { ExpertMoves } from './experts/expert-moves.ts';
import { expertReports } from './experts/expert-reports.ts';
import { firstMap } from './experts/expert-routing.ts';
import type { ExpertService } from './experts/expert-service.ts';
import type { ServiceClock } from './experts/expert-times.ts';
import { type OnRouted, RoutedSteps } from './experts/routed-steps.ts';
import type { Arithmetic, ExpertArithmetic } from './forward/arithmetic.ts';
import { newExchange } from './forward/narrow-rows.ts';
import { KvDamage } from './kv/kv-sums.ts';
import { KvTransfers } from './kv/kv-transfers.ts';
import { type ExpertLayout, exchangeOptions } from './layouts/step-layout.ts';
import { npuReport } from './npu-report.ts';
import type { AnyPodPlan } from './pod-plan.ts';
import { schedulerLimits } from './scheduler-limits.ts';
import { StepCauses } from './steps/step-causes.ts';
import { StepProgram } from './steps/step-program.ts';
import { StepClock, type StepTimes } from './steps/step-times.ts';
import { newExpertService } from './steps/turns.ts';
import { StandbyWeights } from './weights/replicated-weights.ts';
import type { ReadExpert } from './weights/stored-experts.ts';
import { WeightBroadcasts } from './weights/weight-broadcasts.ts';
import { WeightChecks } from './weights/weight-checks.ts';

/** Of one answer: some hundred kilobytes at most. */
const KV_EVENT_BATCHES_READ_MAX = 128;

export type NpusOptions = {
  readonly plan: AnyPodPlan;
  readonly space: AddressSpace;
  readonly directory: Directory;
  readonly surroundings: Surroundings;
  /** Of this host's NPUs, laid out on the dies that they have now. */
  readonly arithmetics: readonly (Arithmetic | ExpertNpuArithmetic)[];
  /** In the same order; missing: those that the dies have now. */
  readonly die_epochs?: readonly number[];
  /** What proves that KV arrived whole. */
  readonly checksum: Checksum;
  readonly readExpert: ReadExpert;
  /** What joins task executors. Missing: the memory that they share. */
  readonly network?: LinkClusterOptions['network'];
  readonly host: NpusHost;
  /** False: how long a step takes is not how long it is computed here. Then whoever knows enters it in `timesOf`. */
  readonly measuresSteps: boolean;
  /** Given what the gates of each step have chosen; missing: nobody records it. */
  readonly onRouted?: OnRouted | undefined;
  /** Before anybody asks an NPU that has experts only. */
  readonly warmExperts: (service: ExpertService) => void;
  /** What steps take, measured before the first of them. */
  readonly samplesOf: (program: StepProgram<Arithmetic>) => readonly StepSample[];
  /** Told as a step's layers are computed, in place of who waits for their KV: then that is for whoever knows when they are there. */
  readonly onLayers?: ((npu: number, step: number, layers: number) => void) | undefined;
};

/** What the NPUs need of the host of their actors. */
export type NpusHost = {
  readonly spawn: (address: Address, birth: Birth) => void;
  readonly send: (to: Address, from: Address, message: Message) => void;
  /** An NPU has done what `cause` launched. */
  readonly complete: (npu: Address, message: Message, cause: number) => void;
  /** A group's transfer came to something; `bytes` were moved for it. */
  readonly tellTransfer: (group: Address, message: TransferMessage, cause: number, bytes: number) => void;
};

/** Of an expert NPU. */
export type ExpertNpuArithmetic = ExpertArithmetic & { readonly layout: ExpertLayout };

export class Npus {
  /** By NPU that runs steps, in their order. */
  readonly programs: ReadonlyMap<number, StepProgram<Arithmetic>>;
  /** What each NPU computes for others, in their order. */
  readonly services: readonly ExpertService[];
  readonly transfers: KvTransfers;
  /** Weights of experts on their way. */
  readonly moves: ExpertMoves;
  /** Of NPUs whose groups come to take part, or to stand by. */
  readonly standby: StandbyWeights;
  readonly weights: WeightChecks;
  /** NPUs of other hosts (lost-peers.ts). */
  readonly lost = new Set<number>();
  readonly #plan: AnyPodPlan;
  /** By task executor: what its slots held at first. */
  readonly #maps: readonly ExpertMap[];
  readonly #directory: Directory;
  readonly #loads: ExpertLoads;
  readonly #host: NpusHost;
  readonly #causes = new StepCauses();
  readonly #stepClock: StepClock;
  readonly #samplesOf: NpusOptions['samplesOf'];
  readonly #routed: RoutedSteps | null;
  readonly #now_ms: () => number;
  readonly #warmExperts: NpusOptions['warmExperts'];
  /** Expert NPUs that have told their actors that they serve, which have not reported since. */
  readonly #served = new Set<number>();
  /** NPUs with a step that failed: until they are reset, nothing else begins there. */
  readonly #failed = new Set<number>();
  /** By NPU: what its step is to throw; null: nobody breaks anything. */
  #planted: Map<number, (() => Error)[]> | null = null;
  /** By expert: the tokens that were reported. */
  readonly #reported = new Map<Address, number>();

  constructor(options: NpusOptions) {
    const { plan, space, directory, surroundings, arithmetics, die_epochs, checksum, readExpert, network = null, host, measuresSteps, samplesOf } = options;
    const onLayers = options.onLayers ?? ((npu: number, step: number, layers: number) => this.transfers.reach(npu, step, layers));
    this.#samplesOf = samplesOf;
    this.#routed = options.onRouted === undefined ? null : new RoutedSteps(space, options.onRouted);
    this.#now_ms = surroundings.now_ms;
    this.#warmExperts = options.warmExperts;
    this.#stepClock = new StepClock(measuresSteps ? () => surroundings.now_ms() * 1000 : null);
    this.#plan = plan;
    this.#directory = directory;
    this.#loads = new ExpertLoads(plan, space, directory);
    this.#host = host;
    const dieOf = (npu: number): number => directory.dieOfNpu(npu);
    this.#maps = plan.hosting.deployment.executors.map((executor) => firstMap(plan.config, plan.options, executor));
    const programs = new Map<number, StepProgram<Arithmetic>>();
    this.services = arithmetics.map((arithmetic, index) => {
      const { npu } = arithmetic.layout;
      const exchange = newExchange(new Endpoint(dieOf(npu), surroundings, die_epochs?.[index]), arithmetic, exchangeOptions(plan.options, npu, checksum.rest));
      if (!('embed' in arithmetic)) return newExpertService(arithmetic, space, exchange, dieOf, this.lost);
      const program = new StepProgram(arithmetic, space, exchange, dieOf, {
        ...{ map: this.#mapOf(npu), lost: this.lost, speculative: plan.options.speculative },
        kv_checksum: plan.options.kv_checks === 'off' ? undefined : checksum,
        onLayers: (step, layers) => {
          if (this.transfers.lends(npu, step)) onLayers(npu, step, layers);
        },
        onDrafts: () => this.#stepClock.beginDrafts(npu),
      });
      programs.set(npu, program);
      return program.service;
    });
    this.programs = programs;
    const layouts = arithmetics.map(({ layout }) => layout);
    const broadcasts = new WeightBroadcasts({ directory, checksum, endpointOf: (npu) => this.#newEndpoint(npu, surroundings) });
    this.weights = new WeightChecks(plan.options, layouts, space, checksum, surroundings.now_ms);
    this.moves = new ExpertMoves({ plan, space, directory, checksum, broadcasts, readExpert, weights: this.weights }, this.#maps, programs, layouts);
    this.standby = new StandbyWeights({ plan, space, directory, broadcasts, arrive: (npu) => this.weights.arrive(npu) }, layouts);
    const owners = [...this.programs].map(([npu, { exchange, blocks, kvSums }]) => ({
      ...{ npu, die: exchange.endpoint.die, epoch: exchange.endpoint.epoch, blocks, kvSums },
    }));
    this.transfers = new KvTransfers(
      { plan, space, directory, checksum, network, now_ms: surroundings.now_ms, arrive: surroundings.arrive, tell: host.tellTransfer },
      owners,
    );
  }

  /** On the die, and of the life, that its steps go by. */
  #newEndpoint(npu: number, surroundings: Surroundings): Endpoint {
    const service = this.services.find((one) => one.npu === npu);
    assert(service, `npu/${npu} does not live here`);
    const { die, epoch } = service.exchange.endpoint;
    return new Endpoint(die, surroundings, epoch);
  }

  /** Brings NPUs, DP groups and experts to life. */
  spawn(): void {
    const { kv_lease_ms: lease_ms } = this.#plan.options;
    const limits = schedulerLimits(this.#plan);
    for (const service of this.services) {
      const { npu, self } = service;
      const place = this.#placeOf(npu);
      const program = this.programs.get(npu);
      const group = place.kind === 'attention' ? address('dp-group', place.group) : null;
      this.#host.spawn(self, { machine: npuMachine, input: { self, dp_group: group } });
      if (group !== null && place.kind === 'attention' && place.rank === 0)
        this.#host.spawn(group, {
          machine: dpGroup,
          input: { self: group, npus: this.#ranksOf(place.group), limits, lease_ms },
        });
      this.#host.send(self, self, started());
      spawnExperts(this.#plan, this.#directory, npu, this.#mapOf(npu), this.#host);
      // What was counted before is not news.
      for (const layer of this.#loads.layers) this.#newLoads(npu, layer, () => {});
      if (program === undefined) this.#warmExperts(service);
      this.#host.send(address('task-executor', place.executor), self, npuReady(npu, program === undefined ? [] : this.#samplesOf(program)));
      this.weights.guard(service.forward);
    }
  }

  /** Answers what has been asked of an NPU's experts, up to a bound; its actor hears of that once a reporting period. How many dispatches there were. */
  serve(service: ExpertService, limit: number): number {
    this.#stepClock.resume();
    const served = service.serve(limit);
    this.#stepClock.pause();
    const { npu, self } = service;
    if (served > 0 && !this.programs.has(npu) && !this.#served.has(npu)) {
      this.#served.add(npu);
      this.#host.complete(self, servedDispatches(), 0);
    }
    return served;
  }

  #mapOf(npu: number): ExpertMap {
    return this.#maps[this.#placeOf(npu).executor] as ExpertMap;
  }

  #executorOf(npu: number): Executor {
    return this.#plan.hosting.deployment.executors[this.#placeOf(npu).executor] as Executor;
  }

  #ranksOf(group: number): readonly Address[] {
    return (this.#plan.hosting.deployment.groups[group] as DpGroupPlace).npus.map((npu) => address('npu', npu));
  }

  #placeOf(npu: number): NpuPlace {
    return this.#plan.hosting.deployment.npus[npu] as NpuPlace;
  }

  /** Performs an NPU's work; a step is only begun, and goes on with `poll`. */
  launch(self: Address, work: Work, cause: number): void {
    const npu = idOf(self);
    if (work.kind === 'experts') {
      const { expert_map } = work;
      this.moves.perform(npu, work.work, (message) => this.#host.complete(self, expertWorkDone(expert_map, message), cause));
      return;
    }
    if (work.kind === 'furnish' || work.kind === 'send-weights' || work.kind === 'clear') {
      this.standby.perform(npu, work, (message) => this.#host.complete(self, message, cause));
      return;
    }
    if (work.kind === 'count-loads') {
      this.#served.delete(npu);
      this.#host.complete(self, this.#countLoads(npu), cause);
      return;
    }
    const program = this.programs.get(npu);
    if (program === undefined) invariantBroken(`${self} runs no steps here`);
    switch (work.kind) {
      case 'step':
        this.#launchStep(program, work.plan, cause);
        break;
      case 'release-slots':
        program.release(work.slots);
        break;
      case 'let-go':
        program.undone.letGo(work.step);
        break;
      case 'reset':
        program.reset();
        this.#failed.delete(npu);
        this.#causes.forget(npu);
        this.#host.complete(self, resetDone(), cause);
        break;
    }
  }

  #launchStep(program: StepProgram<Arithmetic>, plan: StepPlan, cause: number): void {
    const { npu } = program;
    if (this.#failed.has(npu)) return;
    this.#causes.launch(npu, cause, program.isRunning);
    if (program.isRunning) program.queue(plan);
    else this.#begin(program, plan.step, () => program.start(plan));
  }

  /** A step of it failed, and it was not reset yet. */
  hasFailed(npu: number): boolean {
    return this.#failed.has(npu);
  }

  /** The step that the NPU runs, or else its next one that nobody else has fail, throws what it is given then; unless the function is called that this returns. */
  failStep(npu: number, error: () => Error): () => void {
    this.#planted ??= new Map();
    const planted = this.#planted;
    planted.set(npu, [...(planted.get(npu) ?? []), error]);
    return () => void planted.set(npu, planted.get(npu)?.filter((one) => one !== error) ?? []);
  }

  #throwPlanted(npu: number): void {
    const error = this.#planted?.get(npu)?.shift();
    if (error !== undefined) throw error();
  }

  /** What its steps took so far. */
  timesOf(npu: number): StepTimes {
    return this.#stepClock.timesOf(npu);
  }

  #begin(program: StepProgram<Arithmetic>, step: number, start: () => void): void {
    try {
      start();
      this.transfers.begin(program.npu, step);
    } catch (error) {
      this.#fail(program, step, error);
    }
  }

  /**
   * Lets a step go on until it waits for its peers, or is done or has failed: then its NPU is told. A step that was launched ahead is polled for the first time
   * when the host has told and planned what it has to. That in the midst of the step instead, while peers compute, keeps them waiting in turn: as long as they
   * are in step they are done with theirs at the same time, and on 2 workers the pod loses a tenth of its tokens (docs/performance.md).
   */
  poll(program: StepProgram<Arithmetic>, isDeadlineDue: boolean): 'pending' | 'asked' | 'done' {
    const { step, self, npu } = program;
    if (this.#failed.has(npu)) return 'done';
    try {
      this.#stepClock.resume();
      if (!program.hasBegun) this.#stepClock.begin(npu);
      if (isDeadlineDue) program.checkDeadline();
      if (this.#planted !== null) this.#throwPlanted(npu);
      const poll = program.poll();
      if (poll.state === 'done') this.weights.endStep(npu);
      this.#stepClock.pause();
      if (poll.state !== 'done') return poll.state;
      this.#stepClock.end(npu, poll.plan);
      const times = this.timesOf(npu);
      this.#routed?.take(program.forward.config.moe, program.forward.layout, poll.plan, this.#now_ms() * 1000);
      this.#host.complete(self, launchDone(step, poll.outcomes, poll.digest, times.last_us, times.last_draft_us), this.#causes.take(npu));
    } catch (error) {
      // Of whatever else these weights compute more than a step would be wrong.
      if (error instanceof UnsoundMemory) throw error;
      this.#fail(program, step, error);
      return 'done';
    }
    if (program.next !== 0) this.#begin(program, program.next, () => program.startNext());
    return 'done';
  }

  #fail({ self, npu }: StepProgram<Arithmetic>, step: number, error: unknown): void {
    this.#failed.add(npu);
    const record = toErrorRecord(error);
    // A rank that was lost in the midst of it: then the step can be computed elsewhere; or it is no failure at all.
    const code = record.code === 'worker_lost' || record.code === 'undone' ? record.code : 'worker_failed';
    this.#host.complete(self, launchFailed(step, { ...record, code }, error instanceof KvDamage ? error.blocks : []), this.#causes.take(npu));
  }

  /** Tokens that reached an NPU's own experts since the last report, over all NPUs' counters. */
  #countLoads(npu: number): Message {
    const experts: Address[] = [];
    const tokens: number[] = [];
    for (const layer of this.#loads.layers)
      this.#newLoads(npu, layer, (self, news) => {
        experts.push(self);
        tokens.push(news);
      });
    return loadsCounted(experts, tokens);
  }

  #newLoads(npu: number, layer: number, tell: (expert: Address, tokens: number) => void): void {
    for (const id of expertsAt(this.#plan, npu)) {
      const self = expertAddress(this.#placeOf(npu).executor, layer, id);
      const total = this.#loads.of(this.#executorOf(npu), layer, id);
      // An NPU that moved to another die counts from 0 again.
      const news = total - Math.min(total, this.#reported.get(self) ?? 0);
      this.#reported.set(self, total);
      if (news > 0) tell(self, news);
    }
  }

  /** What has happened to a DP group's KV blocks. */
  kvEvents(cast: Pick<Cast, 'contextOf'>, dp_group: number, from: number): KvEventBatches {
    const { scheduler } = cast.contextOf(address('dp-group', dp_group)) as { scheduler: StepScheduler };
    return scheduler.cache.events.since(from, KV_EVENT_BATCHES_READ_MAX);
  }

  /** How the experts of this host's NPUs are; `clock`: what they are timed by from now on, null: as before. */
  expertReports(clock: ServiceClock | null): ExpertReport[] {
    return this.services.flatMap((service) => expertReports(service, this.#loads.layers, clock));
  }

  /** What there is to say of each NPU; `cast`: its actors. */
  report(cast: Pick<Cast, 'stateOf' | 'contextOf'>): NpuReport[] {
    return this.services.map(({ npu, self, exchange }): NpuReport => {
      // A group's scheduler is its first rank's to tell of.
      const place = this.#placeOf(npu);
      const leads = place.kind === 'attention' && place.rank === 0;
      const scheduler = leads ? (cast.contextOf(address('dp-group', place.group)) as { scheduler: StepScheduler }).scheduler : null;
      const state = cast.stateOf(self) ?? 'gone';
      const parts = { scheduler, blocks: this.programs.get(npu)?.blocks ?? null, exchange, times: this.timesOf(npu) };
      return npuReport(npu, state, this.transfers.openOf(npu), parts);
    });
  }
}
