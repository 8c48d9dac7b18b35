/**
 * All NPUs of a model on one thread, whoever asks it to compute: a pod on a virtual clock, or a replay that computes kernels again.
 * @module
 */

import { plainChecksum } from '../flowserve/distflow/checksum.ts';
import type { ExpertMoves } from '../flowserve/experts/expert-moves.ts';
import { firstMap } from '../flowserve/experts/expert-routing.ts';
import { DISPATCHES_PER_TURN, type ExpertService } from '../flowserve/experts/expert-service.ts';
import type { ServiceClock } from '../flowserve/experts/expert-times.ts';
import type { OnRouted } from '../flowserve/experts/routed-steps.ts';
import { mapInSlots } from '../flowserve/experts/slot-places.ts';
import type { Arithmetic } from '../flowserve/forward/arithmetic.ts';
import type { KvTransfers } from '../flowserve/kv/kv-transfers.ts';
import { noteLosses } from '../flowserve/lost-peers.ts';
import { Npus, type NpusHost } from '../flowserve/npus.ts';
import { areasOfDie } from '../flowserve/pod-plan.ts';
import type { StepProgram } from '../flowserve/steps/step-program.ts';
import type { StepTimes } from '../flowserve/steps/step-times.ts';
import { holdsPieces, type RestingLayout } from '../flowserve/weights/resting-weights.ts';
import { type Address, idOf, roleOf } from '../protocol/address.ts';
import type { StepSample } from '../protocol/balancing.ts';
import { assert, UnsoundMemory } from '../protocol/errors.ts';
import type { KvEventBatches } from '../protocol/kv-events.ts';
import type { Work } from '../protocol/messages.ts';
import type { StepPlan } from '../protocol/steps.ts';
import type { ExpertReport, NpuReport } from '../protocol/threads.ts';
import { attentionPlaceOf, type Deployment, type DpGroupPlace, type Executor } from '../protocol/topology.ts';
import type { Transfer } from '../protocol/transfers.ts';
import type { Cast } from '../runtime/cast.ts';
import type { Directory } from '../runtime/directory.ts';
import type { Areas } from '../xccl/areas.ts';
import { TravelWatch } from '../xccl/travel-watch.ts';
import type { Machine } from './build-machine.ts';
import { groupLost } from './kv-event-reader.ts';
import { lostReport, unheardReport } from './lost-reports.ts';
import type { WeightsNow } from './weights.ts';

/** Whoever goes round for ever is a defect. Of one launch: a step takes a few turns for each layer, at most hundreds; of one transfer: each turn moves some blocks. */
const STEP_TURNS_MAX = 20_000;
const TURNS_MAX = 1_000_000;

export type Launch = { readonly npu: Address; readonly work: Work; readonly cause: number };

/** What `MachineNpus` needs beside the machine; what is missing nobody wants to know. */
export type MachinePorts = {
  readonly host: NpusHost;
  readonly now_ms: () => number;
  readonly samplesOf?: (npu: Address) => readonly StepSample[];
  readonly onLayers?: (npu: number, step: number, layers: number) => void;
  readonly onRouted?: OnRouted | undefined;
  /** A worker's weights went bad: it computes nothing any more, until it is lost. */
  readonly onDamage?: ((worker: number, damage: UnsoundMemory) => void) | undefined;
};

/**
 * All NPUs of a machine, each worker's by themselves, as on threads of their own. A step is computed whole when it is launched, at all ranks that run it, with
 * the other NPUs' experts serving it; one that needs what a lost worker had goes on when that has a successor.
 */
export class MachineNpus {
  /** By worker; null: it is lost. */
  readonly #workers: (Npus | null)[];
  readonly #machine: Machine;
  readonly #directory: Directory;
  readonly #ports: MachinePorts;
  readonly #areas: readonly Areas[];
  /** NPUs that hang, and by how many causes: they compute nothing, neither their steps nor for others. */
  readonly #hanging = new Map<number, number>();
  /** By NPU: how much it was given to compute so far. */
  readonly #progress: number[];
  readonly #steps: number[];
  /** By NPU: what it said of itself last. */
  readonly #said: NpuReport[];
  readonly #deployment: Deployment;
  /** Workers whose weights went bad, until their successors have them anew. */
  readonly damaged = new Set<number>();
  /** Before each turn of steps that wait for one another, between their layers: for who injects what may happen there. */
  onTurn: ((movesOf: (npu: number) => ExpertMoves) => void) | null = null;
  /** Of rows on their way between the NPUs' dies. */
  readonly travel = new TravelWatch();

