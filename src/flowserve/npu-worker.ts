/**
 * A worker thread: the NPUs that live on it, their DP groups and experts, in one loop that alone ever waits.
 *
 *   receive frames ─▶ deliver messages ─▶ serve dispatches, poll steps ─▶ publish ─▶ (nothing to do: spin, then sleep)
 * @module
 */
import { workerData } from 'node:worker_threads';
import { dpGroup } from '../../actors/dp-group.ts';
import { expert } from '../../actors/expert.ts';
import { npu as npuMachine } from '../../actors/npu.ts';
import { npuOfExpert, workerOfNpu } from '../../actors/policies/placement.ts';
import type { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { offsetOf, segmentOf } from '../fabric/address.ts';
import { AddressSpace } from '../fabric/address-space.ts';
import { Links } from '../fabric/links.ts';
import { FRAME_KIND, type RingConsumer } from '../fabric/ring.ts';
import { instantiateKernels } from '../model/kernels/kernels.ts';
import { type Address, address, expertAddress, idOf } from '../protocol/address.ts';
import { launchDone, launchFailed, loaded, loadsCounted, npuReady, resetDone, started } from '../protocol/constructors.ts';
import { assert, toErrorRecord } from '../protocol/errors.ts';
import type { Message, Work } from '../protocol/messages.ts';
import { type NpuReport, type ThreadMessage, threadInspected, threadPeerDetached, threadStarted } from '../protocol/threads.ts';
import { PROTOCOL_HASH } from '../protocol/wire.ts';
import { ActorHost } from '../runtime/actor-host.ts';
import { monotonicClock } from '../runtime/clock.ts';
import { CONTROL_THREAD, threadOf, threadOfWorker } from '../runtime/directory.ts';
import { IdleLadder } from '../runtime/idle-ladder.ts';
import { MessagePort } from '../runtime/message-port.ts';
import { type Dispatch, Exchange } from '../xccl/exchange.ts';
import { Forward } from './forward.ts';
import type { PodPlan } from './pod-plan.ts';
import { StepProgram } from './step-program.ts';

export type WorkerData = {
  readonly plan: PodPlan;
  readonly worker: number;
  readonly memories: readonly WebAssembly.Memory[];
  readonly module: WebAssembly.Module;
  readonly origin_ms: number;
  readonly protocol: number;
};

/** Dispatches served between two looks at the rings. */
const DISPATCHES_PER_TURN = 64;

class NpuWorker {
  readonly #plan: PodPlan;
  readonly #worker: number;
  readonly #thread: number;
  readonly #space: AddressSpace;
  readonly #links: Links;
  readonly #port: MessagePort;
  readonly #exchange: Exchange;
  readonly #host: ActorHost;
  readonly #ladder: IdleLadder;
  readonly #programs = new Map<number, StepProgram>();
  #dispatches: Dispatch[] = [];
  /** Programs that gave a step up for which peers still work. */
  readonly #resetting = new Set<StepProgram>();
  #isStepping = false;

  constructor({ plan, worker, memories, module, origin_ms, protocol }: WorkerData) {
    assert(protocol === PROTOCOL_HASH, 'this worker was built from other sources than the pod that started it');
    this.#plan = plan;
    this.#worker = worker;
    this.#thread = threadOfWorker(worker);
    this.#space = new AddressSpace(memories, plan.memory.regions);
    const first = memories[0] as WebAssembly.Memory;
    const { control } = this.#space;
    this.#links = new Links(this.#thread, first, plan.rings, control);
    this.#port = new MessagePort(this.#links);
    this.#ladder = new IdleLadder(control, this.#thread);
    this.#exchange = new Exchange(this.#links, (npu) => threadOf(address('npu', npu), plan), {
      onDispatch: (dispatch) => this.#dispatches.push(dispatch),
      onCombine: (combine) => this.#programs.get(combine.destination)?.receive(combine),
    });
    this.#host = new ActorHost({
      clock: monotonicClock(origin_ms),
      isLocal: (to) => threadOf(to, plan) === this.#thread,
      transmit: (to, from, message) => this.#transmit(to, from, message),
      birthOf: () => null,
      hands: new Map(),
      launch: (npu, work) => this.#launch(idOf(npu), work),
      onUnexpected: () => {},
    });
    const kernels = memories.map((memory) => instantiateKernels(module, memory));
    for (let npu = 0; npu < plan.npus; npu++) {
      if (workerOfNpu(npu, plan.npus, plan.workers) !== worker) continue;
      const layout = plan.layouts[npu];
      const kernelsOfSegment = layout && kernels[segmentOf(layout.base)];
      assert(layout && kernelsOfSegment, `NPU ${npu} is not laid out`);
      this.#programs.set(npu, new StepProgram(new Forward(plan.config, layout, kernelsOfSegment), this.#space, this.#exchange, plan.npus));
    }
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
    this.#host.turn();
    this.#tellControl(threadStarted(this.#worker));
  }

  #startExperts(npu: number): void {
    const layout = this.#plan.layouts[npu];
    for (const [layer, { moe }] of (layout?.layers ?? []).entries()) {
      for (const [id, weights] of (moe?.experts ?? []).entries()) {
        if (weights === null || npuOfExpert(id, this.#plan.npus) !== npu) continue;
        const self = expertAddress(layer, id);
        this.#host.spawn(self, { machine: expert, input: { self } });
        this.#host.send(self, address('npu', npu), loaded(npu, weights.gateUp.address, weights.gateUp.head_bytes + weights.down.head_bytes));
      }
    }
  }

  run(): void {
    const { control } = this.#links;
    const hasWork = (): boolean => this.#links.hasInbound();
    const onFrame = (_peer: number, ring: RingConsumer): void => {
      const { kind } = ring.header;
      if (kind === FRAME_KIND.message || kind === FRAME_KIND.part) this.#receiveMessage(this.#port.read(ring));
      else this.#exchange.receive(ring);
    };
    for (let isStopped = false; !isStopped; ) {
      // Read first: what was sent before the stop is still delivered.
      isStopped = control.isStopped(this.#thread);
      let busy = this.#links.receive(onFrame);
      busy = this.#host.turn() || busy;
      busy = this.#serveDispatches() || busy;
      busy = this.#pollSteps() || busy;
      const waits = this.#links.flush();
      if (!busy && !isStopped && !this.#host.hasMail) this.#ladder.idle(hasWork, this.#isStepping || waits, this.#host.untilNextTimer_ms());
    }
  }

  /** The persistent kernel of the experts: takes what has arrived, in order, whoever sent it. */
  #serveDispatches(): boolean {
    if (this.#dispatches.length === 0) return false;
    const batch = this.#dispatches.splice(0, DISPATCHES_PER_TURN);
    for (const dispatch of batch) {
      const program = this.#programs.get(dispatch.destination);
      assert(program, `NPU ${dispatch.destination} does not live on worker ${this.#worker}`);
      const failed = !this.#computes(program, dispatch);
      const back = { source: dispatch.destination, destination: dispatch.source, step: dispatch.step, layer: dispatch.layer, failed };
      if (this.#programs.has(dispatch.source) || this.#links.isAttached(threadOf(address('npu', dispatch.source), this.#plan))) this.#exchange.combine(back);
    }
    // Whoever asked waits for this, and the next poll may compute for long.
    this.#links.flush();
    return true;
  }

  /** False: the experts failed at it. That is the sender's step to fail; this worker and all others go on. */
  #computes(program: StepProgram, dispatch: Dispatch): boolean {
    try {
      program.batches.compute(dispatch);
      return true;
    } catch {
      return false;
    }
  }

  /** Lets each running step go on as far as it can. True if one ended. */
  #pollSteps(): boolean {
    let ended = this.#finishResets();
    this.#isStepping = this.#resetting.size > 0;
    for (const program of this.#programs.values()) {
      if (!program.isRunning) continue;
      this.#isStepping = true;
      if (program.isWaiting) continue;
      const { step, self } = program;
      try {
        const poll = program.poll();
        if (poll.state === 'pending') continue;
        ended = true;
        this.#host.send(self, self, launchDone(step, poll.outcomes));
      } catch (error) {
        ended = true;
        this.#host.send(self, self, launchFailed(step, { ...toErrorRecord(error), code: 'worker_failed' }));
      }
    }
    // What the poll dispatched to NPUs of this very thread is work at hand.
    return ended || this.#dispatches.length > 0;
  }

  #finishResets(): boolean {
    let any = false;
    for (const program of this.#resetting) {
      if (!program.isReset) continue;
      any = true;
      this.#resetting.delete(program);
      this.#host.send(program.self, program.self, resetDone());
    }
    return any;
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
      case 'reset':
        program.reset();
        this.#resetting.add(program);
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
    const { layouts, config, npus } = this.#plan;
    for (let layer = 0; layer < config.layers; layer++) {
      if (layouts[npu]?.layers[layer]?.moe === null) continue;
      for (let id = npu; id < config.moe.experts; id += npus) {
        const self = expertAddress(layer, id);
        const total = layouts.reduce((sum, layout) => {
          const counts = layout.layers[layer]?.moe?.counts ?? 0;
          return sum + ((this.#space.wordsOf(counts)[(offsetOf(counts) >>> 2) + id] as number) >>> 0);
        }, 0);
        const news = total - (this.#reported.get(self) ?? 0);
        if (news <= 0) continue;
        this.#reported.set(self, total);
        experts.push(self);
        tokens.push(news);
      }
    }
    this.#host.send(address('npu', npu), address('npu', npu), loadsCounted(experts, tokens));
  }

  #transmit(to: Address, from: Address, message: Message): void {
    const thread = threadOf(to, this.#plan);
    if (this.#links.isAttached(thread)) this.#port.send(thread, to, from, message);
  }

  #receiveMessage(mail: ReturnType<MessagePort['read']>): void {
    if (mail === null) return;
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
        this.#links.detach(threadOfWorker(message.worker));
        // What it asked for must not be written into the memory of its successor.
        this.#dispatches = this.#dispatches.filter(({ source }) => !this.#livesOn(source, message.worker));
        for (let npu = 0; npu < this.#plan.npus; npu++)
          if (this.#livesOn(npu, message.worker)) for (const program of this.#programs.values()) program.forget(npu);
        this.#tellControl(threadPeerDetached(message.worker));
        break;
      case 'PEER_RESTARTED':
        this.#links.attach(threadOfWorker(message.worker));
        for (let npu = 0; npu < this.#plan.npus; npu++) {
          if (!this.#livesOn(npu, message.worker)) continue;
          for (const program of this.#programs.values()) program.dispatchAgain(npu);
        }
        break;
      case 'INSPECT':
        this.#tellControl(threadInspected(message.query, this.#worker, this.#report(), this.#links.counters(), [...this.#host.unexpected.keys()]));
        break;
      default:
        assert(false, `worker ${this.#worker} was sent ${message.type}`);
    }
  }

  #livesOn(npu: number, worker: number): boolean {
    return workerOfNpu(npu, this.#plan.npus, this.#plan.workers) === worker;
  }

  #report(): NpuReport[] {
    return [...this.#programs.keys()].map((npu): NpuReport => {
      const { scheduler } = this.#host.contextOf(address('dp-group', npu)) as { scheduler: StepScheduler };
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
      };
    });
  }
}

const worker = new NpuWorker(workerData as WorkerData);
worker.start();
worker.run();
