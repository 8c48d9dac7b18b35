/**
 * Lets the faults of a plan happen to a virtual pod, and knows of each whether it changed anything.
 * @module
 */
import { expertPlaces } from '../flowserve/experts/expert-places.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import { SUCCESSOR_NS, type VirtualPod } from '../pod/virtual-pod.ts';
import type { Address } from '../protocol/address.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Mail } from '../runtime/cast.ts';
import { ON_CONTROL } from '../runtime/directory.ts';
import type { Copy, Disturbance } from '../runtime/disturbance.ts';
import type { SeededRandom } from '../runtime/seeded-random.ts';
import { NS_PER_MS } from '../runtime/virtual-host.ts';
import type { Agenda } from './agenda.ts';
import type { CallReport } from './client.ts';
import { type Clients, callsComputedBy } from './clients.ts';
import { flipDramBit } from './dram-bits.ts';
import { phaseOf } from './fault-kinds.ts';
import type { Fault, FaultKind, FaultOf, Moment } from './fault-plan.ts';
import { type FaultReport, reportOf, stepFailure } from './fault-report.ts';
import type { FullDisk } from './full-disk.ts';
import { Hangs, isLedWithout } from './hangs.ts';
import { flipKvBit } from './kv-bits.ts';
import { Lives } from './lives.ts';
import { begins, strikesBefore } from './phases.ts';
import { flipNextRows } from './row-bits.ts';
import { actorNamedBy, struckBy } from './struck-part.ts';
import { Ways } from './ways.ts';
import { flipWeightBit } from './weight-bits.ts';
import { writeOn } from './zombie.ts';

/** Who comes back reads mail for so long at most before its NPUs go on. */
const MAIL_FIRST_NS = 50_000;
/** A zombie writes over what it has written; so often at most, where nobody succeeds it. */
const REWRITTEN_NS = 3 * NS_PER_MS;
const REWRITTEN_MAX = 20;

/** They have no time of their own: they are over when they have been met, or all is healed. */
const LASTING: readonly FaultKind[] = ['step-fails', 'row-bit-flip', 'dram-bit-flip', 'weights-bit-flip'];

type Pod = Pick<VirtualPod, 'control' | 'isLost' | 'loseControl'>;

const atOf = (fault: Fault): Moment | undefined => ('at' in fault ? fault.at : undefined);

type Injected = {
  /** As it strikes, once it has. */
  fault: Fault;
  state: 'waiting' | 'at work' | 'over';
  hasStruck: boolean;
  effect: number;
  seen: number;
  failing: Set<string>;
  /** The worker that it ends with. */
  hangsOn: number;
  end: () => void;
};

export class Injector implements Disturbance {
  readonly #pod: Pod;
  readonly #agenda: Agenda;
  readonly #random: SeededRandom;
  readonly #faults: readonly Injected[];
  /** How many calls, rebalances and changes of shape. */
  readonly #underWay: () => number;
  readonly #clients: Clients;
  readonly #disk: FullDisk | null;
  readonly lives = new Lives();
  readonly hangs: Hangs;
  #ways: Ways;
  /** The longest step that somebody was slow at. */
  slowest_ms = 0;
  #events = 0;
  #isHealed = false;

