/**
 * Workers on a virtual clock that are lost, and begin anew as soon as a thread can: what workers.ts does with threads, done with the actors and memory of one.
 *
 *   lost: their actors die, their memory's epochs rise, who answers for them is told ─▶ (what starting a thread takes) ─▶ the same actors, knowing nothing
 *                                                                                  └▶ (`respawn: false`) nobody, unless another gives its place (role-switch.ts)
 *
 * As on the live clock the controllers that a worker hosts die with it; of these alone a test may let it lose. Whoever loses the rest before they have begun anew
 * loses it as if they had.
 * @module
 */
import type { AddressSpace } from '../fabric/address-space.ts';
import { Admission } from '../fabric/admission.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { type Address, address, idOf, type Role, roleOf } from '../protocol/address.ts';
import { memberLost, npuGone, npuLost } from '../protocol/constructors.ts';
import type { ErrorRecord } from '../protocol/errors.ts';
import { jobExecutorOf, requestOfTask } from '../protocol/request-ids.ts';
import { roleRefused, type SwitchRoleMessage } from '../protocol/role-switch.ts';
import { executorOfNpu } from '../protocol/topology.ts';
import { CLUSTER_MANAGERS, type Directory } from '../runtime/directory.ts';
import type { VirtualHost } from '../runtime/virtual-host.ts';
import { birthOfController } from './births.ts';
import { ControlLoops } from './control-loops.ts';
import type { MachineNpus } from './machine.ts';
import { restartStages } from './restart-stages.ts';
import { Suspicions } from './suspicions.ts';
import { endedError, gaveWayError, goneError, lostError } from './worker-errors.ts';

/** From a thread's loss to the first act of the next one: what starting one takes (DESIGN.md). */
const RESTART_NS = 30_000_000;
/** The same of other machines, of one worker or of a stage of all (restart-stages.ts): for who compares recoveries by what those take. */
export type SuccessorTime = (worker: number, isOfAll: boolean) => number;
/** Beside its controllers. */
const ON_WORKERS: ReadonlySet<Role> = new Set<Role>(['npu', 'dp-group', 'expert', 'output']);

export type VirtualWorkersPorts = {
  readonly plan: AnyPodPlan;
  readonly space: AddressSpace;
  readonly directory: Directory;
  readonly host: VirtualHost;
  readonly npus: MachineNpus;
  /** NPUs forget what they were given, with the output processes of their groups. */
  readonly forget: (npus: readonly number[]) => void;
};

export class VirtualWorkers {
  readonly #ports: VirtualWorkersPorts;
  /** Those that are lost. */
  readonly #restarting = new Set<number>();
  /** Those whose controllers alone are lost: what ends that loss. */
  readonly #headless = new Map<number, () => void>();
  /** Those that have no successor: what one would begin with. */
  readonly #homeless = new Map<number, () => void>();
  /** Of those that begin anew all together: what each one's successor begins with; and how often that was begun. */
  readonly #successors = new Map<number, () => void>();
  #restarts = 0;
  /** Those who do not hear of losses now. */
  #deaf = 0;
  /** Workers that were lost since a link to them was broken. */
  brokenLinks = 0;
  readonly suspicions: Suspicions;
  readonly loops: ControlLoops;
  successorTime: SuccessorTime = () => RESTART_NS;
  /** Told of each worker that is lost, when it is: what hangs with it hangs no more. */
  onLost: ((worker: number) => void) | null = null;
  /** The callers' side, told as often: what the worker had not shown is lost. */
  tellCallers: (() => void) | null = null;
  /** Ends the control thread. */
  loseControl: ((reason: string) => void) | null = null;
  /** Successors that wait for them. */
  #waiting: (() => void)[] = [];
  /** Workers that nobody can be put in the place of: why, and what the successor of one that is lost would begin with. */
  readonly #withheld = new Map<number, { readonly reason: string; start: (() => void) | null }>();

  constructor(ports: VirtualWorkersPorts) {
    this.#ports = ports;
    this.loops = new ControlLoops({ plan: ports.plan, control: ports.space.control, cast: ports.host.cast });
    this.suspicions = new Suspicions({
      workerOf: (member) => ports.directory.workerOf(member),
      lifeOf: (worker) => ports.space.control.lifeOf(worker),
      now_ms: () => ports.host.clock.now_ms(),
      suspect: (worker, reason) => (this.lose(worker, reason) ? 'given_up' : 'over'),
      loseControl: (reason) => this.loseControl?.(reason),
    });
  }

