/**
 * A worker thread: the NPUs that live on it, their DP groups and experts, in one loop that alone ever waits.
 *
 *   receive frames ─▶ deliver messages ─▶ serve dispatches, poll steps ─▶ publish ─▶ (nothing to do: spin, then sleep)
 * @module
 */
import { dpGroup } from '../../actors/dp-group.ts';
import { expert } from '../../actors/expert.ts';
import { npu as npuMachine } from '../../actors/npu.ts';
import { npuOfExpert } from '../../actors/policies/placement.ts';
import type { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { segmentOf } from '../fabric/address.ts';
import { AddressSpace } from '../fabric/address-space.ts';
import type { ControlPage } from '../fabric/control-page.ts';
import { Links } from '../fabric/links.ts';
import type { RingConsumer } from '../fabric/ring.ts';
import { instantiateKernels } from '../model/kernels/kernels.ts';
import { type Address, address, expertAddress, idOf } from '../protocol/address.ts';
import { launchDone, launchFailed, loaded, loadsCounted, npuReady, resetDone, started } from '../protocol/constructors.ts';
import { assert, toErrorRecord } from '../protocol/errors.ts';
import type { Message, Work } from '../protocol/messages.ts';
import { type NpuReport, type ThreadMessage, threadInspected, threadPeerDetached, threadStarted } from '../protocol/threads.ts';
import { PROTOCOL_HASH } from '../protocol/wire.ts';
import { ActorHost } from '../runtime/actor-host.ts';
import { monotonicClock } from '../runtime/clock.ts';
import { CONTROL_THREAD, Directory, type Seating, threadsOf } from '../runtime/directory.ts';
import { IdleLadder } from '../runtime/idle-ladder.ts';
import { MessagePort } from '../runtime/message-port.ts';
import { Endpoint } from '../xccl/endpoint.ts';
import { Exchange } from '../xccl/exchange.ts';
import { ExpertLoads } from './expert-loads.ts';
import { Forward } from './forward.ts';
import type { NpuLayout } from './npu-layout.ts';
import { areasOfDie, type PodPlan } from './pod-plan.ts';
import { StepProgram } from './step-program.ts';

export type WorkerData = {
  readonly plan: PodPlan;
  readonly worker: number;
  readonly seating: Seating;
  /** Threads whose rings nobody may touch now. */
  readonly lost: readonly number[];
  /** By thread: the epochs when this thread was started. Its own raised since, it was given up before it began; a peer's, that one was. */
  readonly epochs: readonly number[];
  /** The same of its dies, in the order of `layouts`. */
  readonly die_epochs: readonly number[];
  /** Of this worker's NPUs, in order, on the dies that they have now. */
  readonly layouts: readonly NpuLayout[];
  readonly memories: readonly WebAssembly.Memory[];
  readonly module: WebAssembly.Module;
  readonly origin_ms: number;
  readonly protocol: number;
};

/** Dispatches that one NPU's experts serve between two looks at the rings. */
const DISPATCHES_PER_TURN = 64;
/** A step that waits looks at its deadline this often, in turns of the loop: a waiting worker turns once a millisecond or faster. */
const TURNS_PER_DEADLINE_CHECK = 1_024;

export class NpuWorker {
  readonly #plan: PodPlan;
  readonly #worker: number;
  readonly #thread: number;
  readonly #layouts: readonly NpuLayout[];
  readonly #directory: Directory;
  readonly #space: AddressSpace;
  readonly #control: ControlPage;
  readonly #links: Links;
  readonly #port: MessagePort;
  readonly #host: ActorHost;
  readonly #ladder: IdleLadder;
  readonly #loads: ExpertLoads;
  readonly #programs = new Map<number, StepProgram>();
  /** The same as a list: a loop over a map allocates. */
  readonly #steps: readonly StepProgram[];
  /** The count of arrivals that was seen last, and what is still to be done about them. */
  #arrivals = 0;
  #mustServe = false;
  #mustPull = false;
  #isStalled = false;
  #isStepping = false;

  constructor({ plan, worker, seating, lost, epochs, die_epochs, layouts, memories, module, origin_ms, protocol }: WorkerData) {
    assert(protocol === PROTOCOL_HASH, 'this worker was built from other sources than the pod that started it');
    this.#plan = plan;
    this.#worker = worker;
    this.#layouts = layouts;
    this.#directory = new Directory(plan.topology, seating);
    this.#thread = this.#directory.threadOfWorker(worker);
    this.#space = new AddressSpace(memories, plan.memory.regions);
    this.#control = this.#space.control;
    this.#loads = new ExpertLoads(plan, this.#space, this.#directory);
    const clock = monotonicClock(origin_ms);
    const now_us = (): number => clock.now_ms() * 1000;
    const memory = memories[0] as WebAssembly.Memory;
    this.#links = new Links(this.#thread, memory, plan.rings, this.#control, { now_us, epoch: epochs[this.#thread] as number, peer_epochs: epochs });
    // Spare seats and those in quarantine are nobody; the lost are told of again when they are back.
    for (let thread = CONTROL_THREAD + 1; thread < threadsOf(plan.topology); thread++)
      if (thread !== this.#thread && (lost.includes(thread) || !seating.threads.includes(thread))) this.#links.detach(thread);
    this.#port = new MessagePort(this.#links);
    this.#ladder = new IdleLadder(this.#control, this.#thread);
    this.#host = new ActorHost({
      clock,
      isLocal: (to) => this.#directory.threadOf(to) === this.#thread,
      transmit: (to, from, message) => this.#transmit(to, from, message),
      birthOf: () => null,
      hands: new Map(),
      launch: (npu, work) => this.#launch(idOf(npu), work),
      onUnexpected: () => {},
    });
    const kernels = memories.map((memory) => instantiateKernels(module, memory));
    for (const kernel of kernels) kernel.setStopWord(this.#control.stopWordOffset(this.#thread));
    const dieOf = (npu: number): number => this.#directory.dieOfNpu(npu);
    const surroundings = {
      space: this.#space,
      areasOf: memoized((die) => areasOfDie(plan, die)),
      arrive: (die: number) => this.#arrive(die),
      now_ms: () => clock.now_ms(),
    };
    for (const [index, layout] of layouts.entries()) {
      const kernelsOfSegment = kernels[segmentOf(layout.base)];
      assert(kernelsOfSegment, `NPU ${layout.npu} lies in no segment`);
      const exchange = new Exchange(new Endpoint(dieOf(layout.npu), surroundings, die_epochs[index]), plan.config.hiddenSize * 4);
      this.#programs.set(layout.npu, new StepProgram(new Forward(plan.config, layout, kernelsOfSegment), this.#space, exchange, plan.npus, dieOf));
    }
    this.#steps = [...this.#programs.values()];
  }

  /** Brings the actors of this thread to life and says so. */
  start(): void {
    const { kv_blocks, kv_block_size, max_batch_tokens, max_batch_requests } = this.#plan.options;
    const limits = { kv_blocks, kv_block_size, batch_tokens_max: max_batch_tokens, batch_requests_max: max_batch_requests };
    for (const npu of this.#programs.keys()) {
      const [self, group] = [address('npu', npu), address('dp-group', npu)];
      this.#host.spawn(self, { machine: npuMachine, input: { self, dp_group: group } });
      this.#host.spawn(group, { machine: dpGroup, input: { self: group, npu: self, limits } });
      this.#host.send(self, self, started());
      this.#startExperts(npu);
      this.#host.send('task-executor/0', self, npuReady(npu));
    }
    // What was counted before is not news.
    for (const layer of this.#loads.layers) for (const npu of this.#programs.keys()) this.#newLoads(npu, layer, () => {});
    this.#host.turn();
    this.#tellControl(threadStarted(this.#worker));
  }

  #startExperts(npu: number): void {
    const layout = this.#layouts.find((candidate) => candidate.npu === npu);
    for (const [layer, { moe }] of (layout?.layers ?? []).entries()) {
      for (const [id, weights] of (moe?.experts ?? []).entries()) {
        if (weights === null || npuOfExpert(id, this.#plan.npus) !== npu) continue;
        const self = expertAddress(layer, id);
        this.#host.spawn(self, { machine: expert, input: { self } });
        this.#host.send(self, address('npu', npu), loaded(npu, weights.gateUp.address, weights.gateUp.head_bytes + weights.down.head_bytes));
      }
    }
  }

  /** Until it is told to stop, or fails. Either way the last that it writes is the acknowledgement: from then on its memory may be given to another. */
  run(): void {
    try {
      this.#loop();
    } finally {
      this.#control.acknowledgeStop(this.#thread);
    }
  }

  #loop(): void {
    const control = this.#control;
    const hasWork = (): boolean => this.#mustServe || this.#mustPull || control.arrivals(this.#thread) !== this.#arrivals || this.#links.hasInbound();
    const onFrame = (_peer: number, ring: RingConsumer): void => this.#receiveMessage(this.#port.read(ring));
    let isStopped = false;
    for (let turn = 0; !isStopped; turn = (turn + 1) | 0) {
      // Read first: what was sent before the stop is still delivered.
      isStopped = control.isStopped(this.#thread);
      let busy = this.#links.receive(onFrame);
      busy = this.#host.turn() || busy;
      busy = this.#serveDispatches() || busy;
      busy = this.#pollSteps(turn % TURNS_PER_DEADLINE_CHECK === 0) || busy;
      const waits = this.#links.flush();
      if (!busy && !isStopped && !this.#host.hasMail) this.#ladder.idle(hasWork, this.#isStepping || this.#isStalled || waits, this.#host.untilNextTimer_ms());
    }
  }

  /** Something came for a die: on this thread it is looked at in this turn or the next, another thread is told. */
  #arrive(die: number): void {
    const thread = this.#directory.threadOfDie(die);
    if (thread === this.#thread) {
      this.#mustServe = true;
      this.#mustPull = true;
    } else if (thread >= 0) this.#control.arrive(thread);
  }

  #lookForArrivals(): void {
    const arrivals = this.#control.arrivals(this.#thread);
    if (arrivals === this.#arrivals) return;
    this.#arrivals = arrivals;
    this.#mustServe = true;
    this.#mustPull = true;
  }

  /** The persistent kernel of the experts: takes what has arrived, in turn, whoever sent it. */
  #serveDispatches(): boolean {
    this.#lookForArrivals();
    // Nobody tells when room for answers gets free: it is looked for at every turn, which a stalled worker makes once a millisecond.
    if (!this.#mustServe && !this.#isStalled) return false;
    this.#mustServe = false;
    this.#isStalled = false;
    let any = false;
    for (const program of this.#steps) {
      const served = program.serve(DISPATCHES_PER_TURN);
      any ||= served > 0;
      this.#mustServe ||= served === DISPATCHES_PER_TURN;
      this.#isStalled ||= program.exchange.isStalled;
    }
    return any;
  }

  /** Lets each running step go on until it waits for its peers. True if one ended. */
  #pollSteps(isDeadlineDue: boolean): boolean {
    this.#lookForArrivals();
    const mayPull = this.#mustPull;
    this.#mustPull = false;
    this.#isStepping = false;
    let ended = false;
    for (const program of this.#steps) {
      if (!program.isRunning) continue;
      this.#isStepping = true;
      if (program.isWaiting && !mayPull && !isDeadlineDue) continue;
      const { step, self } = program;
      try {
        if (isDeadlineDue) program.checkDeadline();
        const poll = program.poll();
        this.#mustPull ||= poll.state === 'asked';
        if (poll.state !== 'done') continue;
        ended = true;
        this.#host.send(self, self, launchDone(step, poll.outcomes));
      } catch (error) {
        ended = true;
        this.#host.send(self, self, launchFailed(step, { ...toErrorRecord(error), code: 'worker_failed' }));
      }
    }
    return ended;
  }

  #launch(npu: number, work: Work): void {
    const program = this.#programs.get(npu);
    assert(program, `NPU ${npu} does not live on worker ${this.#worker}`);
    const self = address('npu', npu);
    switch (work.kind) {
      case 'step':
        try {
          program.start(work.plan);
        } catch (error) {
          this.#host.send(self, self, launchFailed(work.plan.step, { ...toErrorRecord(error), code: 'worker_failed' }));
        }
        break;
      case 'release-slots':
        program.release(work.slots);
        break;
      case 'reset':
        program.reset();
        this.#host.send(self, self, resetDone());
        break;
      case 'count-loads':
        this.#countLoads(npu);
        break;
    }
  }

  readonly #reported = new Map<Address, number>();

  /** Tokens that reached this NPU's own experts since the last report, over all NPUs' counters. */
  #countLoads(npu: number): void {
    const experts: Address[] = [];
    const tokens: number[] = [];
    for (const layer of this.#loads.layers)
      this.#newLoads(npu, layer, (self, news) => {
        experts.push(self);
        tokens.push(news);
      });
    this.#host.send(address('npu', npu), address('npu', npu), loadsCounted(experts, tokens));
  }

  #newLoads(npu: number, layer: number, tell: (expert: Address, tokens: number) => void): void {
    for (let id = npu; id < this.#plan.config.moe.experts; id += this.#plan.npus) {
      const self = expertAddress(layer, id);
      const total = this.#loads.of(layer, id);
      // An NPU that moved to another die counts from 0 again.
      const news = total - Math.min(total, this.#reported.get(self) ?? 0);
      this.#reported.set(self, total);
      if (news > 0) tell(self, news);
    }
  }

  #transmit(to: Address, from: Address, message: Message): void {
    const thread = this.#directory.threadOf(to);
    if (this.#links.isAttached(thread)) this.#port.send(thread, to, from, message);
  }

  #receiveMessage(mail: ReturnType<MessagePort['read']>): void {
    const { to, from, message } = mail;
    if (to.startsWith('worker/')) this.#receiveThreadMessage(message as ThreadMessage);
    else this.#host.send(to, from, message as Message);
  }

  #tellControl(message: ThreadMessage): void {
    this.#port.send(CONTROL_THREAD, 'control/0', address('worker', this.#worker), message, 'control');
  }

  #receiveThreadMessage(message: ThreadMessage): void {
    switch (message.type) {
      case 'PEER_LOST':
        this.#links.detach(this.#directory.threadOfWorker(message.worker));
        this.#refresh(message.worker);
        this.#tellControl(threadPeerDetached(message.worker));
        break;
      case 'PEER_RESTARTED':
        this.#directory.move(message.worker, message);
        this.#refresh(message.worker);
        this.#links.attach(message.thread, message.epoch);
        // What this thread answered the successor before it knew where that one sits told nobody.
        this.#control.arrive(message.thread);
        for (const npu of this.#directory.npusOfWorker(message.worker)) for (const program of this.#steps) program.askAgain(npu);
        break;
      case 'INSPECT':
        this.#tellControl(threadInspected(message.query, this.#worker, this.#report(), this.#links.counters(), [...this.#host.unexpected.keys()]));
        break;
      default:
        assert(false, `worker ${this.#worker} was sent ${message.type}`);
    }
  }

  #refresh(worker: number): void {
    for (const npu of this.#directory.npusOfWorker(worker)) for (const program of this.#steps) program.exchange.refresh(this.#directory.dieOfNpu(npu));
  }

  #report(): NpuReport[] {
    return [...this.#programs].map(([npu, { blocks, exchange }]): NpuReport => {
      const { scheduler } = this.#host.contextOf(address('dp-group', npu)) as { scheduler: StepScheduler };
      const { endpoint, replies } = exchange;
      exchange.sweepReplies();
      return {
        npu,
        state: this.#host.stateOf(address('npu', npu)) ?? 'gone',
        kv_blocks: scheduler.blocks.blocks,
        kv_blocks_used: scheduler.blocks.used,
        requests_running: scheduler.running,
        requests_waiting: scheduler.waiting,
        steps: scheduler.step,
        tokens_prefilled: scheduler.tokens_prefilled,
        tokens_decoded: scheduler.tokens_decoded,
        preemptions: scheduler.preemptions,
        die: endpoint.die,
        kv_blocks_held: blocks.used,
        kv_blocks_held_max: blocks.high_water,
        fields_written: endpoint.counters.writes,
        fields_stale: endpoint.counters.stale,
        dispatches_written: exchange.dispatches,
        dispatches_served: exchange.served,
        dispatches_refused: exchange.refused,
        pulled_bytes: exchange.pulled_bytes,
        reply_bytes: replies.used,
        reply_bytes_max: replies.high_water,
      };
    });
  }
}

function memoized<Value>(make: (die: number) => Value): (die: number) => Value {
  const made: Value[] = [];
  return (die) => {
    made[die] ??= make(die);
    return made[die];
  };
}