  constructor(pod: Pod, agenda: Agenda, faults: readonly Fault[], random: SeededRandom, underWay: () => number, clients: Clients, disk: FullDisk | null) {
    this.#pod = pod;
    this.#agenda = agenda;
    this.#random = random;
    this.#underWay = underWay;
    this.#clients = clients;
    this.#disk = disk;
    this.#ways = new Ways(pod.control, random);
    this.hangs = new Hangs(pod);
    this.#faults = faults.map((fault) => ({
      fault,
      state: 'waiting',
      hasStruck: false,
      effect: 0,
      seen: 0,
      failing: new Set(),
      hangsOn: ON_CONTROL,
      end: () => {},
    }));
  }

  get #control(): VirtualControl {
    return this.#pod.control;
  }

  /** From now on the plan counts its time. */
  begin(): void {
    this.attend();
    for (const injected of this.#faults) {
      const at = atOf(injected.fault);
      if (at !== undefined && 'ms' in at) this.#agenda.later(at.ms * NS_PER_MS, () => this.#strike(injected));
    }
  }

  /** The pod, or the one that has just begun in its place. */
  attend(): void {
    const { host, workers } = this.#control;
    this.lives.begin(this.#control);
    this.#ways = new Ways(this.#control, this.#random);
    workers.onLost = (worker) => {
      this.lives.losses.note();
      this.#endHangs(worker);
    };
    if (!this.#isHealed && this.#faults.some(({ fault }) => phaseOf(fault) !== 'client')) host.disturbance = this;
  }

  /** Nothing is broken from now on, and nothing will be. */
  heal(): void {
    this.#control.host.disturbance = null;
    this.#isHealed = true;
    for (const injected of this.#faults) this.#end(injected);
  }

  report(): FaultReport[] {
    return this.#faults.map(reportOf);
  }

  /** What clients made of their faults: of those that were to leave or to dawdle by how much they have read, and of those that had to leave. */
  commit(calls: readonly CallReport[]): void {
    this.#clients.close();
    for (const injected of this.#faults) {
      const { fault } = injected;
      const call = 'call' in fault ? calls[fault.call] : undefined;
      if (call === undefined) continue;
      if (phaseOf(fault) === 'client') injected.hasStruck = true;
      // Who goes when all has come already changes nothing, and neither does who dawdles over nothing.
      if (fault.kind === 'client-slow') injected.effect = call.chunks > 1 ? call.chunks : 0;
      else if (phaseOf(fault) === 'client' || injected.effect > 0) injected.effect = call.code === 'cancelled' ? 1 : 0;
    }
  }

  /** Nothing is recorded any more: has the disk cut the trace off? */
  commitTrace(): void {
    for (const injected of this.#faults)
      if (injected.fault.kind === 'trace-disk-full' && injected.hasStruck && this.#disk?.hasCut === true) injected.effect = 1;
  }

  meet(mail: Mail): void {
    this.#events++;
    // When it has been heard.
    if (mail.message.type === 'SERVE') this.#control.host.later(0, () => this.lives.losses.note());
    if (mail.message.type === 'NPU_BACK') this.lives.losses.returned(mail.message.npu);
    if (mail.message.type === 'STEP_FAILED') this.#noteFailing(mail.to, mail.message.npu);
    for (const injected of this.#faults) {
      const { fault, state } = injected;
      const at = atOf(fault);
      if (state !== 'waiting' || at === undefined || 'ms' in at) continue;
      if ('event' in at) {
        if (this.#events === at.event) this.#strike(injected);
      } else if (begins(at.phase, mail) && ++injected.seen === at.nth) {
        if (at.there) injected.fault = this.#metBy(fault, mail);
        if (strikesBefore(at.phase)) this.#strike(injected);
        else this.#control.host.later(0, () => this.#strike(injected));
      }
    }
  }

  /** What an actor throws ends its thread. */
  #crash(injected: Injected, actor: Address): void {
    const { directory, workers } = this.#control;
    const worker = directory.workerOf(actor);
    if (worker === ON_CONTROL) this.#loseControl(injected, SUCCESSOR_NS);
    else if (workers.lose(worker, `a fault plan let ${actor} crash`)) injected.effect += this.#underWay();
  }

  #loseControl(injected: Injected, successor_ns: number): void {
    injected.effect += this.#underWay();
    this.#pod.loseControl(successor_ns);
  }

  /** All threads end with the control thread, and what is broken there is so no more. */
  lose(): void {
    for (const injected of this.#faults) if (injected.state === 'at work') this.#end(injected);
  }

  /** The fault, of whom the phase has come to. */
  #metBy(fault: Fault, mail: Mail): Fault {
    if (fault.kind !== 'client-gone') return struckBy(fault, mail, this.#control.directory);
    return { ...fault, call: this.#clients.metBy(mail, this.#control) ?? fault.call };
  }

  /** Whoever its DP group holds when it hears of the step that failed. */
  #noteFailing(group: Address, npu: number): void {
    const calls = callsComputedBy(group, this.#control);
    for (const { fault, hasStruck, failing } of this.#faults)
      if (fault.kind === 'step-fails' && fault.npu === npu && hasStruck) for (const call of calls) failing.add(call);
  }

  transmit(mail: Mail, delay_ns: number): readonly Copy[] | null {
    for (const injected of this.#faults) {
      if (injected.state !== 'at work') continue;
      const { fault } = injected;
      const copies = this.#ways.copiesUnder(fault, mail, delay_ns);
      if (copies === null) continue;
      injected.effect = fault.kind === 'ring-full' ? this.#ways.waitedAt(fault) : injected.effect + 1;
      return copies;
    }
    return null;
  }

  timer_ms(owner: Address, delay_ms: number): number {
    let runs_ms = delay_ms;
    for (const injected of this.#faults) {
      const { fault, state } = injected;
      if (state !== 'at work' || fault.kind !== 'clock-skew' || this.#ways.threadOf(owner) !== this.#ways.thread(fault.thread)) continue;
      injected.effect++;
      runs_ms *= fault.factor;
    }
    if (delay_ms > 0 && this.#ways.threadOf(owner) === this.#ways.thread('control'))
      this.lives.losses.hurry = Math.min(this.lives.losses.hurry, runs_ms / delay_ms);
    return runs_ms;
  }

  step_ns(npu: Address, duration_ns: number): number {
    let takes_ns = duration_ns;
    for (const injected of this.#faults) {
      const { fault, state } = injected;
      if (state !== 'at work' || (fault.kind !== 'npu-slow' && fault.kind !== 'npu-jitter') || npu !== `npu/${fault.npu}`) continue;
      injected.effect++;
      takes_ns *= fault.kind === 'npu-slow' ? fault.factor : 1 + (this.#random.below(1_000) / 1_000) * (fault.factor - 1);
    }
    if (takes_ns > duration_ns) this.slowest_ms = Math.max(this.slowest_ms, takes_ns / NS_PER_MS);
    return Math.ceil(takes_ns);
  }

  #strike(injected: Injected): void {
    if (injected.state !== 'waiting' || this.#pod.isLost) return;
    const { fault } = injected;
    injected.state = 'at work';
    injected.hasStruck = true;
    this.#break(injected);
    if ('for_ms' in fault) this.#control.host.later(fault.for_ms * NS_PER_MS, () => this.#end(injected));
    else if (!LASTING.includes(fault.kind)) this.#end(injected);
  }

  #end(injected: Injected): void {
    if (injected.state === 'at work') injected.end();
    injected.state = 'over';
  }

  /** Its successor does not hang. */
  #endHangs(worker: number): void {
    for (const injected of this.#faults) if (injected.hangsOn === worker) this.#end(injected);
  }

  #break(injected: Injected): void {
    const { fault } = injected;
    const { workers, npus, directory, plan, space } = this.#control;
    switch (fault.kind) {
      case 'worker-lost':
        if (workers.lose(fault.worker, 'a fault plan killed it')) injected.effect += this.#underWay();
        break;
      case 'zombie-writes':
        if (!workers.lose(fault.worker, 'a fault plan declared it dead')) break;
        injected.effect += this.#underWay();
        this.#writeOn(fault.worker);
        break;
      case 'expert-lost': {
        const [layer] = expertPlaces(plan, space, directory);
        const holders = layer?.by_executor[fault.executor]?.npus[fault.expert] ?? [];
        const holder = holders[fault.copy % Math.max(1, holders.length)];
        if (holder !== undefined && workers.lose(directory.workerOfNpu(holder), 'a fault plan killed it')) injected.effect += this.#underWay();
        break;
      }
      case 'control-lost':
        this.#loseControl(injected, fault.successor_ms * NS_PER_MS);
        break;
      case 'controllers-lost':
        if (workers.loseControllers(fault.worker)) injected.effect += this.#underWay();
        break;
      case 'step-fails':
        injected.end = npus.failStep(fault.npu, () => {
          injected.effect++;
          return new MinipodError('worker_failed', stepFailure(fault.npu));
        });
        break;
      case 'worker-hangs': {
        const thread = directory.threadOfWorker(fault.worker);
        injected.hangsOn = fault.worker;
        this.#hang(injected, directory.npusOfWorker(fault.worker), true, ({ to }) => this.#ways.threadOf(to) === thread);
        break;
      }
      case 'thread-pauses': {
        const thread = this.#ways.thread(fault.thread);
        if (fault.thread !== 'control') injected.hangsOn = fault.thread;
        this.#hang(injected, fault.thread === 'control' ? [] : directory.npusOfWorker(fault.thread), true, ({ to }) => this.#ways.threadOf(to) === thread);
        break;
      }
      case 'npu-hangs':
        injected.hangsOn = directory.workerOfNpu(fault.npu);
        this.#hang(injected, [fault.npu], false, ({ to }) => to === `npu/${fault.npu}`);
        break;
      case 'dp-group-hangs':
      case 'task-executor-hangs':
      case 'job-executor-hangs':
      case 'cluster-manager-hangs': {
        const hung = actorNamedBy(fault);
        injected.hangsOn = directory.workerOf(hung);
        const isReplaced = fault.kind === 'cluster-manager-hangs' ? () => isLedWithout(hung, this.#control) : undefined;
        this.#hang(injected, [], fault.kind === 'task-executor-hangs', ({ to }) => to === hung, isReplaced);
        break;
      }
      case 'npu-crashes':
        this.#crash(injected, `npu/${fault.npu}`);
        break;
      case 'dp-group-crashes':
      case 'task-executor-crashes':
      case 'job-executor-crashes':
      case 'cluster-manager-crashes':
        this.#crash(injected, actorNamedBy(fault));
        break;
      case 'client-gone':
        if (this.#clients.leave(fault.call)) injected.effect++;
        break;
      case 'link-cut':
        this.#hang(
          injected,
          [],
          [fault.from, fault.to].includes('control'),
          (mail) => this.#ways.crosses(fault, mail) || (fault.both && this.#ways.crosses({ from: fault.to, to: fault.from }, mail)),
        );
        break;
      case 'ring-full':
        this.#ways.narrow(fault);
        if ([fault.from, fault.to].includes('control')) injected.end = workers.deafen();
        break;
      case 'trace-disk-full':
        this.#disk?.fillUp(fault.bytes);
        break;
      case 'kv-bit-flip':
        injected.effect += flipKvBit(this.#control, fault.npu, fault.bit, fault.block) ? 1 : 0;
        break;
      case 'dram-bit-flip':
        this.#flipInDram(injected, fault);
        break;
      case 'row-bit-flip':
        injected.end = flipNextRows(this.#control, fault.npu, fault.bit, () => injected.effect++);
        break;
      case 'weights-bit-flip':
        this.#flipResting(injected, flipWeightBit(this.#control, fault.npu, fault.bit, fault.part));
        break;
      default:
      // The others break what comes while they are at work.
    }
  }

  /** Of what comes to rest there within two milliseconds, where nothing does yet. */
  #flipInDram(injected: Injected, fault: FaultOf<'dram-bit-flip'>, looks = 20): void {
    if (injected.state !== 'at work') return;
    const flipBack = flipDramBit(this.#control, fault.npu, fault.bit, fault.block);
    if (flipBack !== null || looks === 0) this.#flipResting(injected, flipBack);
    else this.#control.host.later(NS_PER_MS / 10, () => this.#flipInDram(injected, fault, looks - 1));
  }

  /** A bit that nobody has used by the time when nothing is broken any more counts for nothing, and is flipped back: found only after that, it would be a fault of a pod that is healed. */
  #flipResting(injected: Injected, flipBack: (() => boolean) | null): void {
    if (flipBack === null) return;
    injected.effect++;
    injected.end = () => {
      if (flipBack()) injected.effect--;
    };
  }

  #hang(injected: Injected, npus: readonly number[], isDeaf: boolean, isHeld: (mail: Mail) => boolean, isReplaced?: () => boolean): void {
    const terms = { fault: this.#faults.indexOf(injected), worker: injected.hangsOn, npus, isDeaf, isHeld, isReplaced };
    const end = this.hangs.begin(terms, (effect) => {
      injected.effect += effect;
    });
    // Who comes back finds his mail, and what peers have asked of his NPUs: which he sees to first is chance.
    injected.end = () => end(this.#isHealed ? 0 : this.#random.below(2) * this.#random.below(MAIL_FIRST_NS));
  }

  /** Until its successor begins. */
  #writeOn(worker: number, times = REWRITTEN_MAX): void {
    if (times === 0 || !this.#control.workers.isLost(worker)) return;
    writeOn(this.#control, worker, this.#random);
    this.#control.host.later(REWRITTEN_NS, () => this.#writeOn(worker, times - 1));
  }
}