  isLost(worker: number): boolean {
    return this.#restarting.has(worker);
  }

  /** It is lost, and nobody is to begin in its place, unless another gives way to it. */
  isHomeless(worker: number): boolean {
    return this.#homeless.has(worker);
  }

  /** Neither it nor they are lost. */
  hasControllers(worker: number): boolean {
    return !this.#restarting.has(worker) && !this.#headless.has(worker);
  }

  spawnControllers(worker: number): void {
    const { plan, space, directory, host } = this.#ports;
    const life = space.control.lifeOf(worker);
    for (const self of directory.controllersOn(worker)) host.spawn(self, birthOfController(self, plan, life));
  }

  /** The controllers that a worker hosts die, with their requests; its NPUs live. False: they have not begun anew since the last time. */
  loseControllers(worker: number): boolean {
    if (!this.hasControllers(worker)) return false;
    const endLoss = this.#loseActors(worker, () => false);
    this.#headless.set(worker, endLoss);
    this.#tellOfControllers(worker);
    this.#startLater(
      () => {
        // With the rest of it they begin anew together.
        if (this.#headless.get(worker) !== endLoss) return;
        this.#headless.delete(worker);
        endLoss();
        this.spawnControllers(worker);
      },
      this.successorTime(worker, false),
    );
    return true;
  }

