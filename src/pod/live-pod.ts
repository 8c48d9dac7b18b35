/**
 * A pod on worker threads, from its caller's thread: Comlink for create, stats and close, a ring for everything that happens often.
 *
 *   serving ─▶ (the control thread ends, or hangs) ─▶ succeeding ─▶ serving        others in their place; open calls go on from their records
 *      └─▶ (workers die again and again) ─▶ failed ◀──────┘                          one control thread after the other was lost
 *
 * Nobody else outlives the control thread, which starts all others. So what must not be lost with it is here: what calls go on from (delivery.ts), and what
 * contexts were made of (context-copies.ts).
 * @module
 */
import { checkKvEvents, promptRecord, tokenIdsOf } from '../calls/call.ts';
import { Calls } from '../calls/calls.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import type { RingPlace } from '../fabric/links.ts';
import { DeliveredRecords } from '../flowserve/records/delivered-records.ts';
import type { ScaleOptions } from '../flowserve/scale-shapes.ts';
import { type ContextOptions, type ContextsOf, contextsOfSchema } from '../options/context-options.ts';
import { type GenerateOptions, type PodOptions, parseOptions, podOptionsSchema } from '../options/options.ts';
import { scaleSchema } from '../options/scale-options.ts';
import type { ControlRemote, Outcome } from '../platform/control-thread.ts';
import { RestartIntensity } from '../platform/restart-intensity.ts';
import type { ModelInfo, Pod, RebalanceOptions } from '../pod.ts';
import type { CallerToPod, ContextRecord } from '../protocol/caller.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { RebalanceReport } from '../protocol/expert-maps.ts';
import { type KvEventPage, kvLife } from '../protocol/kv-events.ts';
import type { ChatMessage, Conversation, Prompt } from '../protocol/prompt.ts';
import type { Completion, ContextInfo, Generation } from '../results.ts';
import { type Clock, epoch_ms, monotonicClock, systemRandom } from '../runtime/clock.ts';
import { CALLER_THREAD } from '../runtime/directory.ts';
import { checkedMeanwhile, waitAtMost } from '../runtime/event-loop.ts';
import { ENDED_MS_MAX } from '../runtime/thread-start.ts';
import type { PodExperts, PodStats, ScaleReport } from '../stats.ts';
import { asInspect } from '../trace/inspection-events.ts';
import { ContextCopies } from './context-copies.ts';
import { contextInfo, createContext } from './contexts.ts';
import { HUNG_MS_MAX } from './control-pulse.ts';
import { ControlRecoveries } from './control-recoveries.ts';
import { podExperts } from './expert-stats.ts';
import { PodLives } from './pod-lives.ts';
import { controlOptionsOf, modelInfoOf, unwrap } from './pod-start.ts';
import { podStats } from './pod-stats.ts';
import { type CallerPorts, PodThreads, PULSE_MS, type StartedThreads } from './pod-threads.ts';
import { Questions } from './questions.ts';

/** More than all that the control thread waits for in turn while it closes: past it, it is stuck itself, in a full ring of a recorder whose disk hangs. */
const CLOSE_MS_MAX = 60_000;
/** Whatever ends one control thread after the other is no matter of threads: more successors than this in a minute end the pod. Each takes about a second to begin. */
const SUCCESSORS_MAX = 4;
const SUCCESSORS_PERIOD_MS = 60_000;

/** A test's control threads: `entry`: that misbehave; `hung_ms_max`, `beginning_ms_max`: that are given up sooner. */
export type ControlTerms = { readonly entry?: URL; readonly hung_ms_max?: number; readonly beginning_ms_max?: number };

/** What comes after a pod's first threads. `lives`: where others begin; null: there are none. `close`: nothing more is to be told of any of them. */
export type Future = { readonly lives: PodLives | null; readonly close: () => Promise<void> };

const NO_FUTURE: Future = { lives: null, close: async () => {} };

/** `worker_entry`: what its workers run instead of the shipped entry, where they are to break. */
export async function createLivePod(
  options: PodOptions = {},
  worker_entry?: URL,
  { entry, hung_ms_max, beginning_ms_max }: ControlTerms = {},
): Promise<LivePod> {
  const { onProgress, inspect, ...rest } = options;
  const resolved = parseOptions(podOptionsSchema, rest, 'createPod');
  const origin_ms = epoch_ms();
  const terms = { control: entry, worker: worker_entry, beginning_ms_max };
  const lives = new PodLives(controlOptionsOf(resolved, origin_ms), terms, inspect === undefined ? null : asInspect(inspect));
  try {
    const started = await lives.begin(onProgress);
    const future = { lives: lives.canBeginAnew ? lives : null, close: () => lives.close() };
    return new LivePod(started, monotonicClock(origin_ms), future, hung_ms_max);
  } catch (error) {
    await lives.close();
    throw error;
  }
}

