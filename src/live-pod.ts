/**
 * A pod on worker threads, from its caller's thread: Comlink for create, stats and close, a ring for everything that happens often.
 * @module
 */
import type { Worker } from 'node:worker_threads';
import * as Comlink from 'comlink';
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs';
import { promptRecord, tokenIdsOf } from './call.ts';
import { CallerPeers } from './caller-peers.ts';
import { Calls } from './calls.ts';
import { type ContextOptions, type ContextsOf, contextsOfSchema } from './context-options.ts';
import { contextInfo, createContext } from './contexts.ts';
import { ControlPulse } from './control-pulse.ts';
import { podExperts } from './expert-stats.ts';
import { AddressSpace } from './fabric/address-space.ts';
import { Links } from './fabric/links.ts';
import type { RingConsumer } from './fabric/ring.ts';
import { DeliveredRecords } from './flowserve/delivered-records.ts';
import { speculativeOf } from './flowserve/drafters/speculative-config.ts';
import { recordTableOf } from './flowserve/pod-plan.ts';
import type { ScaleOptions } from './flowserve/scale-shapes.ts';
import { resolveModel } from './model/registry.ts';
import { expertBalancingOf, type GenerateOptions, jobExecutorsOf, type PodOptions, parseOptions, podOptionsSchema } from './options.ts';
import type { ControlHandle } from './platform/control-handle.ts';
import type { ControlRemote, Outcome } from './platform/control-thread.ts';
import type { ModelInfo, Pod, RebalanceOptions } from './pod.ts';
import { podStats } from './pod-stats.ts';
import { idOf, roleOf } from './protocol/address.ts';
import type { ContextRecord, PodToCaller } from './protocol/caller.ts';
import { fromErrorRecord, MinipodError } from './protocol/errors.ts';
import type { RebalanceReport } from './protocol/expert-maps.ts';
import type { KvEventPage } from './protocol/kv-events.ts';
import type { ChatMessage, Conversation, Prompt } from './protocol/prompt.ts';
import type { PeerNews } from './protocol/threads.ts';
import type { Completion, ContextInfo, Generation, PodExperts, PodStats, ScaleReport } from './results.ts';
import { type Clock, epoch_ms, monotonicClock, systemRandom } from './runtime/clock.ts';
import { CALLER_THREAD, CONTROL_THREAD } from './runtime/directory.ts';
import { breathe, checkedMeanwhile, EventLoopSleeper, waitAtMost } from './runtime/event-loop.ts';
import { MessagePort, type ReceivedMail } from './runtime/message-port.ts';
import { entryPoint } from './runtime/thread-entry.ts';
import { startThread } from './runtime/thread-start.ts';
import { scaleSchema } from './scale-options.ts';
import { topologyOf } from './topology-options.ts';
import type { ActRing } from './trace/act-log.ts';
import { asInspect } from './trace/inspection-events.ts';
import { LiveInspection } from './trace/live-inspection.ts';

/** An idle caller looks up this often; a bell wakes it earlier. */
const SLEEP_MS = 1_000;
/**
 * One that waits for tokens looks up this often, in whole milliseconds: 1 % of a core. Half of the time until the next step was due, up to 4 ms, was slept before:
 * a third less to wake for, but tokens came in bunches (p99 of gaps with prefill apart 13.3 ms against 10.8).
 */
const NAP_MS = 1;
/** Calls whose tokens were lost with a worker are looked for this often, however busy the pod is; the other, while a worker that lives waits for room to send more. */
const LOOK_MS = 250;
const LOOK_OWED_MS = 5_000;
/** Whether the control thread lives is looked at this often. */
const PULSE_MS = 250;
/** More than all that the control thread waits for in turn while it closes: past it, it is stuck itself, in a full ring of a recorder whose disk hangs. */
const CLOSE_MS_MAX = 60_000;
/** By then the thread has said all that there is to say. */
const TERMINATE_MS_MAX = 2_000;

/**
 * V8 does not count shared memory, so closed pods would pile up uncollected (39 MB each were seen). A buffer as large as a pod's memory, never touched and so
 * free of cost, tells it their weight.
 */
const WEIGHTS = new WeakMap<object, ArrayBuffer>();

