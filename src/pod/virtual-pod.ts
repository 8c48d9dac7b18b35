/**
 * A pod on a virtual clock, from its caller's side. Everything happens on the caller's own thread, in an order that the seed decides.
 * @module
 */
import { checkKvEvents, promptRecord, tokenIdsOf } from '../calls/call.ts';
import { Calls } from '../calls/calls.ts';
import { speculativeOf } from '../flowserve/drafters/speculative-config.ts';
import { recordTableOf } from '../flowserve/pod-plan.ts';
import type { DeliveredRecords } from '../flowserve/records/delivered-records.ts';
import type { ScaleOptions } from '../flowserve/scale-shapes.ts';
import { resolveModel } from '../model/registry.ts';
import { type ContextOptions, type ContextsOf, contextsOfSchema } from '../options/context-options.ts';
import { expertBalancingOf, type GenerateOptions, jobExecutorsOf, type PodOptions, parseOptions, podOptionsSchema } from '../options/options.ts';
import { scaleSchema } from '../options/scale-options.ts';
import { topologyOf } from '../options/topology-options.ts';
import { warnRecordingEnded } from '../platform/recording.ts';
import { VirtualControl } from '../platform/virtual-control.ts';
import type { OpenModel, VirtualOptions, VirtualPorts } from '../platform/virtual-options.ts';
import type { ModelInfo, Pod, RebalanceOptions } from '../pod.ts';
import type { PodToCaller } from '../protocol/caller.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import type { RebalanceReport } from '../protocol/expert-maps.ts';
import { type KvEventPage, kvLife } from '../protocol/kv-events.ts';
import type { ChatMessage, Conversation, Prompt } from '../protocol/prompt.ts';
import type { Completion, ContextInfo, Generation } from '../results.ts';
import { breathe } from '../runtime/event-loop.ts';
import { SeededRandom } from '../runtime/seeded-random.ts';
import type { PodExperts, PodStats, ScaleReport } from '../stats.ts';
import { asInspect } from '../trace/inspection-events.ts';
import { filesOfLife, NOT_RECORDED, type RunFiles } from '../trace/life-file.ts';
import type { TraceDisk } from '../trace/output-file.ts';
import { ContextCopies } from './context-copies.ts';
import { contextInfo, createContext } from './contexts.ts';
import { ControlRecoveries } from './control-recoveries.ts';
import { podExperts } from './expert-stats.ts';
import { podStats } from './pod-stats.ts';
import { Questions } from './questions.ts';

/** Seeds of requests that brought none are drawn from a stream of their own: how many there are changes no delay. */
const REQUEST_SEEDS = 1;

/** What a live pod's successor takes to load the shipped model and start its workers, roughly: no token depends on it. */
export const SUCCESSOR_NS = 1_000_000_000;
type Succession = PromiseWithResolvers<void> & { readonly successor_ns: number };

/** Whoever waits for nothing but the pod sees no difference. All others would be held up for as long as nobody is told anything: KV that moves slowly is hours of leases. */
const EVENTS_PER_TURN = 16_384;

/** `openModel`: how a folder's model is opened, for whoever opens many pods of it. `disk`: what its traces are written on. */
export async function createVirtualPod(options: PodOptions, openModel?: (folder: string) => Promise<OpenModel>, disk?: TraceDisk): Promise<VirtualPod> {
  const { onProgress, inspect, ...rest } = options;
  const resolved = parseOptions(podOptionsSchema, rest, 'createPod');
  const { seed = 0, kv_blocks, memory_bytes, record, record_routing, data_parallel_size: _, ...others } = resolved;
  const control = {
    ...others,
    topology: topologyOf(resolved),
    expert_balancing: expertBalancingOf(resolved),
    speculative: speculativeOf(resolved.speculative_config),
    job_executors: jobExecutorsOf(resolved),
    seed,
    kv_blocks,
    memory_bytes,
    record,
    record_routing,
    folder: resolveModel(resolved.model),
  };
  const model = await openModel?.(control.folder);
  return VirtualPod.create(control, { model, onProgress: async (report) => onProgress?.(report), inspect: inspect && asInspect(inspect), disk });
}

