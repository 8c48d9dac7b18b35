/** What steps take on a virtual clock, by what the task executor has at the moment: DP groups that serve, and NPUs that have its experts. @module */
import type { ModelConfig } from '../model/config.ts';
import type { Numerics } from '../protocol/numerics.ts';
import type { StepPlan } from '../protocol/steps.ts';
import { type Deployment, type Executor, sharedExpertNpusOf } from '../protocol/topology.ts';
import { type Device, type Parallelism, rooflineTimes, type StepTime } from '../simulate/roofline.ts';

/** So many of its DP groups serve, and so many of its NPUs have the experts. */
export type ServingNow = { readonly groups: number; readonly experts: number };

const parallelismOf = (executor: Executor, { groups, experts }: ServingNow): Parallelism => {
  const { tp, oproj, split } = executor;
  const apart = { attention: groups * tp, shared: sharedExpertNpusOf(executor).length };
  return { npus: experts, tp, oproj, split: split === undefined ? undefined : apart };
};

type StepTimes = (plan: StepPlan) => StepTime;

export class StepCosts {
  readonly #config: ModelConfig;
  readonly #executors: readonly Executor[];
  readonly #device: Device;
  readonly #numerics: Numerics;
  readonly #servingNow: (executor: Executor) => ServingNow;
  /** By task executor, and what serves of it. */
  readonly #times = new Map<string, StepTimes>();

  constructor(config: ModelConfig, { executors }: Deployment, device: Device, numerics: Numerics, servingNow: (executor: Executor) => ServingNow) {
    this.#numerics = numerics;
    this.#config = config;
    this.#executors = executors;
    this.#device = device;
    this.#servingNow = servingNow;
  }

  timesOf(executor: number, plan: StepPlan): StepTime {
    const of = this.#executors[executor] as Executor;
    const now = this.#servingNow(of);
    const key = `${executor} ${now.groups} ${now.experts}`;
    const times = this.#times.get(key) ?? rooflineTimes(this.#config, parallelismOf(of, now), this.#device, this.#numerics);
    this.#times.set(key, times);
    return times(plan);
  }
}