/** `worker_entry`: what its workers run instead of the shipped entry, where they are to break. */
export async function createLivePod(options: PodOptions = {}, worker_entry?: URL): Promise<LivePod> {
  const { onProgress, inspect, ...rest } = options;
  const resolved = parseOptions(podOptionsSchema, rest, 'createPod');
  const folder = resolveModel(resolved.model);
  const {
    model: _model,
    npus: _npus,
    data_parallel_size: _size,
    clock: _clock,
    kernels: _kernels,
    seed: _seed,
    kv_blocks,
    memory_bytes,
    ...numbers
  } = resolved;
  const origin_ms = epoch_ms();
  const inspection = inspect === undefined ? null : new LiveInspection(asInspect(inspect), origin_ms);
  const thread = startThread(entryPoint('../platform/control-thread'));
  const died = new Promise<never>((_, reject) => {
    thread.once('error', (error) =>
      reject(
        new MinipodError(
          isWorkerFailure(error) ? 'worker_failed' : 'internal',
          `the pod's control thread failed: ${error instanceof Error ? error.message : error}`,
          { cause: error },
        ),
      ),
    );
    thread.once('exit', (code) => reject(new MinipodError('closed', `the pod's control thread exited with code ${code}`)));
  });
  died.catch(() => {});
  const remote = Comlink.wrap<ControlRemote>(nodeEndpoint(thread));
  try {
    const progress = onProgress === undefined ? null : Comlink.proxy(onProgress);
    const onInspected = inspection === null ? undefined : Comlink.proxy((ring: ActRing) => inspection.add(ring));
    const control = {
      ...numbers,
      topology: topologyOf(resolved),
      expert_balancing: expertBalancingOf(resolved),
      speculative: speculativeOf(resolved.speculative_config),
      job_executors: jobExecutorsOf(resolved),
      kv_blocks,
      memory_bytes,
      folder,
      origin_ms,
      inspected: inspection?.state,
    };
    const created = remote.create(control, progress as never, onInspected as never, worker_entry?.href) as Promise<Outcome<ControlHandle>>;
    const handle = unwrap(await Promise.race([created, died]));
    return new LivePod(handle, thread, remote, died, monotonicClock(origin_ms), inspection);
  } catch (error) {
    await thread.terminate();
    await inspection?.close();
    throw error;
  }
}

/** What crosses a thread as its last error is no MinipodError any more, but keeps its code (in Node). */
const isWorkerFailure = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'worker_failed';

function unwrap<Value>(outcome: Outcome<Value>): Value {
  if ('error' in outcome) throw fromErrorRecord(outcome.error);
  return outcome.value;
}

export class LivePod implements Pod {
  readonly model: ModelInfo;
  /** The pod's memory: for who breaks things on purpose. */
  readonly space: AddressSpace;
  readonly #handle: ControlHandle;
  readonly #thread: Worker;
  readonly #remote: Comlink.Remote<ControlRemote>;
  readonly #died: Promise<never>;
  /** Unix time at which the pod's clock began. */
  readonly #origin_ms: number;
  readonly #clock: Clock;
  readonly #port: MessagePort;
  readonly #peers: CallerPeers;
  readonly #sleeper: EventLoopSleeper;
  readonly #calls: Calls;
  readonly #pulse: ControlPulse;
  readonly #inspection: LiveInspection | null;
  /** What is asked of the control thread and not answered: fails with it. */
  readonly #questions = new Set<(error: unknown) => void>();
  #closing: Promise<void> | null = null;
  #isClosed = false;
  /** Why it came to an end by itself: told to whoever asks it something afterwards. */
  #failure: MinipodError | null = null;