const CLOSED = (): MinipodError => new MinipodError('closed', 'the pod is closed');

export class LivePod implements Pod {
  readonly model: ModelInfo;
  readonly max_queued: number;
  /** Unix time at which the pod's clock began. */
  readonly #origin_ms: number;
  readonly #clock: Clock;
  readonly #ports: CallerPorts;
  readonly #records: DeliveredRecords;
  readonly #calls: Calls;
  readonly #contexts = new ContextCopies();
  readonly #future: Future;
  /** What it was told to have, of one task executor, beside its options. Null: nothing. */
  #shape: ScaleOptions | null = null;
  /** Until a successor has that shape, too: whoever asks for another one waits. */
  #reshaping: Promise<void> | null = null;
  readonly #restarts = new RestartIntensity(SUCCESSORS_MAX, SUCCESSORS_PERIOD_MS);
  readonly #recoveries = new ControlRecoveries();
  readonly #questions = new Questions({ checkOpen: () => this.#checkOpen(), succession: () => this.#succession });
  #threads: PodThreads;
  /** Until the control thread has a successor. */
  #succession: Promise<void> | null = null;
  #closing: Promise<void> | null = null;
  /** Whoever closes it wants no successor. */
  readonly #unwanted = new AbortController();
  #isClosed = false;
  /** Nobody will answer `close` any more. */
  readonly #failed = Promise.withResolvers<void>();
  /** Why it came to an end by itself: told to whoever asks it something afterwards. */
  #failure: MinipodError | null = null;

