/**
 * The pod's control plane, on a thread of its own: frontend, requests, jobs, tasks and executors. Comlink carries create, stats and close;
 * calls and cancellations travel on the rings between caller and pod. No token comes here: DP groups stream them to the caller's thread.
 * @module
 */
import { AddressSpace } from '../fabric/address-space.ts';
import { Admission } from '../fabric/admission.ts';
import { Links } from '../fabric/links.ts';
import { segmentsFor } from '../fabric/memory-plan.ts';
import type { RingConsumer } from '../fabric/ring.ts';
import { FRONTEND, FrontendProcess } from '../flowserve/frontend/frontend-process.ts';
import { type PodPlan, planPod, recordTableOf } from '../flowserve/pod-plan.ts';
import { Claims } from '../flowserve/records/claims.ts';
import { RequestRecords } from '../flowserve/records/request-records.ts';
import { openCheckpoint, parametersOf } from '../model/checkpoint.ts';
import { loadKernelModule } from '../model/kernels/kernels.ts';
import { loadTokenizer, type Tokenizer } from '../model/tokenizer.ts';
import { packVocabulary } from '../model/vocabulary.ts';
import { type Address, address, idOf, type Role, roleOf } from '../protocol/address.ts';
import type { CallerToPod, PromptRecord } from '../protocol/caller.ts';
import { drain, memberLost, npuGone, npuLost } from '../protocol/constructors.ts';
import { type ErrorRecord, invariantBroken, MinipodError } from '../protocol/errors.ts';
import type { RebalanceReport } from '../protocol/expert-maps.ts';
import type { ControlMessage, FrontendMessage, Message } from '../protocol/messages.ts';
import { type ThreadMessage, threadReport } from '../protocol/threads.ts';
import { executorOfNpu, firstGroups } from '../protocol/topology.ts';
import { ActorHost } from '../runtime/actor-host.ts';
import { firstAct, type Mail } from '../runtime/cast.ts';
import { type Clock, eventLoopTimers, monotonicClock, systemRandom } from '../runtime/clock.ts';
import { CALLER_THREAD, CLUSTER_MANAGERS, CONTROL_THREAD, Directory, jobExecutorsOf, ON_CONTROL, seatsOf } from '../runtime/directory.ts';
import { breathe, EventLoopSleeper, keepAwake, waitAtMost } from '../runtime/event-loop.ts';
import { MessagePort, type ReceivedMail } from '../runtime/message-port.ts';
import { ownThreadId } from '../runtime/os-thread.ts';
import { entryPoint } from '../runtime/thread-entry.ts';
import { witnessOf } from '../trace/act-log.ts';
import { birthOf, birthOfController, expertMapsOf, roleSwitchesOf } from './births.ts';
import { withCacheCosts } from './cache-costs.ts';
import type { ControlHandle, ControlOptions, ControlStats, ExpertsReport, OnInspected } from './control-handle.ts';
import { ControlWatch } from './control-watch.ts';
import { CorruptRings } from './corrupt-rings.ts';
import { Rebalances } from './expert-balancing.ts';
import { KvEventReader } from './kv-event-reader.ts';
import { NetworkCardKeeper } from './network-card.ts';
import { PodFigures } from './pod-figures.ts';
import { Recordings } from './recording.ts';
import { ScaleRequests } from './scale-requests.ts';
import { furnishDies, type LoadWatch, loadWeights } from './weights.ts';
import { goneError } from './worker-errors.ts';
import { WorkerReports } from './worker-reports.ts';
import { CALLER_PEER, Workers } from './workers.ts';

/** An idle control plane looks up this often; while it waits for its workers to start, or requests run, more often. A bell wakes it earlier. */
const SLEEP_MS = 250;
const SLEEP_BUSY_MS = 25;
/** Turns before the event loop has its turn. */
const TURNS_PER_BREATH = 8;
const CALLER: Address = 'caller/0';
const CONTROL: Address = 'control/0';
/** A step takes milliseconds; what has not let go by then is stopped as it is. */
const CLOSE_DEADLINE_MS = 2_000;
/** Of a pod that fails, whose callers wait to hear of it. */
const LAST_RECORDS_MS_MAX = 2_000;
/** Workers start in a fraction of a second, on a crowded machine in a few. */
const START_DEADLINE_MS = 60_000;