  constructor(
    handle: ControlHandle,
    thread: Worker,
    remote: Comlink.Remote<ControlRemote>,
    died: Promise<never>,
    clock: Clock,
    inspection: LiveInspection | null = null,
  ) {
    const { plan, memories, epochs: peer_epochs } = handle;
    this.#handle = handle;
    WEIGHTS.set(this, new ArrayBuffer(plan.memory.bytes));
    this.#thread = thread;
    this.#remote = remote;
    this.#died = died;
    this.#clock = clock;
    this.#origin_ms = epoch_ms() - clock.now_ms();
    this.#inspection = inspection;
    const first = memories[0] as WebAssembly.Memory;
    const space = new AddressSpace(memories, plan.memory.regions);
    this.space = space;
    this.#pulse = new ControlPulse(space.control);
    const links = new Links(CALLER_THREAD, first, plan.rings, space.control, {
      now_us: () => clock.now_ms() * 1000,
      peer_epochs,
      onCorrupt: (peer, error) => this.#peers.findRubbish(peer, error),
    });
    this.#port = new MessagePort(links, handle.isTraced);
    this.#peers = new CallerPeers(this.#port, handle, { receive: (mail) => this.#receive(mail), losePeer: () => this.#calls.losePeer() });
    this.#sleeper = new EventLoopSleeper(links.control, CALLER_THREAD);
    const records = new DeliveredRecords(recordTableOf(plan, space));
    this.#calls = new Calls({ clock, random: systemRandom, records, tell: (message) => this.#tell(message) });
    this.model = {
      name: plan.config.name,
      architecture: plan.config.architecture,
      context_length: plan.config.maxPositions,
      vocab_size: handle.vocab_size,
      parameters: handle.parameters,
      created: Math.floor(epoch_ms() / 1000),
      has_chat_template: handle.has_chat_template,
    };
    died.catch((error: MinipodError) => this.#fail(error));
    this.#run().catch((error: unknown) => this.#fail(new MinipodError('internal', `the pod's caller side failed: ${error}`, { cause: error })));
  }

  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    return this.#calls.generate(prompt, options);
  }

  complete(prompt: Prompt, options: GenerateOptions = {}): Promise<Completion> {
    return this.#calls.complete(prompt, options, this.model.name);
  }

  async tokenize(
    prompt: string | readonly ChatMessage[] | Conversation,
    { add_special_tokens = true }: { add_special_tokens?: boolean } = {},
  ): Promise<{ token_ids: number[]; tokens: string[] }> {
    return this.#ask(this.#remote.tokenize(promptRecord(prompt), add_special_tokens) as Promise<Outcome<{ token_ids: number[]; tokens: string[] }>>);
  }

  async detokenize(token_ids: readonly number[], { skip_special_tokens = true }: { skip_special_tokens?: boolean } = {}): Promise<string> {
    return this.#ask(this.#remote.detokenize(tokenIdsOf(token_ids), skip_special_tokens) as Promise<Outcome<string>>);
  }

  async createContext(prompt: Prompt, options: ContextOptions = {}): Promise<ContextInfo> {
    const record = await createContext(prompt, options, this.#calls, this.#handle.plan.hosting.deployment, {
      create: (call) => this.#ask(this.#remote.createContext(call) as Promise<Outcome<ContextRecord>>),
      delete: (id, cache_salt) => this.deleteContext(id, { cache_salt }),
    });
    return contextInfo(record, this.#origin_ms);
  }