/**
 * Its clock stands still while the caller's code runs, and moves while the caller waits: from event to event, until one tells the caller something. Whatever
 * a caller does about it before it waits for anything but this pod happens at that same virtual time; so runs repeat as long as callers
 * do not wait for the real world in between.
 */
export class VirtualPod implements Pod {
  readonly #calls: Calls;
  readonly #options: VirtualOptions;
  readonly #ports: VirtualPorts;
  readonly #records: DeliveredRecords;
  readonly #contexts = new ContextCopies();
  readonly #recoveries = new ControlRecoveries();
  #control: VirtualControl;
  /** The control thread is lost, and all others with it: so long until their successors begin, and who waits for that. */
  #succession: Succession | null = null;
  /** 1: its own; 2: that of the one in its place. */
  #life = 1;
  #recorded: RunFiles;
  /** What its lives are recorded in, one after the other: for who tells of it. */
  readonly traces: string[] = [];
  /** That its caller asked for last, of what it got. */
  #shape: ScaleOptions = {};
  /** Changes of shape that are asked for. */
  #scales = 0;
  readonly #questions = new Questions({ checkOpen: () => this.#checkOpen(), succession: () => this.#succession?.promise ?? null });
  /** Told of each successor before anything of a call happens there: for who watches what is there, or breaks it. */
  onSucceeded: ((control: VirtualControl) => void) | null = null;
  /** Told when it is lost, and how long there will be none. */
  onLost: ((successor_ns: number) => void) | null = null;
  readonly model: ModelInfo;
  readonly max_queued: number;
  /** Until nothing is left to happen; null: it is so. */
  #running: Promise<void> | null = null;
  #hasTold = false;
  #isClosed = false;

  static async create(options: VirtualOptions, ports: Omit<VirtualPorts, 'tell'>): Promise<VirtualPod> {
    const told: { receive: (message: PodToCaller, group: number) => void } = { receive: () => {} };
    const all: VirtualPorts = { ...ports, tell: (message, group) => told.receive(message, group) };
    return new VirtualPod(await VirtualControl.create(options, all), options, all, told);
  }

