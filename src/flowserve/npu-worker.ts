/**
 * A worker thread: the NPUs that live on it, their DP groups and experts, in one loop that alone ever waits.
 *
 *   receive frames ─▶ deliver messages ─▶ serve dispatches, poll steps ─▶ publish ─▶ (nothing to do: spin, then sleep)
 * @module
 */
import { segmentOf } from '../fabric/address.ts';
import { AddressSpace } from '../fabric/address-space.ts';
import type { ControlPage } from '../fabric/control-page.ts';
import { Links } from '../fabric/links.ts';
import type { RingConsumer } from '../fabric/ring.ts';
import { instantiateKernels } from '../model/kernels/kernels.ts';
import { sharedVocabulary } from '../model/vocabulary.ts';
import { type Address, address } from '../protocol/address.ts';
import type { StepSample } from '../protocol/balancing.ts';
import { assert, invariantBroken, toErrorRecord, UnsoundMemory } from '../protocol/errors.ts';
import type { Message } from '../protocol/messages.ts';
import type { OutputMessage } from '../protocol/output.ts';
import { kvEventsRead, type ThreadMessage, threadFailed, threadPeerDetached, threadReported, threadStarted } from '../protocol/threads.ts';
import { PROTOCOL_HASH } from '../protocol/wire.ts';
import { ActorHost } from '../runtime/actor-host.ts';
import { firstAct, isLaterLife, type Mail, type Witness } from '../runtime/cast.ts';
import { type Clock, monotonicClock } from '../runtime/clock.ts';
import { Collections } from '../runtime/collections.ts';
import { CALLER_THREAD, CONTROL_THREAD, Directory, threadsOf } from '../runtime/directory.ts';
import { IdleLadder } from '../runtime/idle-ladder.ts';
import { MessagePort, type ReceivedMail } from '../runtime/message-port.ts';
import { ownThreadId } from '../runtime/os-thread.ts';
import { kernelChecksum } from './distflow/checksum.ts';
import { DISPATCHES_PER_TURN } from './experts/expert-service.ts';
import type { OnRouted } from './experts/routed-steps.ts';
import type { Arithmetic } from './forward/arithmetic.ts';
import { ExpertForward } from './forward/expert-forward.ts';
import { Forward } from './forward/forward.ts';
import { type OutputProcess, outputProcesses } from './frontend/output-process.ts';
import { kvNetworkOf } from './kv/kv-network.ts';
import { noteLosses } from './lost-peers.ts';
import { Npus } from './npus.ts';
import { areasOfDie, recordTableOf } from './pod-plan.ts';
import { Claims } from './records/claims.ts';
import type { StepProgram } from './steps/step-program.ts';
import { warmUp } from './steps/warm-up.ts';
import { storedExperts } from './weights/stored-experts.ts';
import type { Controllers, WorkerData } from './worker-data.ts';

/** A step that waits looks at its deadline this often, in turns of the loop: a waiting worker turns once a millisecond or faster. */
const TURNS_PER_DEADLINE_CHECK = 1_024;

/** Of turns that had nothing to do, this one begins a rest: the thread has slept since the first for as long as nobody woke it, a second if it may. */
const TURNS_TO_REST = 2;

/**
 * Of one that has failed, and been heard of: clearing up after it takes a runtime some 20 ms of a processor, and 10 of its helpers', which its successor and what is
 * computed anew need first. A third of a stall on two cores.
 */
const LIES_STILL_MS = 200;

export class NpuWorker {
  readonly #worker: number;
  readonly #thread: number;
  readonly #directory: Directory;
  readonly #space: AddressSpace;
  readonly #control: ControlPage;
  readonly #links: Links;
  readonly #port: MessagePort;
  readonly #host: ActorHost;
  readonly #ladder: IdleLadder;
  readonly #garbage = new Collections();
  readonly #npus: Npus;
  /** Of the DP groups whose first rank is here. */
  readonly #outputs: ReadonlyMap<Address, OutputProcess>;
  readonly #spawnControllers: () => void;
  /** Their programs as a list: a loop over a map allocates. */
  readonly #programs: readonly StepProgram<Arithmetic>[];
  readonly #now_us: () => number;
  /** The count of arrivals that was seen last, and what is still to be done about them. */
  #arrivals = 0;
  #samples: readonly StepSample[] | null = null;
  #mustServe = false;
  #mustPull = false;
  #mustMove = false;
  #isStalled = false;
  #isStepping = false;