export class Control {
  readonly #plan: PodPlan;
  readonly directory: Directory;
  readonly #space: AddressSpace;
  readonly #port: MessagePort;
  readonly #host: ActorHost;
  readonly #frontend: FrontendProcess;
  readonly #workers: Workers;
  readonly #watch: ControlWatch;
  readonly #corruptRings: CorruptRings;
  readonly #network: NetworkCardKeeper;
  readonly #clock: Clock;
  readonly #handle: Omit<ControlHandle, 'seating' | 'epochs' | 'lost' | 'recordings'>;
  readonly #rebalances = new Rebalances();
  readonly #reports: WorkerReports;
  readonly #figures: PodFigures;
  readonly kvEvents: KvEventReader;
  readonly scale: ScaleRequests;
  readonly #recordings: Recordings;
  readonly #ready: { readonly promise: Promise<void>; readonly resolve: () => void; readonly reject: (error: unknown) => void };
  readonly #drained = Promise.withResolvers<void>();
  #isClosing = false;
  #isClosed = false;
  #loop: Promise<void> | null = null;
  #isReady = false;
  #hasFailed = false;

  static async create(options: ControlOptions, watch: LoadWatch, onInspected: OnInspected = () => {}): Promise<Control> {
    const [module, tokenizer] = await Promise.all([loadKernelModule(), loadTokenizer(options.folder)]);
    using checkpoint = openCheckpoint(options.folder);
    const vocabulary = packVocabulary(tokenizer);
    const records_routing = options.record_routing !== undefined;
    const plan = planPod(checkpoint, { ...withCacheCosts({ ...options, records_routing }, checkpoint.config), vocabulary_bytes: vocabulary.length });
    const memories = segmentsFor(plan.memory, options.memories);
    const space = new AddressSpace(memories, plan.memory.regions);
    space.bytesAt(space.region('pod', 'vocabulary').base, vocabulary.length).set(vocabulary);
    await loadWeights(checkpoint, plan, space, module, watch);
    const recordings = await Recordings.start(options, { checkpoint, plan }, onInspected);
    const control = new Control(options, plan, memories, space, tokenizer, module, parametersOf(checkpoint), recordings);
    try {
      await control.#start();
    } catch (error) {
      await recordings.close();
      throw error;
    }
    return control;
  }

