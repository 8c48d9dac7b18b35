/**
 * Whom a run has lost at once, and whether what was left could compute a request: a failure for want of experts or of DP groups is explained by that alone, and a pod that has
 * lost too much for good is asked for no progress.
 * @module
 */
import { replicasOf } from '../../actors/policies/expert-placement/expert-map.ts';
import { slotsOfRank } from '../../actors/policies/expert-placement/placement-shape.ts';
import { switchFor } from '../../actors/policies/role-places.ts';
import { firstMap } from '../flowserve/expert-routing.ts';
import { roleSeatsOf, switchesRoles, waitsForSwitch } from '../flowserve/role-seats.ts';
import { holdersMin, mayMove } from '../platform/births.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import { type Executor, sharedExpertNpusOf } from '../protocol/topology.ts';

type Pod = Pick<VirtualControl, 'plan' | 'workers' | 'directory'>;
/** Workers that were lost at once. */
type Moment = ReadonlySet<number>;

export class Losses {
  readonly #pod: Pod;
  readonly #moments: Moment[] = [];

  constructor(pod: Pod) {
    this.#pod = pod;
  }

  /** A worker has just been lost: never are more than then. */
  note(): void {
    this.#moments.push(this.#now);
  }

  /**
   * At some moment a request could go nowhere: some expert had no readable copy, nor room for one, nor an attention NPU that would take the role of who had it, or no
   * DP group was left, nor was to come. `dp_group`: of one that could begin in its executor alone.
   */
  hasLacked(dp_group?: number): boolean {
    const { hosting } = this.#pod.plan;
    return this.#moments.some((lost) => this.#lacks(lost, (executor) => waitsForSwitch(hosting, executor), dp_group));
  }

  /** With its worker, now or earlier. */
  wasLost(npu: number): boolean {
    const worker = this.#pod.directory.workerOfNpu(npu);
    return this.#moments.some((lost) => lost.has(worker));
  }

  /** It is so now. */
  get lacks(): boolean {
    return this.#lacks(this.#now, () => true);
  }

  /** Who is to begin in the place of one that has given it up is lost no more. */
  get #now(): Moment {
    const { plan, workers } = this.#pod;
    const isLost = (worker: number): boolean => (plan.hosting.respawn === false ? workers.isHomeless(worker) : workers.isLost(worker));
    return new Set(Array.from({ length: plan.workers }, (_, worker) => worker).filter(isLost));
  }

  /** Of the executors in which it may begin, and those in which it may decode. `waits`: for role switches of the executor. */
  #lacks(lost: Moment, waits: (executor: Executor) => boolean, dp_group?: number): boolean {
    const hasExperts = (executor: Executor): boolean => this.#hasExperts(executor, lost) || (waits(executor) && this.#comesBack(executor, lost));
    const able = this.#pod.plan.hosting.deployment.executors.filter((executor) => this.#hasGroup(executor, lost) && hasExperts(executor));
    const decodes = able.some(({ role }) => role === 'decode');
    return !able.some(({ role, groups }) => role !== 'decode' && (role === 'colocated' || decodes) && (dp_group === undefined || groups.includes(dp_group)));
  }

  #hasGroup({ groups }: Executor, workers: Moment): boolean {
    const { plan, directory } = this.#pod;
    // Else it is waited for.
    if (plan.hosting.respawn !== false) return true;
    return groups.some((group) => plan.hosting.deployment.groups[group]?.npus.every((npu) => !workers.has(directory.workerOfNpu(npu))));
  }

  #hasExperts(executor: Executor, workers: Moment): boolean {
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
  #comesBack(executor: Executor, workers: Moment): boolean {
    const { plan, directory } = this.#pod;
    const { hosting, options } = plan;
    if (!switchesRoles(hosting, options, executor)) return false;
    const { first, npus } = executor.experts;
    const seats = roleSeatsOf(hosting, executor);
    const lost = hosting.deployment.npus.flatMap(({ id }) => (workers.has(directory.workerOfNpu(id)) ? [id] : []));
    const needed = lost.filter((npu) => npu >= first && npu < first + npus);
    return needed.every((npu) => {
      const found = switchFor(seats, { needed: [npu], lost, serving: executor.groups, refused: [] });
      if (found === null) return false;
      const after = new Set([...workers, found.place.worker].filter((worker) => worker !== found.home.worker));
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
