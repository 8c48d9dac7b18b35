/**
 * Steps of DP domains that take turns (xccl/iterations.ts), on a virtual clock: those of a domain's NPUs begin together, when the iteration before has ended, and
 * take as long as the longest of them. A step that comes in the midst of an iteration waits for its end, as on the live clock.
 * @module
 */
import { dpDomainsOf, takesTurns } from '../flowserve/layouts/dp-domains.ts';
import type { LayoutOptions } from '../flowserve/layouts/step-layout.ts';
import { type Address, idOf } from '../protocol/address.ts';
import type { StepPlan } from '../protocol/steps.ts';

export type WaitingStep = { readonly npu: Address; readonly plan: StepPlan; readonly cause: number };

type Ports = {
  readonly now_ns: () => number;
  readonly later: (delay_ns: number, act: () => void) => void;
  readonly durationOf: (step: WaitingStep) => number;
  /** They begin now, and are done then. */
  readonly begin: (steps: readonly WaitingStep[], done_ns: number) => void;
};

export class DomainSteps {
  readonly #ports: Ports;
  /** By NPU of a domain that takes turns: the domain. */
  readonly #domainOf = new Map<number, number>();
  /** By domain: steps that wait, in the order in which they came; and when the iteration at hand ends. */
  readonly #waiting: WaitingStep[][] = [];
  readonly #ends_ns: number[] = [];

  constructor(options: Pick<LayoutOptions, 'schedule' | 'deployment'>, ports: Ports) {
    this.#ports = ports;
    for (const { place } of dpDomainsOf(options.deployment)) {
      this.#waiting.push([]);
      this.#ends_ns.push(0);
      for (const npu of place.attention) if (takesTurns(options, npu)) this.#domainOf.set(npu, place.id);
    }
  }

  /** False: no domain of the NPU's takes turns. */
  launch(step: WaitingStep): boolean {
    const domain = this.#domainOf.get(idOf(step.npu));
    if (domain === undefined) return false;
    this.#waitingOf(domain).push(step);
    if (this.#ports.now_ns() >= (this.#ends_ns[domain] as number)) this.#begin(domain);
    return true;
  }

  /** The NPU forgets what it was given. */
  reset(npu: Address): void {
    const domain = this.#domainOf.get(idOf(npu));
    if (domain !== undefined) this.#waiting[domain] = this.#waitingOf(domain).filter((step) => step.npu !== npu);
  }

  #waitingOf(domain: number): WaitingStep[] {
    return this.#waiting[domain] as WaitingStep[];
  }

  /** The first step of each NPU that has one. */
  #begin(domain: number): void {
    const { now_ns, later, durationOf, begin } = this.#ports;
    const steps: WaitingStep[] = [];
    const rest: WaitingStep[] = [];
    const seen = new Set<Address>();
    for (const step of this.#waitingOf(domain)) {
      (seen.has(step.npu) ? rest : steps).push(step);
      seen.add(step.npu);
    }
    this.#waiting[domain] = rest;
    if (steps.length === 0) return;
    const duration_ns = Math.max(...steps.map(durationOf));
    const ends_ns = now_ns() + duration_ns;
    this.#ends_ns[domain] = ends_ns;
    begin(steps, ends_ns);
    // After what this iteration leads to in the same moment.
    later(duration_ns, () => this.#begin(domain));
  }
}