  constructor(started: StartedThreads, clock: Clock, future: Future = NO_FUTURE, hung_ms_max = HUNG_MS_MAX) {
    this.#clock = clock;
    this.#origin_ms = epoch_ms() - clock.now_ms();
    this.#future = future;
    this.#ports = {
      clock,
      hung_ms_max,
      openCalls: () => this.#calls.open,
      isSilent: () => this.#calls.isSilent,
      receive: (said, group) => this.#calls.receive(said, group),
      losePeer: () => this.#calls.losePeer(),
      lookForLost: () => this.#calls.look(),
      onLost: (threads, error) => this.#lose(threads, error),
      onHung: (threads, error) => {
        if (future.lives !== null) this.#lose(threads, error);
      },
    };
    this.#threads = new PodThreads(started, this.#ports);
    this.#records = new DeliveredRecords(this.#threads.records);
    this.#calls = new Calls({ clock, random: systemRandom, records: this.#records, tell: (message) => this.#tell(message) });
    this.model = modelInfoOf(started.handle);
    this.max_queued = started.handle.plan.options.max_queued;
    this.#attend(this.#threads);
  }

  /** The pod's memory: for who breaks things on purpose. */
  get space(): AddressSpace {
    return this.#threads.space;
  }

  /** Where in it threads write to each other: for the same. */
  get rings(): readonly RingPlace[] {
    return this.#threads.handle.plan.rings;
  }

  /** Ends the control thread, as if it had died: for the same. */
  async killControl(): Promise<void> {
    await this.#threads.terminate();
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
    return this.#ask((remote) => remote.tokenize(promptRecord(prompt), add_special_tokens) as Promise<Outcome<{ token_ids: number[]; tokens: string[] }>>);
  }

  async detokenize(token_ids: readonly number[], { skip_special_tokens = true }: { skip_special_tokens?: boolean } = {}): Promise<string> {
    return this.#ask((remote) => remote.detokenize(tokenIdsOf(token_ids, this.model.context_length), skip_special_tokens) as Promise<Outcome<string>>);
  }

  async createContext(prompt: Prompt, options: ContextOptions = {}): Promise<ContextInfo> {
    const record = await createContext(prompt, options, this.#calls, this.#threads.handle.plan, {
      create: async (call) => {
        const created = await this.#ask((remote) => remote.createContext(this.#contexts.asked(call)) as Promise<Outcome<ContextRecord>>);
        this.#contexts.keep(call, created);
        return created;
      },
      delete: (id, cache_salt) => this.deleteContext(id, { cache_salt }),
    });
    return contextInfo(record, this.#origin_ms);
  }

  async listContexts(options: ContextsOf = {}): Promise<readonly ContextInfo[]> {
    const { cache_salt } = parseOptions(contextsOfSchema, options, 'listContexts');
    const records = await this.#ask((remote) => remote.listContexts(cache_salt) as Promise<Outcome<ContextRecord[]>>);
    return records.map((record) => contextInfo(record, this.#origin_ms));
  }

  async deleteContext(id: string, options: ContextsOf = {}): Promise<boolean> {
    const { cache_salt } = parseOptions(contextsOfSchema, options, 'deleteContext');
    const wasKept = this.#contexts.forget(id, cache_salt, this.#clock.now_ms());
    // A successor that is asked in place of a lost one was told of it no more.
    return (await this.#ask((remote) => remote.deleteContext(id, cache_salt) as Promise<Outcome<boolean>>)) || wasKept;
  }

  async kvEvents(dp_group: number, from = 0): Promise<KvEventPage> {
    checkKvEvents(dp_group, from);
    // By when it was asked: once it has answered it may be lost.
    let lost = 0;
    const page = await this.#ask((remote) => {
      lost = this.#recoveries.lost_total;
      return remote.kvEvents(dp_group, from) as Promise<Outcome<KvEventPage>>;
    });
    return { ...page, life: kvLife(lost, page.life) };
  }

  async rebalance({ force = false }: RebalanceOptions = {}): Promise<readonly RebalanceReport[]> {
    return this.#ask((remote) => remote.rebalance(force) as Promise<Outcome<RebalanceReport[]>>);
  }

  async resetPrefixCache(): Promise<void> {
    await this.#ask((remote) => remote.resetPrefixCache() as Promise<Outcome<void>>);
  }

  async scale(options: ScaleOptions): Promise<ScaleReport> {
    const { deadline_ms, ...asked } = parseOptions(scaleSchema, options, 'scale');
    const report = await this.#ask(async (remote) => {
      await this.#reshaping;
      return remote.scale({ ...asked, deadline_ms }) as Promise<Outcome<ScaleReport>>;
    });
    this.#shape = { ...this.#shape, ...asked };
    return report;
  }

  async stats(): Promise<PodStats> {
    this.#checkAlive();
    const answer = this.#ask((remote) => remote.stats() as ReturnType<ControlRemote['stats']>);
    const report = await checkedMeanwhile(answer, () => this.#checkAlive(), PULSE_MS);
    const links = [{ thread: CALLER_THREAD, reports: this.#threads.counters() }, ...report.links];
    return podStats(this.model.name, this.#clock, this.#threads.handle.plan, { ...report, links }, this.#calls.counts, this.#recoveries);
  }

  async experts({ measure = true }: { measure?: boolean } = {}): Promise<PodExperts> {
    const report = await this.#ask((remote) => remote.experts(measure) as ReturnType<ControlRemote['experts']>);
    return podExperts(this.model.name, this.#clock, this.#threads.handle.plan, report);
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
    // Whoever is about to begin is ended by who started him.
    this.#unwanted.abort(CLOSED());
    await this.#succession;
    const threads = this.#threads;
    if (!this.#isClosed) await waitAtMost(Promise.race([threads.remote.close(), threads.died, this.#failed.promise]), CLOSE_MS_MAX).catch(() => {});
    this.#isClosed = true;
    // What it has not answered by now it never will.
    this.#questions.fail(CLOSED());
    threads.leave();
    await threads.terminate();
    await this.#future.close();
  }

  /** While nobody is there to be told, calls wait: those that are open then are all told of at once. */
  #tell(message: CallerToPod): void {
    if (this.#succession === null) this.#threads.tell(message);
  }

  #ask<Value>(ask: (remote: PodThreads['remote']) => Promise<Outcome<Value>>): Promise<Value> {
    return this.#questions.ask(async () => unwrap(await ask(this.#threads.remote)));
  }

  #checkOpen(): void {
    if (this.#closing !== null || this.#isClosed) throw this.#failure ?? CLOSED();
  }

  /** What is to be answered at once is not asked of who is lost, or hangs. */
  #checkAlive(): void {
    if (this.#succession !== null) throw this.#recoveries.error(this.#clock.now_ms());
    if (!this.#isClosed) this.#threads.pulse.check();
  }

  /** Hears what these threads say, and when they end. */
  #attend(threads: PodThreads): void {
    threads.died.catch((error: MinipodError) => this.#lose(threads, error));
    threads.run().catch((error: unknown) => {
      // What those say who are lost concerns nobody.
      if (threads === this.#threads && this.#succession === null)
        this.#fail(new MinipodError('internal', `the pod's caller side failed: ${error}`, { cause: error }));
    });
  }

  /** The control thread is lost, and all others with it. */
  #lose(threads: PodThreads, error: MinipodError): void {
    if (threads !== this.#threads || this.#succession !== null || this.#isClosed) return;
    const { lives } = this.#future;
    if (this.#closing !== null) {
      threads.abandon();
      this.#fail(error);
    } else if (lives === null || threads.hasGivenUp || error.code === 'worker_failed') this.#fail(error);
    else if (!this.#restarts.allows(this.#clock.now_ms())) {
      threads.abandon();
      this.#fail(this.#recoveries.tooMany(error, SUCCESSORS_PERIOD_MS));
    } else this.#succession = this.#succeed(threads, lives, error);
  }

  async #succeed(lost: PodThreads, lives: PodLives, error: MinipodError): Promise<void> {
    this.#recoveries.lost(this.#clock.now_ms(), error.message);
    // No caller notices, and whoever runs the pod must: it may be a defect.
    process.emitWarning(`${error.message}; another one takes its place, and what runs goes on there`, { type: 'ControlThreadLost' });
    lost.abandon();
    this.#questions.lose();
    try {
      // Nobody else tells callers what need not wait for a successor.
      const threads = await checkedMeanwhile(this.#startBehind(lost, lives), () => this.#calls.endUntold(), PULSE_MS);
      this.#threads = threads;
      this.#succession = null;
      // Close waits for this, and ends whom it finds.
      if (this.#closing !== null) return;
      this.#attend(threads);
      this.#calls.goOnAnew();
      this.#recoveries.started(this.#clock.now_ms());
      if (this.#shape !== null) this.#reshaping = this.#scaleAnew(threads, this.#shape);
    } catch (cause) {
      this.#succession = null;
      this.#fail(cause instanceof MinipodError ? cause : new MinipodError('internal', `the pod's control thread has no successor: ${cause}`, { cause }));
    }
  }

  /** In their memory, where they are proven to have ended. */
  async #startBehind(lost: PodThreads, lives: PodLives): Promise<PodThreads> {
    // One that hangs; all others end with it, or by themselves.
    const hasEnded = await lost.terminate(ENDED_MS_MAX);
    if (hasEnded) this.#records.setAside();
    lives.lose(lost.handle.memories, hasEnded);
    return this.#startAtLast(lives);
  }

  /** One that does not come so far may have met what the lost one did: there is another, as often as one may be lost. */
  async #startAtLast(lives: PodLives): Promise<PodThreads> {
    for (let attempts = 1; ; attempts++) {
      try {
        this.#unwanted.signal.throwIfAborted();
        // Whoever does not begin is waited for until he has ended.
        const threads = new PodThreads(await lives.beginAnew(this.#unwanted.signal), this.#ports);
        try {
          return await this.#settle(threads);
        } catch (error) {
          threads.abandon();
          lives.giveUp(threads.handle.memories, await threads.terminate(ENDED_MS_MAX));
          throw error;
        }
      } catch (error) {
        if (this.#unwanted.signal.aborted || (error instanceof MinipodError && error.code === 'out_of_memory')) throw error;
        if (!this.#restarts.allows(this.#clock.now_ms())) throw this.#recoveries.tooMany(error, SUCCESSORS_PERIOD_MS);
        // Of those that take longer than the period, too.
        if (attempts === SUCCESSORS_MAX) throw this.#recoveries.noneBegins(error, attempts);
        process.emitWarning(`a successor of the pod's control thread does not begin (${error}); another one takes its place`, { type: 'ControlThreadLost' });
      }
    }
  }

  /** What is kept for callers is there before they are heard. */
  async #settle(threads: PodThreads): Promise<PodThreads> {
    const check = (): void => {
      this.#unwanted.signal.throwIfAborted();
      threads.checkTurning();
    };
    for (const call of this.#contexts.calls(this.#clock.now_ms())) {
      const answer = threads.remote.createContext(call) as Promise<Outcome<ContextRecord>>;
      unwrap(await checkedMeanwhile(Promise.race([answer, threads.died]), check, PULSE_MS));
    }
    this.#records.moveTo(threads.records);
    return threads;
  }

  /** It has begun with the shape of its options: what runs need not wait until it has the other again. Where it is lost meanwhile, the next one is asked. */
  async #scaleAnew({ remote, died }: PodThreads, shape: ScaleOptions): Promise<void> {
    try {
      unwrap(await Promise.race([remote.scale(shape) as Promise<Outcome<ScaleReport>>, died]));
    } catch (error) {
      if (!this.#isClosed && this.#succession === null) process.emitWarning(`the pod's shape is that of its options: ${error}`, { type: 'PodShapeLost' });
    }
  }

  #fail(error: MinipodError): void {
    if (this.#closing === null) this.#failure ??= error;
    this.#isClosed = true;
    this.#threads.leave();
    this.#calls.close(error);
    void this.#future.close();
    this.#questions.fail(error);
    this.#failed.resolve();
  }
}