  async listContexts(options: ContextsOf = {}): Promise<readonly ContextInfo[]> {
    const { cache_salt } = parseOptions(contextsOfSchema, options, 'listContexts');
    const records = await this.#ask(this.#remote.listContexts(cache_salt) as Promise<Outcome<ContextRecord[]>>);
    return records.map((record) => contextInfo(record, this.#origin_ms));
  }

  async deleteContext(id: string, options: ContextsOf = {}): Promise<boolean> {
    const { cache_salt } = parseOptions(contextsOfSchema, options, 'deleteContext');
    return this.#ask(this.#remote.deleteContext(id, cache_salt) as Promise<Outcome<boolean>>);
  }

  async kvEvents(dp_group: number, from = 0): Promise<KvEventPage> {
    return this.#ask(this.#remote.kvEvents(dp_group, from) as Promise<Outcome<KvEventPage>>);
  }

  async rebalance({ force = false }: RebalanceOptions = {}): Promise<readonly RebalanceReport[]> {
    return this.#ask(this.#remote.rebalance(force) as Promise<Outcome<RebalanceReport[]>>);
  }

  async resetPrefixCache(): Promise<void> {
    await this.#ask(this.#remote.resetPrefixCache() as Promise<Outcome<void>>);
  }

  async scale(options: ScaleOptions): Promise<ScaleReport> {
    return this.#ask(this.#remote.scale(parseOptions(scaleSchema, options, 'scale')) as Promise<Outcome<ScaleReport>>);
  }

  async stats(): Promise<PodStats> {
    const report = await this.#askAlive(() => this.#remote.stats() as ReturnType<ControlRemote['stats']>);
    const links = [{ thread: CALLER_THREAD, reports: this.#port.links.counters() }, ...report.links];
    return podStats(this.model.name, this.#clock, this.#handle.plan, { ...report, links }, this.#calls.counts);
  }

  async experts({ measure = true }: { measure?: boolean } = {}): Promise<PodExperts> {
    const report = await this.#ask(this.#remote.experts(measure) as ReturnType<ControlRemote['experts']>);
    return podExperts(this.model.name, this.#clock, this.#handle.plan, report);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#calls.close(new MinipodError('closed', 'the pod was closed while the request ran'));
    if (!this.#isClosed) await waitAtMost(Promise.race([this.#remote.close(), this.#died]), CLOSE_MS_MAX).catch(() => {});
    this.#isClosed = true;
    this.#port.links.control.ring(CALLER_THREAD);
    // A recorder whose disk hangs cannot be stopped, nor then the thread that started it.
    await waitAtMost(this.#thread.terminate(), TERMINATE_MS_MAX);
    await this.#inspection?.close();
  }

  #tell(message: object): void {
    this.#port.send(CONTROL_THREAD, 'frontend/0', 'caller/0', message);
    this.#port.links.flush();
    // From now on it looks up more often.
    this.#sleeper.wake();
  }

  async #ask<Value>(answer: Promise<Outcome<Value>>): Promise<Value> {
    if (this.#closing !== null || this.#isClosed) throw this.#failure ?? new MinipodError('closed', 'the pod is closed');
    // A race with one promise that lives as long as the pod would keep every question ever asked.
    const { promise, resolve, reject } = Promise.withResolvers<Outcome<Value>>();
    this.#questions.add(reject);
    answer.then(resolve, reject);
    try {
      return unwrap(await promise);
    } finally {
      this.#questions.delete(reject);
    }
  }

  /** The same of what is to be answered at once: not while the thread hangs that would have to. */
  async #askAlive<Value>(ask: () => Promise<Outcome<Value>>): Promise<Value> {
    this.#pulse.check();
    return await checkedMeanwhile(this.#ask(ask()), () => this.#pulse.check(), PULSE_MS);
  }

  /** Takes what the pod sends, for as long as it lives. */
  async #run(): Promise<void> {
    const { links } = this.#port;
    const sleeper = this.#sleeper;
    const hasWork = (): boolean => this.#isClosed || links.hasInbound();
    const onFrame = (_peer: number, ring: RingConsumer): void => this.#receive(this.#port.read(ring));
    let [looked_ms, pulse_ms] = [this.#clock.now_ms(), 0];
    while (!this.#isClosed) {
      const busy = links.receive(onFrame);
      const waits = links.flush();
      const now_ms = this.#clock.now_ms();
      if (now_ms - pulse_ms >= PULSE_MS) {
        pulse_ms = now_ms;
        this.#pulse.look(now_ms);
      }
      if (now_ms - looked_ms >= LOOK_MS && (now_ms - looked_ms >= LOOK_OWED_MS || !links.isOwed())) {
        looked_ms = now_ms;
        this.#calls.look();
      }
      // Chunks wake their readers, who run before the next frame is looked for.
      if (busy) {
        await breathe();
        continue;
      }
      // Without a bell: a wake for each step of each DP group would cost its worker 8 µs, and on a machine of few cores often its core as well.
      if (waits || this.#calls.open > 0) await sleeper.nap(NAP_MS);
      else await sleeper.sleep(SLEEP_MS, hasWork);
    }
  }

  #receive({ from, message }: ReceivedMail): void {
    const said = message as PodToCaller | PeerNews;
    if (said.type === 'PEER_LOST' || said.type === 'PEER_RESTARTED') this.#peers.hear(said);
    else this.#calls.receive(said, roleOf(from) === 'output' ? idOf(from) : -1);
  }

  #fail(error: MinipodError): void {
    if (this.#closing === null) this.#failure ??= error;
    this.#isClosed = true;
    this.#calls.close(error);
    void this.#inspection?.close();
    for (const reject of this.#questions) reject(error);
  }
}
