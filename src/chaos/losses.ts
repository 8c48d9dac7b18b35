/**
 * Whom a run has lost at once, and whether what was left could compute a request: a failure for want of experts or of DP groups is explained by that alone, and a pod that has
 * lost too much for good is asked for no progress.
 * @module
 */
import { replicasOf } from '../../actors/policies/expert-placement/expert-map.ts';
import { slotsOfRank } from '../../actors/policies/expert-placement/placement-shape.ts';
import type { TaskPlacement } from '../../actors/policies/placement.ts';
import { switchFor } from '../../actors/policies/role-places.ts';
import { firstMap } from '../flowserve/experts/expert-routing.ts';
import { roleSeatsOf, switchesRoles, waitsForSwitch } from '../flowserve/role-seats.ts';
import { hasExpertMap, holdersMin, mayMove, successorMs } from '../platform/births.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import { address } from '../protocol/address.ts';
import { type Executor, projectionGroupOf, sharedExpertNpusOf } from '../protocol/topology.ts';

type Pod = Pick<VirtualControl, 'plan' | 'workers' | 'directory' | 'host'>;
/** Workers that were lost at once. `standby`: DP groups that were to take nothing then, since the pod had been asked for fewer. */
type Moment = { readonly workers: ReadonlySet<number>; readonly standby: ReadonlySet<number> };
/** A worker whose successor an expert map waits for: since when, and when that has heard of him last; null: not yet. */
type Wait = { readonly worker: number; readonly since_ms: number; until_ms: number | null };

export class Losses {
  readonly #pod: Pod;
  readonly #moments: (Moment & { readonly at_ms: number })[] = [];
  /** Of each worker the latest last. */
  readonly #waits: Wait[] = [];
  /** The quickest that a clock of those who wait has run, in units of its time. */
  hurry = 1;

  constructor(pod: Pod) {
    this.#pod = pod;
  }

  /** A worker has just been lost: never are more than then. Or other groups serve than did. */
  note(): void {
    const [now, at_ms] = [this.#now, this.#now_ms];
    this.#moments.push({ ...now, at_ms });
    for (const worker of now.workers)
      if (this.#isAwaited(worker) && this.#waitFor(worker)?.until_ms !== null) this.#waits.push({ worker, since_ms: at_ms, until_ms: null });
  }

  /** Who waits for it hears that it is back: once more, where something keeps him from hearing. */
  returned(npu: number): void {
    const wait = this.#waitFor(this.#pod.directory.workerOfNpu(npu));
    if (wait !== undefined) wait.until_ms = this.#now_ms;
  }

  /**
   * At some moment until then a request could go nowhere: some expert had no readable copy, nor room for one, nor an attention NPU that would take the role of who had it, or no
   * DP group was left, nor was to come, in the time that successors are given. `dp_group`: of one that could begin in its executor alone.
   */
  hasLacked(dp_group?: number, then_ms = Number.POSITIVE_INFINITY): boolean {
    const { hosting } = this.#pod.plan;
    const given_ms = successorMs(hosting);
    const waited = this.#waits.map(({ since_ms, until_ms }) => Math.min(then_ms, until_ms ?? this.#now_ms) - since_ms);
    if (given_ms === null || Math.max(0, ...waited) < given_ms * this.hurry) return false;
    return this.#moments.some((moment) => moment.at_ms <= then_ms && this.#lacks(moment, (executor) => waitsForSwitch(hosting, executor), dp_group));
  }

  /** With its worker, now or earlier. */
  readonly wasLost = (npu: number): boolean => {
    const worker = this.#pod.directory.workerOfNpu(npu);
    return this.#moments.some(({ workers }) => workers.has(worker));
  };

  /** A DP group, at some moment. */
  readonly groupWasLost = (group: number): boolean => this.#moments.some((moment) => this.#isBroken(group, moment));

  /** All groups of the executor whose groups change in number that were to serve, at some moment. */
  readonly allServingWereLost = (): boolean => {
    const { deployment, scaled } = this.#pod.plan.hosting;
    const executor = deployment.executors[scaled?.executor ?? -1];
    return executor !== undefined && this.#moments.some((moment) => !this.#hasGroup(executor, moment));
  };

  /** It is so now. */
  get lacks(): boolean {
    return this.#lacks(this.#now, () => true);
  }

  /** Else nobody is told that it is back, and nobody gives up what it held. */
  #isAwaited(worker: number): boolean {
    const { plan, directory } = this.#pod;
    const npus = directory.npusOfWorker(worker);
    return plan.hosting.deployment.executors.some((executor) => {
      const { first, npus: ranks } = executor.experts;
      return hasExpertMap(plan, executor) && npus.some((npu) => npu >= first && npu < first + ranks);
    });
  }

  #waitFor(worker: number): Wait | undefined {
    return this.#waits.findLast((wait) => wait.worker === worker);
  }