  private constructor(control: VirtualControl, options: VirtualOptions, ports: VirtualPorts, told: { receive: (message: PodToCaller, group: number) => void }) {
    [this.#control, this.#options, this.#ports, this.#records, this.#recorded] = [control, options, ports, control.delivered, options];
    const { config, tokenizer, parameters } = control;
    this.#calls = new Calls({
      clock: { now_ms: () => this.#control.host.clock.now_ms() },
      random: new SeededRandom(options.seed, REQUEST_SEEDS),
      records: this.#records,
      tell: (message) => {
        if (this.#succession === null) this.#control.frontend.receiveCaller(message);
        this.wake();
      },
    });
    told.receive = (message, group) => {
      this.#hasTold = true;
      this.#calls.receive(message, group);
    };
    this.max_queued = control.plan.options.max_queued;
    this.model = {
      name: config.name,
      architecture: config.architecture,
      context_length: config.maxPositions,
      vocab_size: config.vocabSize,
      parameters,
      // The virtual clock begins at 0.
      created: 0,
      has_chat_template: tokenizer.hasChatTemplate,
    };
    if (options.record !== undefined) this.traces.push(options.record);
    this.#attend(control);
  }

  /** Of the pod as it is now: a lost one's successor has another. */
  get control(): VirtualControl {
    return this.#control;
  }

  /** Its control thread is lost, and none is there in its place. */
  get isLost(): boolean {
    return this.#succession !== null;
  }

  /**
   * Its control thread is lost, and all others with it: what was computed is gone, and another pod begins in its place, as a live one does. Whatever waits goes on
   * there. Each of them writes a trace of its own (life-file.ts). Who looks on tells acts apart by their numbers, which begin anew: such a pod has no successor.
   */
  loseControl(successor_ns = SUCCESSOR_NS, reason = 'its control thread was lost'): void {
    assert(this.#ports.inspect === undefined, 'a pod that is looked at has no successor');
    if (this.#succession !== null || this.#isClosed) return;
    this.#succession = { ...Promise.withResolvers<void>(), successor_ns };
    // Nobody may have asked anything of it.
    this.#succession.promise.catch(() => {});
    this.#recoveries.lost(this.#control.host.clock.now_ms(), reason);
    this.onLost?.(successor_ns);
    this.#questions.lose();
    this.wake();
  }

  /** Lets its cast come to life. */
  #attend(control: VirtualControl): void {
    control.workers.tellCallers = () => this.#calls.losePeer();
    if (this.#ports.inspect === undefined) control.workers.loseControl = (reason) => this.loseControl(SUCCESSOR_NS, reason);
    while (control.step());
  }

  async #succeed({ successor_ns, resolve, reject }: Succession): Promise<void> {
    try {
      const lost = this.#control;
      this.#life++;
      const control = await this.#startAnew(lost.host.now_ns + successor_ns);
      // The lost one was closed with the pod.
      if (this.#isClosed) {
        control.close();
        return;
      }
      lost.close();
      this.#control = control;
      this.#attend(control);
      for (const call of this.#contexts.calls(control.host.clock.now_ms())) control.frontend.contexts.create(call);
      this.#records.moveTo(recordTableOf(control.plan, control.space));
      this.#succession = null;
      this.onSucceeded?.(control);
      this.#calls.goOnAnew();
      this.#recoveries.started(control.host.clock.now_ms());
      resolve();
      // It has begun with the shape of its options; who has just asked for another one asks again. Where it cannot be had its stats say why.
      if (Object.keys(this.#shape).length > 0 && this.#scales === 0) this.scale(this.#shape).catch(() => {});
    } catch (error) {
      reject(error);
      throw error;
    }
  }

  /** Its trace may be what cannot be had: then it goes on without, and whoever wanted it hears that. */
  async #startAnew(begins_ns: number): Promise<VirtualControl> {
    const begin = (files: RunFiles): Promise<VirtualControl> => VirtualControl.create({ ...this.#options, ...files }, { ...this.#ports, begins_ns });
    try {
      const files = filesOfLife(this.#recorded, this.#life);
      const control = await begin(files);
      if (files.record !== undefined) this.traces.push(files.record);
      return control;
    } catch (error) {
      if (!(error instanceof MinipodError) || error.code !== 'trace_not_written') throw error;
      (this.#ports.disk?.onEnded ?? warnRecordingEnded)(error);
      this.#recorded = NOT_RECORDED;
      return begin(NOT_RECORDED);
    }
  }

  #ask<Value>(ask: (control: VirtualControl) => Promise<Value>): Promise<Value> {
    return this.#questions.ask(() => {
      const answer = ask(this.#control);
      this.wake();
      return answer;
    });
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
    this.#checkOpen();
    return this.control.frontend.tokenize(promptRecord(prompt), add_special_tokens);
  }

  async detokenize(token_ids: readonly number[], { skip_special_tokens = true }: { skip_special_tokens?: boolean } = {}): Promise<string> {
    this.#checkOpen();
    return this.control.frontend.detokenize(tokenIdsOf(token_ids, this.model.context_length), skip_special_tokens);
  }

  async createContext(prompt: Prompt, options: ContextOptions = {}): Promise<ContextInfo> {
    this.#checkOpen();
    const { frontend, plan } = this.control;
    const record = await createContext(prompt, options, this.#calls, plan, {
      create: async (call) => {
        const created = frontend.contexts.create(this.#contexts.asked(call));
        this.#contexts.keep(call, created);
        return created;
      },
      delete: (id, cache_salt) => this.deleteContext(id, { cache_salt }),
    });
    return contextInfo(record, 0);
  }

  async listContexts(options: ContextsOf = {}): Promise<readonly ContextInfo[]> {
    const { cache_salt } = parseOptions(contextsOfSchema, options, 'listContexts');
    this.#checkOpen();
    return this.control.frontend.contexts.list(cache_salt).map((record) => contextInfo(record, 0));
  }

  async deleteContext(id: string, options: ContextsOf = {}): Promise<boolean> {
    const { cache_salt } = parseOptions(contextsOfSchema, options, 'deleteContext');
    this.#checkOpen();
    this.#contexts.forget(id, cache_salt, this.control.host.clock.now_ms());
    const wasThere = this.control.frontend.contexts.delete(id, cache_salt);
    this.wake();
    return wasThere;
  }

  async kvEvents(dp_group: number, from = 0): Promise<KvEventPage> {
    checkKvEvents(dp_group, from);
    this.#checkOpen();
    const page = this.control.kvEvents(dp_group, from);
    return { ...page, life: kvLife(this.#recoveries.lost_total, page.life) };
  }

  async rebalance({ force = false }: RebalanceOptions = {}): Promise<readonly RebalanceReport[]> {
    this.#checkOpen();
    return this.#ask(({ rebalances, host, plan }) => rebalances.ask(plan, force, (to, message) => host.send(to, 'control/0', message)));
  }

  async resetPrefixCache(): Promise<void> {
    this.#checkOpen();
    this.control.frontend.resetPrefixCache(this.control.plan.hosting.deployment.groups.keys());
    this.wake();
  }

  async scale(options: ScaleOptions): Promise<ScaleReport> {
    this.#checkOpen();
    const { deadline_ms, ...asked } = parseOptions(scaleSchema, options, 'scale');
    const life = this.#life;
    this.#scales++;
    try {
      const report = await this.#ask(async (control) => {
        const shape = life === this.#life ? asked : { ...this.#shape, ...asked };
        // Who asked goes on at the time of the answer.
        return control.scale.ask({ ...shape, ...(deadline_ms !== undefined && { deadline_ms }) }).finally(() => (this.#hasTold = true));
      });
      this.#shape = { ...this.#shape, ...asked };
      return report;
    } finally {
      this.#scales--;
    }
  }

  async stats(): Promise<PodStats> {
    this.#checkOpen();
    const { host, plan } = this.control;
    return podStats(this.model.name, host.clock, plan, this.control.stats(), this.#calls.counts, this.#recoveries);
  }

  async experts({ measure = true }: { measure?: boolean } = {}): Promise<PodExperts> {
    this.#checkOpen();
    const { host, plan } = this.control;
    return podExperts(this.model.name, host.clock, plan, this.control.experts(measure));
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#succession?.resolve();
    this.#calls.close(new MinipodError('closed', 'the pod was closed while the request ran'));
    this.control.close();
    this.#questions.fail(new MinipodError('closed', 'the pod was closed before it answered'));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new MinipodError('closed', 'the pod is closed');
  }

  /** What is left to happen does, and the clock moves: for who has laid something on the host for later, and asks the pod for nothing now. */
  wake(): void {
    this.#run().catch(() => {});
  }

  /** The same, to its end, with whoever is to begin in the place of what is lost. @throws what ends the pod */
  async rest(): Promise<void> {
    await this.#run();
  }

  #run(): Promise<void> {
    if (this.#running !== null) return this.#running;
    const running = this.#runOn().catch((error: unknown) => {
      if (this.#running === running) this.#running = null;
      this.#calls.close(error instanceof MinipodError ? error : new MinipodError('internal', `the pod failed: ${error}`, { cause: error }));
      throw error;
    });
    this.#running = running;
    return running;
  }

  /** Until nothing is left to happen. */
  async #runOn(): Promise<void> {
    for (let isOver = false; !isOver && !this.#isClosed; ) {
      // Whoever was told acts on it first; and all calls of one turn of the event loop come at one virtual time.
      await breathe();
      this.#hasTold = false;
      if (this.#succession !== null) await this.#succeed(this.#succession);
      for (let left = EVENTS_PER_TURN; left > 0 && !this.#hasTold && !isOver && !this.#isClosed && this.#succession === null; left--)
        isOver = !this.control.step();
      // What has not come by now never comes.
      if (isOver && !this.#isClosed && (this.#succession !== null || this.#calls.resumeLost())) isOver = false;
    }
    // A call that comes now begins a run of its own.
    this.#running = null;
    if (this.#calls.open > 0 && !this.#isClosed)
      throw new MinipodError('internal', `nothing is left to happen, and these wait: ${this.control.waiting().join(', ')}`);
  }
}