  private constructor(
    options: ControlOptions,
    plan: PodPlan,
    memories: readonly WebAssembly.Memory[],
    space: AddressSpace,
    tokenizer: Tokenizer,
    module: WebAssembly.Module,
    parameters: number,
    recordings: Recordings,
  ) {
    this.#plan = plan;
    this.#recordings = recordings;
    this.directory = new Directory(plan.hosting);
    this.#space = space;
    this.#clock = monotonicClock(options.origin_ms);
    this.#ready = Promise.withResolvers<void>();
    space.control.setOsThread(CONTROL_THREAD, ownThreadId());
    this.#corruptRings = new CorruptRings(space.control, this.directory, (worker, reason) => this.giveUp(worker, reason));
    const links = new Links(CONTROL_THREAD, memories[0] as WebAssembly.Memory, plan.rings, space.control, {
      now_us: () => this.#clock.now_ms() * 1000,
      onCorrupt: (thread, error) => this.#corruptRings.found(thread, error),
    });
    for (const { thread } of seatsOf(plan.hosting).slice(plan.workers)) {
      links.detach(thread);
      // Whoever sits on a spare seat is somebody's successor, and his acts are numbered so.
      space.control.raiseEpoch(thread);
    }
    const acts = recordings.newActRings(CONTROL_THREAD);
    this.#port = new MessagePort(links, acts.length > 0);
    const table = recordTableOf(plan, space);
    const own = { space, directory: this.directory, now_ms: this.#clock.now_ms };
    const claims = new Claims({ ...own, control: space.control, records: table, heardBy: (member) => this.#host.cast.heardBy(member) });
    this.#frontend = new FrontendProcess(plan.config, tokenizer, {
      random: systemRandom,
      records: new RequestRecords(table),
      isAlive: (executor, life) => space.control.lifeOf(this.directory.hostOf(executor)) === life,
      send: (to, from, message, cause) => this.#host.send(to, from, message, cause),
      tellCaller: (message) => this.#port.send(CALLER_THREAD, CALLER, FRONTEND, message),
      now_ms: () => this.#clock.now_ms(),
      firstGroups: firstGroups(plan.hosting.deployment),
      shares_prefixes: plan.options.prefix_sharing,
      kv_positions: plan.options.kv_blocks * plan.options.kv_block_size,
    });
    this.#host = new ActorHost(
      {
        clock: this.#clock,
        isLocal: (to) => this.directory.threadOf(to) === CONTROL_THREAD,
        transmit: (to, from, message, cause) => this.#port.sendToLiving(this.directory.threadOf(to), to, from, message, cause),
        birthOf,
        hands: new Map<Role, (mail: Mail) => void>([
          ['frontend', ({ message, from }) => this.#frontend.receive(message as FrontendMessage, from)],
          ['control', ({ message }) => this.#hear(message as ControlMessage)],
        ]),
        launch: (npu) => invariantBroken(`${npu} does not live on the control thread`),
        transfer: (group) => invariantBroken(`${group} does not live on the control thread`),
        claim: (actor, claim, cause) => {
          for (const message of claims.perform(actor, claim)) this.#host.send(actor, actor, message, cause);
        },
        onUnexpected: () => {},
        witness: witnessOf(acts, this.#clock),
      },
      firstAct(CONTROL_THREAD, links.epoch),
    );
    this.scale = new ScaleRequests(plan, this.#host, { ...own, wake: () => links.control.ring(CONTROL_THREAD) });
    const tellWorker = (worker: number, message: ThreadMessage): void => {
      this.#port.send(this.directory.threadOfWorker(worker), address('worker', worker), CONTROL, message, 'control');
      this.#port.links.flush();
    };
    this.#reports = new WorkerReports(this.directory, plan.options.kv_blocks, (worker, query, experts) => tellWorker(worker, threadReport(query, experts)));
    this.kvEvents = new KvEventReader(this.directory, space.control, { isRunning: (worker) => this.#workers.isRunning(worker), tell: tellWorker });
    const supervision = { clock: this.#clock, timers: eventLoopTimers, onGivenUp: (error: MinipodError) => this.#giveUp(error) };
    this.#network = new NetworkCardKeeper(plan, space, { ...supervision, entry: options.card_entry, deadline_ms: options.card_deadline_ms });
    this.#workers = new Workers(plan, space, module, options.origin_ms, {
      ...supervision,
      directory: this.directory,
      network: this.#network,
      folder: options.folder,
      entry: options.worker_entry ?? entryPoint('../platform/npu-worker-thread'),
      furnish: (worker, { dies }) => furnishDies({ ...options, plan, space, module }, this.directory.npusOfWorker(worker), dies, this.scale.weightsNow),
      port: this.#port,
      recordings,
      onLost: (worker, error) => this.#workerLost(worker, error),
      tell: (to, message) => this.#host.send(to, CONTROL, message),
      onGone: (worker, reason) => this.#tellExecutors(worker, (npu) => npuGone(npu, goneError(worker, reason))),
    });
    const seen = { ...own, plan, links, cast: this.#host.cast, workers: this.#workers };
    this.#watch = new ControlWatch(seen);
    this.#figures = new PodFigures({ ...seen, reports: this.#reports, scale: this.scale, watch: this.#watch });
    this.#handle = { plan, memories, isTraced: acts.length > 0, vocab_size: plan.config.vocabSize, parameters, has_chat_template: tokenizer.hasChatTemplate };
    for (const { self, birth } of [...expertMapsOf(plan), ...roleSwitchesOf(plan)]) this.#host.spawn(self, birth);
    for (const self of this.directory.controllersOn(ON_CONTROL)) this.#host.spawn(self, birthOfController(self, plan, space.control.lifeOf(ON_CONTROL)));
  }

  get contexts(): FrontendProcess['contexts'] {
    return this.#frontend.contexts;
  }

  /** What the caller's thread needs, which takes its rings now. */
  get handle(): ControlHandle {
    return { ...this.#handle, recordings: this.#recordings.states, ...this.#workers.seatCaller() };
  }

  rebalance(force: boolean): Promise<RebalanceReport[]> {
    this.#port.links.control.ring(CONTROL_THREAD);
    return this.#rebalances.ask(this.#plan, force, (to, message) => this.#host.send(to, CONTROL, message));
  }

  resetPrefixCache(): void {
    // Those of lost workers begin with nothing.
    const lives = (npu: number): boolean => this.#workers.isRunning(this.directory.workerOfNpu(npu));
    this.#frontend.resetPrefixCache(this.#plan.hosting.deployment.groups.filter(({ npus }) => npus.every(lives)).map(({ id }) => id));
  }

  tokenize(prompt: PromptRecord, addSpecialTokens: boolean): { token_ids: number[]; tokens: string[] } {
    return this.#frontend.tokenize(prompt, addSpecialTokens);
  }

  detokenize(ids: readonly number[], skipSpecialTokens: boolean): string {
    return this.#frontend.detokenize(ids, skipSpecialTokens);
  }

  stats(): Promise<ControlStats> {
    return this.#figures.stats();
  }

  /** `measure`: what their batches take from now on, too. */
  experts(measure: boolean): Promise<ExpertsReport> {
    return this.#figures.experts(measure);
  }

  /** Of the cluster manager that lives here. */
  get managerState(): string | null {
    return this.#host.cast.stateOf('cluster-manager/0');
  }

  /** Gives a worker up that hangs: what it held fails, and a successor takes its place. */
  giveUp(worker: number, reason: string): void {
    this.#workers.giveUp(worker, reason);
  }

  /** Workers that were given up and may still write: their memory is in quarantine. */
  get quarantined(): number {
    return this.#workers.quarantined;
  }

  /** Lets nothing new in, cancels what runs and waits until it is gone, then stops the NPUs and their threads. */
  async close(): Promise<void> {
    if (this.#isClosing) return;
    this.#isClosing = true;
    for (const { member } of this.#frontend.jobExecutors) this.#host.send(member, CONTROL, drain());
    this.#frontend.cancelAll();
    this.#port.links.control.ring(CONTROL_THREAD);
    await waitAtMost(this.#drained.promise, CLOSE_DEADLINE_MS);
    for (const { id } of this.#plan.hosting.deployment.executors) this.#host.send(address('task-executor', id), CONTROL, drain());
    this.#host.turn();
    this.#port.links.flush();
    await this.#workers.close();
    await this.#network.close();
    this.#isClosed = true;
    this.#port.links.control.ring(CONTROL_THREAD);
    await this.#loop;
    await this.#recordings.close();
  }

  async #start(): Promise<void> {
    this.#network.start();
    this.#workers.start();
    this.#loop = this.#run();
    this.#loop.catch((error: unknown) => this.#giveUp(error));
    await waitAtMost(this.#ready.promise, START_DEADLINE_MS);
    if (!this.#allServe()) {
      const missing = Array.from({ length: this.#plan.workers }, (_, worker) => worker).filter((worker) => !this.#workers.isRunning(worker));
      this.#workers.stopAll();
      this.#network.stop();
      throw new MinipodError('deadline_exceeded', `workers ${missing.join(', ')} did not report within ${START_DEADLINE_MS / 1000} s of their start`);
    }
    this.#isReady = true;
  }

  async #run(): Promise<void> {
    using _awake = keepAwake();
    const { links } = this.#port;
    const sleeper = new EventLoopSleeper(links.control, CONTROL_THREAD);
    const hasWork = (): boolean => this.#isClosed || links.hasInbound();
    const onFrame = (peer: number, ring: RingConsumer): void => this.#receive(peer, this.#port.read(ring));
    for (let turn = 1; !this.#isClosed; turn++) {
      links.control.turn(CONTROL_THREAD);
      let busy = links.receive(onFrame);
      busy = this.#host.turn() || busy;
      // All NPUs have reported: a call that came earlier would find nobody who admits it.
      if (!this.#isReady && this.#allServe()) this.#ready.resolve();
      if (this.#isClosing && this.#frontend.open.size === 0 && this.#host.cast.stateOf('job-executor/0') === null) this.#drained.resolve();
      const waits = links.flush();
      this.#watch.look(this.#clock.now_ms());
      if (turn % TURNS_PER_BREATH === 0) await breathe();
      if (busy || this.#host.hasMail) continue;
      const isIdle = this.#isReady && this.#frontend.open.size === 0;
      await sleeper.sleep(Math.min(waits ? 1 : isIdle ? SLEEP_MS : SLEEP_BUSY_MS, this.#host.untilNextTimer_ms()), hasWork);
    }
  }

  #allServe(): boolean {
    return this.#frontend.jobExecutors.length === jobExecutorsOf(this.#plan.hosting).length;
  }

  #hear(message: ControlMessage): void {
    if (message.type === 'SCALED') this.scale.answered(message);
    else if (message.type === 'SWITCH_ROLE') this.#workers.switchRole(message);
    else if (message.type === 'SUSPECTED' || message.type === 'TRUSTED') this.#watch.suspicions.hear(message);
    else this.#rebalances.hear(message);
  }

  #receive(peer: number, { to, from, message, cause }: ReceivedMail): void {
    if (roleOf(to) === 'control') this.#receiveThread(peer === CALLER_THREAD ? CALLER_PEER : idOf(from), message as ThreadMessage | ControlMessage);
    else if (peer === CALLER_THREAD) this.#frontend.receiveCaller(message as CallerToPod);
    else this.#host.send(to, from, message as Message, cause);
  }

  #receiveThread(worker: number, message: ThreadMessage | ControlMessage): void {
    switch (message.type) {
      case 'THREAD_STARTED':
        this.#workers.started(worker);
        break;
      case 'THREAD_FAILED':
        this.#workers.failed(worker, message.reason, message.lost_weights);
        break;
      case 'PEER_DETACHED':
        this.#workers.detached(worker, message.worker);
        break;
      case 'PEER_CORRUPT':
        this.#corruptRings.heard(message);
        break;
      case 'REPORTED':
        this.#reports.answered(message);
        break;
      case 'KV_EVENTS_READ':
        this.kvEvents.answered(message);
        break;
      // Who watches lives on workers too.
      default:
        this.#hear(message as ControlMessage);
    }
  }

  #workerLost(worker: number, error: ErrorRecord): void {
    const life = this.#space.control.lifeOf(worker);
    this.#space.control.endLife(worker);
    this.#reports.lost(worker);
    this.kvEvents.lost(worker);
    this.#tellExecutors(worker, (npu) => npuLost(npu, error));
    for (const member of this.directory.controllersOn(worker)) {
      if (roleOf(member) === 'job-executor') new Admission(this.#space.control).forget(idOf(member));
      for (const manager of CLUSTER_MANAGERS) this.#host.send(manager, CONTROL, memberLost(member, life));
    }
    // Now, while its rings are detached: nothing that was on its way to the lost worker may reach its successor.
    while (this.#host.hasMail) this.#host.turn();
    this.#port.links.control.ring(CONTROL_THREAD);
  }

  #tellExecutors(worker: number, messageOf: (npu: number) => Message): void {
    const { deployment } = this.#plan.hosting;
    for (const npu of this.directory.npusOfWorker(worker))
      this.#host.send(address('task-executor', executorOfNpu(deployment, npu).id), CONTROL, messageOf(npu));
  }

  /** Before the pod is ready the error is the answer to create; afterwards it ends this thread. Of workers that die again and again its stop word tells: so they would under a successor. */
  #giveUp(error: unknown): void {
    this.#ready.reject(error);
    this.#workers.stopAll();
    this.#network.stop();
    if (error instanceof MinipodError && error.code === 'worker_failed') this.#space.control.stop(CONTROL_THREAD);
    if (!this.#isReady || this.#hasFailed) return;
    this.#hasFailed = true;
    void this.#failAsRecorded(error);
  }

  /** What led to the failure is what its trace is wanted for; the recorder would end with this thread. */
  async #failAsRecorded(error: unknown): Promise<void> {
    await this.#recordings.close(LAST_RECORDS_MS_MAX);
    queueMicrotask(() => {
      throw error;
    });
  }
}