  get #now_ms(): number {
    return this.#pod.host.clock.now_ms();
  }

  /** Who is to begin in the place of one that has given it up is lost no more. */
  get #now(): Moment {
    const { plan, workers } = this.#pod;
    const isLost = (worker: number): boolean => (plan.hosting.respawn === false ? workers.isHomeless(worker) : workers.isLost(worker));
    return { workers: new Set(Array.from({ length: plan.workers }, (_, worker) => worker).filter(isLost)), standby: this.#standby };
  }

  /** Of the executor whose groups change in number. */
  get #standby(): ReadonlySet<number> {
    const { plan, host } = this.#pod;
    if (plan.hosting.scaled == null) return new Set();
    const { placement } = host.cast.contextOf(address('task-executor', plan.hosting.scaled.executor)) as { placement: TaskPlacement };
    return new Set(placement.standby);
  }

  /** Of the executors in which it may begin, and those in which it may decode. `waits`: for role switches of the executor. */
  #lacks(moment: Moment, waits: (executor: Executor) => boolean, dp_group?: number): boolean {
    const hasExperts = (executor: Executor): boolean => this.#hasExperts(executor, moment) || (waits(executor) && this.#comesBack(executor, moment));
    const able = this.#pod.plan.hosting.deployment.executors.filter((executor) => this.#hasGroup(executor, moment) && hasExperts(executor));
    const decodes = able.some(({ role }) => role === 'decode');
    return !able.some(({ role, groups }) => role !== 'decode' && (role === 'colocated' || decodes) && (dp_group === undefined || groups.includes(dp_group)));
  }

  #hasGroup({ groups }: Executor, moment: Moment): boolean {
    // Else it is waited for.
    if (this.#pod.plan.hosting.respawn !== false) return true;
    return groups.some((group) => !moment.standby.has(group) && !this.#isBroken(group, moment));
  }

  /** It has lost an NPU, or one that has columns of its output projections. */
  #isBroken(group: number, { workers }: Moment): boolean {
    const { plan, directory } = this.#pod;
    const { deployment } = plan.hosting;
    return (deployment.groups[group]?.npus ?? []).some((npu) => {
      const { first, npus } = projectionGroupOf(deployment, npu);
      const needed = [npu, ...Array.from({ length: npus }, (_, index) => first + index)];
      return needed.some((one) => workers.has(directory.workerOfNpu(one)));
    });
  }

  #hasExperts(executor: Executor, { workers }: Moment): boolean {
    const { plan, directory } = this.#pod;
    const isLost = (npu: number): boolean => workers.has(directory.workerOfNpu(npu));
    const { config, options, hosting } = plan;
    const { first, npus } = executor.experts;
    const lost = Array.from({ length: npus }, (_, rank) => rank).filter((rank) => isLost(first + rank));
    if (lost.length === 0) return true;
    const shared = config.moe.sharedExperts > 0 ? sharedExpertNpusOf(executor) : [];
    if (shared.length > 0 && shared.every((npu) => isLost(npu))) return false;
    if (hosting.degraded === true && npus - lost.length >= holdersMin(plan, npus)) return true;
    const map = firstMap(config, options, executor);
    if (mayMove(plan)) return (npus - lost.length) * slotsOfRank(map.shape) >= map.shape.experts;
    return !hasLostOne(map, lost);
  }

  /** Role switches have all experts back, with a DP group left. Whose turn is first hangs on what had room elsewhere: so it has to be whosever it is. */
  #comesBack(executor: Executor, { workers, standby }: Moment): boolean {
    const { plan, directory } = this.#pod;
    const { hosting, options } = plan;
    if (!switchesRoles(hosting, options, executor)) return false;
    const { first, npus } = executor.experts;
    const seats = roleSeatsOf(hosting, executor);
    const lost = hosting.deployment.npus.flatMap(({ id }) => (workers.has(directory.workerOfNpu(id)) ? [id] : []));
    const serving = executor.groups.filter((group) => !standby.has(group));
    const needed = lost.filter((npu) => npu >= first && npu < first + npus);
    return needed.every((npu) => {
      const found = switchFor(seats, { needed: [npu], lost, serving, refused: [] });
      if (found === null) return false;
      const after = { workers: new Set([...workers, found.place.worker].filter((worker) => worker !== found.home.worker)), standby };
      return this.#hasExperts(executor, after) || this.#comesBack(executor, after);
    });
  }
}

/** Of experts that stay where they were laid out. */
function hasLostOne(map: ReturnType<typeof firstMap>, lost: readonly number[]): boolean {
  const { layers, experts } = map.shape;
  const each = slotsOfRank(map.shape);
  const isLost = (slot: number): boolean => lost.includes(Math.floor(slot / each));
  return Array.from({ length: layers * experts }).some((_, at) => replicasOf(map, Math.floor(at / experts), at % experts).every(isLost));
}