  /** All that lives on the worker dies, as with its thread. False: it has not begun anew since the last time. */
  lose(worker: number, reason: string, endsAll = false): boolean {
    if (this.#restarting.has(worker)) return false;
    const { hosting } = this.#ports.plan;
    const beginAnew = this.#loseOne(worker, lostError(worker, reason));
    if (hosting.respawn === false) {
      this.#restarting.add(worker);
      this.#homeless.set(worker, beginAnew);
    } else if (endsAll || hosting.recovery === 'restart') this.#restartAll(worker, beginAnew);
    else this.#later(worker, beginAnew);
    this.onLost?.(worker);
    return true;
  }

  /** Its weights went bad. What was computed before a scrub found that may have come of them, at all workers. */
  loseWeights(worker: number, reason: string): void {
    const { host, npus, plan } = this.#ports;
    // Whoever has found it is amid something.
    host.later(0, () => {
      if (!npus.damaged.has(worker)) return;
      // What a lost one held concerns nobody, unless somebody is to sit there again.
      if (this.#homeless.has(worker)) return;
      if (!this.lose(worker, reason, plan.options.weight_checks === 'scrub')) host.later(RESTART_NS, () => this.loseWeights(worker, reason));
    });
  }

  /** `place` ends for good, and `lost` begins anew instead of it: with the weights that it is to have now. */
  switchRole(asked: SwitchRoleMessage): void {
    const { role_switch, lost, place } = asked;
    const { host, npus } = this.#ports;
    const beginAnew = this.#homeless.get(lost);
    // In a place that it has been given, soon.
    if (beginAnew !== undefined && this.#restarting.has(place) && !this.#homeless.has(place) && !this.#withheld.has(place)) {
      host.later(RESTART_NS, () => this.switchRole(asked));
      return;
    }
    if (beginAnew === undefined || this.#restarting.has(place)) {
      host.send(role_switch, 'control/0', roleRefused(place));
      return;
    }
    this.#homeless.delete(lost);
    this.#homeless.set(place, this.#loseOne(place, gaveWayError(place, lost)));
    this.#restarting.add(place);
    this.onLost?.(place);
    // None of it is where it is now.
    npus.damaged.add(lost);
    this.#later(lost, beginAnew);
  }

  /** All others end, too; then they begin in stages. Who is lost meanwhile has all of it begin once more. */
  #restartAll(lost: number, beginAnew: () => void): void {
    this.#successors.set(lost, beginAnew);
    this.#restarting.add(lost);
    const stages = restartStages(this.#ports.plan.hosting);
    for (const worker of stages.flat()) {
      if (this.#restarting.has(worker)) continue;
      this.#successors.set(worker, this.#loseOne(worker, endedError(worker, lost)));
      this.#restarting.add(worker);
      this.onLost?.(worker);
    }
    this.#beginStage(stages, ++this.#restarts);
  }

  #beginStage([stage = [], ...others]: readonly (readonly number[])[], restart: number): void {
    this.#startLater(
      () => {
        if (restart !== this.#restarts) return;
        for (const worker of stage) {
          // One that was lost alone has a successor of its own.
          const beginAnew = this.#successors.get(worker);
          if (!this.#successors.delete(worker)) continue;
          this.#restarting.delete(worker);
          beginAnew?.();
        }
        if (others.length > 0) this.#beginStage(others, restart);
      },
      this.successorTime(stage[0] ?? 0, true),
    );
  }

  /** Returns what its successor begins with. */
  #loseOne(worker: number, error: ErrorRecord): () => void {
    const { plan, directory, host, npus } = this.#ports;
    const lost = directory.npusOfWorker(worker);
    const thread = directory.threadOfWorker(worker);
    const controllersToo = this.#headless.get(worker);
    this.#headless.delete(worker);
    const beginAnew = this.#loseActors(worker, (actor) => ON_WORKERS.has(roleOf(actor)) && directory.threadOf(actor) === thread);
    npus.lose(worker);
    this.#ports.forget(lost);
    this.tellCallers?.();
    for (const npu of lost) host.send(address('task-executor', executorOfNpu(plan.hosting.deployment, npu).id), 'control/0', npuLost(npu, error));
    this.#tellOfControllers(worker);
    return () => {
      controllersToo?.();
      beginAnew();
      this.spawnControllers(worker);
      npus.restart(worker);
    };
  }

  /** What one of them sent the other has never come: as at a ring that holds rubbish, its reader's worker ends, or its writer's where the control thread reads. */
  loseOfLink(to: Address, from: Address): void {
    const { directory } = this.#ports;
    const { threads } = directory.seating;
    const reader = threads.indexOf(directory.threadOf(to));
    const worker = reader >= 0 ? reader : threads.indexOf(directory.threadOf(from));
    if (this.lose(worker, `the link from ${from} to ${to} is broken`)) this.brokenLinks++;
  }

  /**
   * Somebody who has to hear of losses does not: a worker that hangs or is cut off, or who tells of them. No successor is started before he has heard (workers.ts),
   * which is when the function is called that this returns.
   */
  deafen(): () => void {
    this.#deaf++;
    return () => {
      if (--this.#deaf > 0) return;
      const waiting = this.#waiting;
      this.#waiting = [];
      for (const start of waiting) this.#startLater(start, RESTART_NS);
    };
  }

  /** Nobody can be put in the worker's place, should it be lost: what its NPUs need can be read nowhere. Until the function is called that this returns. */
  withhold(worker: number, reason: string): () => void {
    this.#withheld.set(worker, { reason, start: null });
    return () => {
      const start = this.#withheld.get(worker)?.start;
      this.#withheld.delete(worker);
      if (start != null) this.#startLater(start, RESTART_NS);
    };
  }

  #later(worker: number, act: () => void): void {
    this.#restarting.add(worker);
    const start = (): void => {
      this.#restarting.delete(worker);
      act();
    };
    if (this.#withheld.has(worker)) this.#start(worker, start);
    else this.#startLater(() => this.#start(worker, start), this.successorTime(worker, false));
  }

  #start(worker: number, start: () => void): void {
    const withheld = this.#withheld.get(worker);
    if (withheld === undefined) {
      start();
      return;
    }
    withheld.start = start;
    const { plan, directory, host } = this.#ports;
    for (const npu of directory.npusOfWorker(worker))
      host.send(address('task-executor', executorOfNpu(plan.hosting.deployment, npu).id), 'control/0', npuGone(npu, goneError(worker, withheld.reason)));
  }

  #startLater(start: () => void, after_ns: number): void {
    this.#ports.host.later(after_ns, () => {
      if (this.#deaf > 0) this.#waiting.push(start);
      else start();
    });
  }

  #loseActors(worker: number, alsoLost: (actor: Address) => boolean): () => void {
    const { directory, host } = this.#ports;
    const lost = directory.controllersOn(worker);
    const executors = new Set(lost.filter((member) => roleOf(member) === 'job-executor').map(idOf));
    return host.lose((actor) => {
      const role = roleOf(actor);
      if (role === 'request' || role === 'job') return executors.has(jobExecutorOf(idOf(actor)));
      if (role === 'task') return executors.has(jobExecutorOf(requestOfTask(actor)));
      return lost.includes(actor) || alsoLost(actor);
    });
  }

  #tellOfControllers(worker: number): void {
    const { space, directory, host } = this.#ports;
    const lost = directory.controllersOn(worker);
    const life = space.control.lifeOf(worker);
    space.control.endLife(worker);
    for (const member of lost) {
      if (roleOf(member) === 'job-executor') new Admission(space.control).forget(idOf(member));
      for (const manager of CLUSTER_MANAGERS) if (!lost.includes(manager)) host.send(manager, 'control/0', memberLost(member, life));
    }
  }
}