  constructor(machine: Machine, directory: Directory, ports: MachinePorts) {
    const { plan } = machine;
    this.#machine = machine;
    this.#directory = directory;
    this.#ports = ports;
    this.#deployment = plan.hosting.deployment;
    this.#progress = plan.hosting.deployment.npus.map(() => 0);
    this.#steps = plan.hosting.deployment.npus.map(() => 0);
    this.#said = plan.hosting.deployment.npus.map((place) => unheardReport(place, plan.options.kv_blocks));
    this.#areas = plan.dies.map((_, die) => areasOfDie(plan, die));
    this.#workers = Array.from({ length: plan.hosting.workers }, (_, worker) => this.#npusOf(worker));
  }

  #npusOf(worker: number): Npus {
    const { plan, space, arithmeticOf, readExpert } = this.#machine;
    const { host, now_ms, samplesOf = () => [], onLayers, onRouted } = this.#ports;
    return new Npus({
      plan,
      space,
      directory: this.#directory,
      // Who waits for a peer is polled until it has its answers: nobody needs to be told.
      surroundings: { space, areasOf: (die) => this.#areas[die] as Areas, arrive: () => {}, now_ms, watch: this.travel },
      arithmetics: this.#directory.npusOfWorker(worker).map(arithmeticOf),
      checksum: plainChecksum(space),
      readExpert,
      host,
      measuresSteps: false,
      samplesOf: ({ self }) => samplesOf(self),
      warmExperts: () => {},
      onLayers,
      onRouted,
    });
  }

