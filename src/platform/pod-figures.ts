/**
 * What a live pod says of itself when it is asked: figures of all its workers at this moment, and those that the control thread has.
 * @module
 */
import type { AddressSpace } from '../fabric/address-space.ts';
import type { Links } from '../fabric/links.ts';
import { ExpertLoads } from '../flowserve/experts/expert-loads.ts';
import { expertPlaces } from '../flowserve/experts/expert-places.ts';
import type { PodPlan } from '../flowserve/pod-plan.ts';
import type { Cast } from '../runtime/cast.ts';
import { CONTROL_THREAD, type Directory } from '../runtime/directory.ts';
import type { ControlStats, ExpertsReport } from './control-handle.ts';
import type { ControlWatch } from './control-watch.ts';
import { balancingReports } from './expert-balancing.ts';
import { expertLosses } from './lost-experts.ts';
import type { ScaleRequests } from './scale-requests.ts';
import { threadReports } from './thread-reports.ts';
import { unplacedTasks } from './unplaced-tasks.ts';
import type { WorkerReports } from './worker-reports.ts';
import type { Workers } from './workers.ts';

export type PodFiguresPorts = {
  readonly plan: PodPlan;
  readonly space: AddressSpace;
  readonly directory: Directory;
  readonly links: Links;
  readonly cast: Cast;
  readonly workers: Pick<Workers, 'isRunning' | 'isQuarantined' | 'waitsFor' | 'recoveries'>;
  readonly reports: WorkerReports;
  readonly scale: ScaleRequests;
  readonly watch: Pick<ControlWatch, 'suspicions' | 'loops'>;
  readonly now_ms: () => number;
};

export class PodFigures {
  readonly #ports: PodFiguresPorts;
  readonly #loads: ExpertLoads;

  constructor(ports: PodFiguresPorts) {
    this.#ports = ports;
    this.#loads = new ExpertLoads(ports.plan, ports.space, ports.directory);
  }

  async stats(): Promise<ControlStats> {
    const { plan, space, directory, links, cast, workers, reports, scale, watch, now_ms } = this.#ports;
    const asked = await reports.ask(this.#runningWorkers());
    return {
      ...{ npus: reports.npus(), loops: watch.loops.report(now_ms(), reports.npus()) },
      links: [
        { thread: CONTROL_THREAD, reports: links.counters() },
        ...asked.map(({ worker, links: own }) => ({ thread: directory.threadOfWorker(worker), reports: own })),
      ],
      ...{ kv_links: asked.flatMap(({ kv_links }) => kv_links), garbage: asked.map(({ worker, garbage }) => ({ worker, ...garbage })) },
      threads: threadReports(directory, space.control, workers),
      regions: space.table.report(),
      ...{ scaling: scale.stats(), expert_loads: this.#loads.table(), actors: cast.actors },
      ...{ expert_balancing: balancingReports(cast, plan, now_ms()), ...expertLosses(cast, plan), ...unplacedTasks(cast, plan) },
      ...{ suspicions: watch.suspicions.report(), recoveries: workers.recoveries.report() },
      unexpected: [...cast.unexpected.keys(), ...asked.flatMap(({ unexpected }) => unexpected)],
    };
  }

  /** `measure`: what their batches take from now on, too. */
  async experts(measure: boolean): Promise<ExpertsReport> {
    const { plan, space, directory, cast, reports, now_ms } = this.#ports;
    const asked = (await reports.ask(this.#runningWorkers(), measure ? 'measure' : 'look')).flatMap(({ experts }) => experts);
    const balancing = balancingReports(cast, plan, now_ms());
    return { loads: this.#loads.byExecutor(), places: expertPlaces(plan, space, directory), reports: asked, balancing };
  }

  #runningWorkers(): number[] {
    const { plan, workers } = this.#ports;
    return Array.from({ length: plan.workers }, (_, worker) => worker).filter((worker) => workers.isRunning(worker));
  }
}