  constructor(
    { plan, worker, life, seating, lost, epochs, die_epochs, layouts, kv_lines, memories, module, folder, origin_ms, protocol, isTraced }: WorkerData,
    controllers: Controllers,
    witnessOf?: (clock: Clock) => Witness | undefined,
    routedOf?: (clock: Clock) => OnRouted | undefined,
    samples: readonly StepSample[] | null = null,
  ) {
    assert(protocol === PROTOCOL_HASH, 'this worker was built from other sources than the pod that started it');
    this.#worker = worker;
    this.#samples = samples;
    this.#directory = new Directory(plan.hosting, seating);
    this.#thread = this.#directory.threadOfWorker(worker);
    this.#space = new AddressSpace(memories, plan.memory.regions);
    this.#control = this.#space.control;
    const clock = monotonicClock(origin_ms);
    const now_us = (): number => clock.now_ms() * 1000;
    this.#now_us = now_us;
    const memory = memories[0] as WebAssembly.Memory;
    this.#links = new Links(this.#thread, memory, plan.rings, this.#control, { now_us, epoch: epochs[this.#thread] as number, peer_epochs: epochs });
    // Spare seats and those in quarantine are nobody; the lost are told of again when they are back.
    for (let thread = CONTROL_THREAD + 1; thread < threadsOf(plan.hosting); thread++)
      if (thread !== this.#thread && (lost.includes(thread) || !seating.threads.includes(thread))) this.#links.detach(thread);
    this.#control.setOsThread(this.#thread, ownThreadId());
    this.#port = new MessagePort(this.#links, isTraced);
    const claims = new Claims({ control: this.#control, records: recordTableOf(plan, this.#space), directory: this.#directory, now_ms: clock.now_ms, life });
    this.#ladder = new IdleLadder(this.#control, this.#thread);
    this.#host = new ActorHost(
      {
        clock,
        isLocal: (to) => this.#directory.threadOf(to) === this.#thread,
        transmit: (to, from, message, cause) => this.#port.sendToLiving(this.#directory.threadOf(to), to, from, message, cause),
        birthOf: controllers.birthOf,
        hands: new Map([['output', ({ to, message }: Mail, act: number) => this.#outputs.get(to)?.receive(message as OutputMessage, act)]]),
        launch: (npu, work, cause) => this.#npus.launch(npu, work, cause),
        transfer: (group, work, cause) => this.#npus.transfers.perform(group, work, cause),
        claim: (actor, claim, cause) => {
          for (const message of claims.perform(actor, claim)) this.#host.send(actor, actor, message, cause);
        },
        onUnexpected: () => {},
        isLaterLife: () => isLaterLife(epochs[this.#thread] as number),
        witness: witnessOf?.(clock),
      },
      firstAct(this.#thread, epochs[this.#thread] as number),
    );
    const kernels = memories.map((memory) => instantiateKernels(module, memory));
    for (const kernel of kernels) kernel.setStopWord(this.#control.stopWordOffset(this.#thread));
    this.#npus = new Npus({
      plan,
      space: this.#space,
      directory: this.#directory,
      surroundings: {
        space: this.#space,
        areasOf: memoized((die) => areasOfDie(plan, die)),
        arrive: (die) => this.#arrive(die),
        now_ms: () => clock.now_ms(),
      },
      arithmetics: layouts.map((layout) => {
        const kernelsOfSegment = kernels[segmentOf(layout.base)];
        assert(kernelsOfSegment, `NPU ${layout.npu} lies in no segment`);
        return layout.kind === 'attention'
          ? new Forward(plan.config, layout, kernelsOfSegment)
          : new ExpertForward(plan.config, layout, layout.layers, kernelsOfSegment);
      }),
      die_epochs,
      checksum: kernelChecksum(this.#space, kernels),
      readExpert: storedExperts(folder, plan.config, this.#space, kernels).read,
      network: kvNetworkOf(kv_lines, { hosting: plan.hosting, control: this.#control, owner: epochs[this.#thread] as number, now_ms: clock.now_ms }),
      measuresSteps: true,
      onRouted: routedOf?.(clock),
      // One NPU warms up the thread for all, and they are alike.
      samplesOf: (program) => (this.#samples ??= warmUp(program, now_us)),
      warmExperts: (service) => (samples === null ? service.rehearse() : undefined),
      host: {
        spawn: (address, birth) => this.#host.spawn(address, birth),
        send: (to, from, message) => this.#host.send(to, from, message),
        complete: (npu, message, cause) => this.#host.send(npu, npu, message, cause),
        tellTransfer: (group, message, cause) => this.#host.send(group, group, message, cause),
      },
    });
    this.#outputs = outputProcesses(
      plan,
      layouts.map(({ npu }) => npu),
      sharedVocabulary(this.#space, this.#space.region('pod', 'vocabulary')),
      {
        show: (from, message) => this.#port.send(CALLER_THREAD, 'caller/0', from, message),
        send: (to, from, message, cause) => this.#host.send(to, from, message, cause),
      },
    );
    this.#programs = [...this.#npus.programs.values()];
    this.#spawnControllers = () => {
      for (const self of this.#directory.controllersOn(worker)) this.#host.spawn(self, controllers.birthOfController(self, plan, life));
    };
  }

  /** What its first steps took: of a thread that is warm its successors need no others. */
  get samples(): readonly StepSample[] {
    return this.#samples ?? [];
  }

  /** Brings the actors of this thread to life and says so. */
  start(): void {
    this.#npus.spawn();
    this.#spawnControllers();
    this.#host.turn();
    this.#tellControl(threadStarted(this.#worker));
    // Peers who wait hear of it before the first turn, which may compute.
    this.#links.flush();
  }

  /** Until it is told to stop, or fails. Either way the last that it writes is the acknowledgement: from then on its memory may be given to another. */
  run(): void {
    let isHeardOf = false;
    try {
      this.#loop();
    } catch (error) {
      isHeardOf = this.#sayLastWords(error);
      throw error;
    } finally {
      this.#control.acknowledgeStop(this.#thread);
      if (isHeardOf) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LIES_STILL_MS);
    }
  }

  #loop(): void {
    const control = this.#control;
    const { transfers } = this.#npus;
    const hasWork = (): boolean =>
      this.#mustServe || this.#mustPull || this.#mustMove || transfers.hasNews || control.arrivals(this.#thread) !== this.#arrivals || this.#links.hasInbound();
    const onFrame = (_peer: number, ring: RingConsumer): void => this.#receiveMessage(this.#port.read(ring));
    let isStopped = false;
    let idleTurns = 0;
    for (let turn = 0; !isStopped; turn = (turn + 1) | 0) {
      // Read first: what was sent before the stop is still delivered.
      isStopped = control.isStopped(this.#thread);
      let busy = this.#links.receive(onFrame);
      busy = this.#host.turn() || busy;
      this.#mustMove = false;
      // Sums of what is lent may take milliseconds: the token is on its way before, and so is word of the offer, which is summed while that travels.
      if (transfers.isSumming) this.#links.flush();
      busy = transfers.poll() || transfers.isBusy || busy;
      busy = this.#npus.moves.poll() || busy;
      busy = this.#npus.standby.poll() || busy;
      // A step may take long: what it does not change is on its way before.
      if (busy) this.#links.flush();
      busy = this.#serveDispatches() || busy;
      const hasEnded = this.#pollSteps(turn % TURNS_PER_DEADLINE_CHECK === 0);
      busy = hasEnded || busy;
      if (hasEnded || !busy) transfers.tellHolders();
      // Who waits for peers is not idle: they answer within microseconds.
      busy = this.#npus.weights.scrub(!busy && !this.#isStepping) || busy;
      const waits = this.#links.flush();
      // What the step has led to is on its way, and nobody waits for another one in its midst.
      if (hasEnded && this.#programs.every(isBetweenSteps)) this.#garbage.betweenSteps();
      if (busy || isStopped || this.#host.hasMail) {
        idleTurns = 0;
        continue;
      }
      const isAwaiting = this.#isStepping || this.#isStalled || waits || transfers.mustAskAgain;
      // Not at once: who has just had its answer often asks again.
      if (!isAwaiting && ++idleTurns === TURNS_TO_REST) this.#garbage.rest();
      this.#ladder.idle(hasWork, isAwaiting, this.#host.untilNextTimer_ms());
    }
  }

  /** Something came for a die: on this thread it is looked at in this turn or the next, another thread is told. */
  #arrive(die: number): void {
    const thread = this.#directory.threadOfDie(die);
    if (thread === this.#thread) {
      this.#mustServe = true;
      this.#mustPull = true;
      this.#mustMove = true;
    } else if (thread >= 0) this.#control.arrive(thread);
  }

  #lookForArrivals(): void {
    const arrivals = this.#control.arrivals(this.#thread);
    if (arrivals === this.#arrivals) return;
    this.#arrivals = arrivals;
    this.#mustServe = true;
    this.#mustPull = true;
    this.#mustMove = true;
  }

  /** The persistent kernel of the experts: takes what has arrived, in turn, whoever sent it. */
  #serveDispatches(): boolean {
    this.#lookForArrivals();
    // Nobody tells when room for answers gets free: it is looked for at every turn, which a stalled worker makes once a millisecond.
    if (!this.#mustServe && !this.#isStalled) return false;
    this.#mustServe = false;
    this.#isStalled = false;
    let any = false;
    for (const service of this.#npus.services) {
      // Who asks is ahead by a layer, and is served when this NPU's own step asks for its next one. One that has failed asks no more.
      if (this.#npus.programs.get(service.npu)?.goesOnFirst === true && !this.#npus.hasFailed(service.npu)) {
        this.#mustServe = true;
        continue;
      }
      const served = this.#npus.serve(service, DISPATCHES_PER_TURN);
      any ||= served > 0;
      this.#mustServe ||= served === DISPATCHES_PER_TURN;
      this.#isStalled ||= service.exchange.isStalled;
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
    for (const program of this.#programs) {
      if (!program.isRunning) continue;
      this.#isStepping = true;
      if (program.isWaiting && !mayPull && !isDeadlineDue) continue;
      const state = this.#npus.poll(program, isDeadlineDue);
      this.#mustPull ||= state === 'asked';
      ended ||= state === 'done';
    }
    return ended;
  }

  #receiveMessage({ to, from, message, cause }: ReceivedMail): void {
    if (to.startsWith('worker/')) this.#receiveThreadMessage(message as ThreadMessage);
    else this.#host.send(to, from, message as Message, cause);
  }

  #tellControl(message: ThreadMessage): void {
    this.#port.send(CONTROL_THREAD, 'control/0', address('worker', this.#worker), message, 'control');
  }

  /** Its end is heard of much later: a runtime first clears up after a thread. What broke it may break this too. True: it is heard of now. */
  #sayLastWords(error: unknown): boolean {
    try {
      this.#tellControl(threadFailed(toErrorRecord(error).message, error instanceof UnsoundMemory));
      return !this.#links.flush();
    } catch {
      return false;
    }
  }

  #receiveThreadMessage(message: ThreadMessage): void {
    switch (message.type) {
      case 'PEER_LOST':
        this.#links.detach(this.#directory.threadOfWorker(message.worker));
        this.#refresh(message.worker, true);
        this.#tellControl(threadPeerDetached(message.worker));
        break;
      case 'PEER_RESTARTED':
        this.#directory.move(message.worker, message);
        this.#refresh(message.worker, false);
        this.#links.attach(message.thread, message.epoch);
        // What this thread answered the successor before it knew where that one sits told nobody.
        this.#control.arrive(message.thread);
        for (const npu of this.#directory.npusOfWorker(message.worker)) for (const program of this.#programs) program.askAgain(npu);
        break;
      case 'REPORT':
        this.#tellControl(
          threadReported(
            message.query,
            this.#worker,
            this.#npus.report(this.#host.cast),
            this.#links.counters(),
            this.#npus.transfers.report(),
            message.experts === 'none' ? [] : this.#npus.expertReports(message.experts === 'measure' ? this.#now_us : null),
            this.#garbage.report(),
            [...this.#host.cast.unexpected.keys()],
          ),
        );
        break;
      case 'READ_KV_EVENTS':
        this.#tellControl(kvEventsRead(message.query, this.#npus.kvEvents(this.#host.cast, message.dp_group, message.from)));
        break;
      default:
        invariantBroken(`worker ${this.#worker} was sent ${message.type}`);
    }
  }

  #refresh(worker: number, isLost: boolean): void {
    noteLosses(this.#npus, this.#directory, this.#directory.npusOfWorker(worker), () => isLost);
    // What a round was waiting for may not come any more.
    this.#mustServe = true;
    this.#mustPull = true;
  }
}

const isBetweenSteps = ({ hasBegun }: StepProgram<Arithmetic>): boolean => !hasBegun;

function memoized<Value>(make: (die: number) => Value): (die: number) => Value {
  const made: Value[] = [];
  return (die) => {
    made[die] ??= make(die);
    return made[die];
  };
}