  get #living(): Npus[] {
    return this.#workers.filter((npus) => npus !== null);
  }

  #hostOf(npu: number): Npus | null {
    return this.#workers[this.#directory.workerOfNpu(npu)] as Npus | null;
  }

  /** Of an NPU that lives. */
  #theHostOf(npu: number): Npus {
    const npus = this.#hostOf(npu);
    assert(npus, `NPU ${npu} is lost`);
    return npus;
  }

  #firstOf(group: number): number {
    return (this.#deployment.groups[group] as DpGroupPlace).npus[0] as number;
  }

  spawn(): void {
    for (const npus of this.#living) npus.spawn();
  }

  /** A worker is lost: nothing counts that its NPUs wrote, and who dealt with them knows it. */
  lose(worker: number): void {
    const { plan, space } = this.#machine;
    this.#workers[worker] = null;
    const dies = this.#directory.npusOfWorker(worker).map((npu) => this.#directory.dieOfNpu(npu));
    for (const die of dies) {
      space.control.raiseEpochOfDie(die);
      for (const region of [plan.dies[die], plan.drams[die]]) if (region !== undefined) space.table.raiseEpoch(space.table.indexOf(region.owner, region.kind));
    }
    this.#tellOfLosses();
    this.#move();
    // Domains go on without their lost ones; who flows waits for a map, or for a successor.
    this.#run(this.#living.flatMap(({ programs }) => [...programs.values()].filter(({ turns, undone, step }) => turns !== null || !undone.mayWait(step))));
  }

  /** As memory itself has it. */
  get #weightsNow(): WeightsNow {
    const { plan, space } = this.#machine;
    const { executors } = plan.hosting.deployment;
    return {
      mapOf: (id) => mapInSlots(plan, space, this.#directory, firstMap(plan.config, plan.options, executors[id] as Executor), executors[id] as Executor),
      holds: (npu) => holdsPieces(plan.layouts[npu] as RestingLayout, space),
    };
  }

  /** What the NPUs of a worker do, whose weights may turn out to have gone bad. */
  #tried<Result>(worker: number, act: () => Result, otherwise: Result): Result {
    if (this.damaged.has(worker)) return otherwise;
    try {
      return act();
    } catch (error) {
      if (!(error instanceof UnsoundMemory)) throw error;
      this.damaged.add(worker);
      this.#ports.onDamage?.(worker, error);
      return otherwise;
    }
  }

  #tellOfLosses(): void {
    const all = this.#deployment.npus.map(({ id }) => id);
    const isLost = (npu: number): boolean => this.#hostOf(npu) === null;
    for (const npus of this.#living) noteLosses(npus, this.#directory, all, isLost);
  }

  /** Its successors begin; whoever waits for them asks again, and goes on. */
  restart(worker: number): void {
    if (this.damaged.delete(worker)) this.#machine.furnish(this.#directory.npusOfWorker(worker), this.#weightsNow);
    const npus = this.#npusOf(worker);
    this.#workers[worker] = npus;
    this.#tellOfLosses();
    npus.spawn();
    for (const { programs } of this.#living)
      for (const program of programs.values()) for (const npu of this.#directory.npusOfWorker(worker)) program.askAgain(npu);
    this.#goOn();
  }

  /**
   * NPUs compute nothing, neither their steps nor for others, until the function is called that this returns; then what waited for them goes on, so many steps,
   * unless somebody else has them hang still.
   */
  hang(npus: readonly number[]): () => number {
    for (const npu of npus) this.#hanging.set(npu, (this.#hanging.get(npu) ?? 0) + 1);
    let hasEnded = false;
    return () => {
      assert(!hasEnded, `the hang of NPUs ${npus.join(', ')} ends twice`);
      hasEnded = true;
      const stalled = this.#living.flatMap(({ programs }) => [...programs.values()]).filter((program) => isStalledBy(program, npus));
      for (const npu of npus) {
        const causes = (this.#hanging.get(npu) as number) - 1;
        if (causes === 0) this.#hanging.delete(npu);
        else this.#hanging.set(npu, causes);
      }
      this.#goOn();
      return stalled.length;
    };
  }

  /** The step that the NPU runs, or else its next one, throws what it is given then. The function that it returns: it does not after all. */
  failStep(npu: number, error: () => Error): () => void {
    const spare = this.#hostOf(npu)?.failStep(npu, error);
    this.#goOn();
    return () => {
      spare?.();
      this.#goOn();
    };
  }

  /** Who waits for a peer looks again. */
  #goOn(): void {
    this.#run(this.#living.flatMap(({ programs }) => [...programs.values()]));
    this.#move();
  }

  /** Of all NPUs, in order; those of lost workers hold nothing, and what they have counted is as last heard. */
  report(cast: Pick<Cast, 'stateOf' | 'contextOf'>): ReturnType<Npus['report']> {
    for (const said of this.#living.flatMap((npus) => npus.report(cast))) this.#said[said.npu] = said;
    return this.#said.map((last) => (this.#hostOf(last.npu) === null ? lostReport(last, this.#directory.dieOfNpu(last.npu)) : last));
  }

  expertReports(clock: ServiceClock | null): ExpertReport[] {
    return this.#living.flatMap((npus) => npus.expertReports(clock));
  }

  kvEvents(cast: Pick<Cast, 'contextOf'>, dp_group: number, from: number): KvEventBatches {
    const host = this.#hostOf(this.#firstOf(dp_group));
    if (host === null) throw groupLost(dp_group, this.#machine.plan.hosting);
    return host.kvEvents(cast, dp_group, from);
  }

  transfersReport(): ReturnType<KvTransfers['report']> {
    return this.#living.flatMap((npus) => npus.transfers.report());
  }

  /** Performs a transfer to its end, as far as that is in one hand: an offer stands until somebody pulls it. */
  transfer(group: Address, work: Transfer, cause: number): void {
    this.#theHostOf(this.#firstOf(idOf(group))).transfers.perform(group, work, cause);
    this.#move();
  }

  /** The KV of the step's first `layers` layers is there: who waits for it goes on. */
  reach(npu: number, step: number, layers: number): void {
    this.#hostOf(npu)?.transfers.reach(npu, step, layers);
    this.#move();
  }

  /** Until all wait. Twice more than is seen to be needed: who pulls sees in the next turn what the holder has summed in this one, who may have his turn after. */
  #move(): void {
    const living = this.#living;
    let turns = 0;
    for (let quiet = 0; quiet < 3; quiet = living.some(({ transfers }) => transfers.isBusy) ? 0 : quiet + 1) {
      assert(++turns < TURNS_MAX, 'KV moves for ever');
      for (const { transfers } of living) transfers.poll();
    }
  }

  timesOf(npu: Address): StepTimes {
    return this.#theHostOf(idOf(npu)).timesOf(idOf(npu));
  }

  /** What runs the steps of an NPU whose worker lives, in its present life: for who looks on. */
  programOf(npu: number): StepProgram<Arithmetic> | undefined {
    return this.#hostOf(npu)?.programs.get(npu);
  }

  /** A step as its NPU will compute it; with all the drafts that it may have, where the step before it is not done. */
  resolved(npu: Address, plan: StepPlan): StepPlan {
    const program = this.#theHostOf(idOf(npu)).programs.get(idOf(npu)) as StepProgram<Arithmetic>;
    if (!program.isRunning) return program.resolve(plan);
    return { ...plan, entries: plan.entries.map((entry) => ({ ...entry, tokens: [...entry.tokens, ...new Array<number>(entry.drafts).fill(0)] })) };
  }

  /** Differs from what it was: the NPU has got on with its work, or the DP group has had its first one begin a step. Others do none. */
  progressOf(member: Address): number {
    if (roleOf(member) === 'npu') return this.#progress[idOf(member)] as number;
    return roleOf(member) === 'dp-group' ? (this.#steps[this.#firstOf(idOf(member))] as number) : 0;
  }

  /** Performs NPUs' work, to its end unless it waits for other ranks; what comes of it goes to the host's `complete`. */
  launch(launches: readonly Launch[]): void {
    for (const { npu, work, cause } of launches) {
      this.#progress[idOf(npu)] = this.progressOf(npu) + 1;
      // What the expert map has its NPU do says nothing of a group that hangs.
      if (work.kind === 'step') this.#steps[idOf(npu)] = (this.#steps[idOf(npu)] as number) + 1;
      this.#theHostOf(idOf(npu)).launch(npu, work, cause);
    }
    for (const [worker, npus] of this.#workers.entries()) this.#tried(worker, () => npus?.weights.scrub(false), false);
    // Weights move to their end; and a step that was refused goes on by the map that has come.
    for (let isMoving = true; isMoving; ) isMoving = this.#living.some(({ moves, standby }) => moves.poll() || standby.poll());
    const mayGoOn = ({ npu, work }: Launch): boolean =>
      work.kind === 'step' || work.kind === 'let-go' || (work.kind === 'experts' && this.#theHostOf(idOf(npu)).programs.has(idOf(npu)));
    this.#run(launches.flatMap((launch) => (mayGoOn(launch) ? this.#ranksOf(idOf(launch.npu)) : [])));
  }

  /** Steps go on; then those hear of maps whom steps have kept waiting for that. */
  #run(ranks: readonly StepProgram<Arithmetic>[]): void {
    if (ranks.length === 0) return;
    this.#runSteps(ranks);
    for (const { moves } of this.#living) moves.poll();
  }

  #runSteps(ranks: readonly StepProgram<Arithmetic>[]): void {
    const isAtWork = (program: StepProgram<Arithmetic>): boolean =>
      program.isRunning &&
      !this.#hanging.has(program.npu) &&
      !this.damaged.has(this.#directory.workerOfNpu(program.npu)) &&
      this.#hostOf(program.npu)?.hasFailed(program.npu) === false;
    // Where other ranks of the NPU's group have yet to be given the step, it goes on when they are.
    let turns = 0;
    for (let isMoving = true; isMoving; ) {
      assert(++turns < STEP_TURNS_MAX, 'NPUs answer one another for ever');
      isMoving = false;
      this.onTurn?.((npu) => this.#theHostOf(npu).moves);
      for (const program of ranks) isMoving = (isAtWork(program) && this.#poll(program) !== 'pending') || isMoving;
      if (!ranks.some(isAtWork)) return;
      for (const npus of this.#living)
        for (const service of npus.services) isMoving = (!this.#hanging.has(service.npu) && this.#serve(npus, service) > 0) || isMoving;
    }
  }

  #poll(program: StepProgram<Arithmetic>): ReturnType<Npus['poll']> {
    return this.#tried(this.#directory.workerOfNpu(program.npu), () => this.#theHostOf(program.npu).poll(program, false), 'pending');
  }

  #serve(npus: Npus, service: ExpertService): number {
    return this.#tried(this.#directory.workerOfNpu(service.npu), () => npus.serve(service, DISPATCHES_PER_TURN), 0);
  }

  #ranksOf(npu: number): readonly StepProgram<Arithmetic>[] {
    const { npus } = this.#deployment.groups[attentionPlaceOf(this.#deployment, npu).group] as DpGroupPlace;
    return npus.flatMap((rank) => this.#hostOf(rank)?.programs.get(rank) ?? []);
  }
}

const isStalledBy = (program: StepProgram<Arithmetic>, npus: readonly number[]): boolean =>
  program.isRunning && (npus.includes(program.npu) || program.missing.some((npu) => npus.includes(npu)));
