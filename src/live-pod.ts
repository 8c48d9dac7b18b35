/**
 * A pod on worker threads, from its caller's thread: Comlink for create, stats and close, a ring for everything that happens often.
 * @module
 */
import { Worker } from 'node:worker_threads';
import * as Comlink from 'comlink';
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs';
import { workerOfNpu } from '../actors/policies/placement.ts';
import { generateCall, promptRecord } from './call.ts';
import { ControlPage } from './fabric/control-page.ts';
import { Links } from './fabric/links.ts';
import type { RingConsumer } from './fabric/ring.ts';
import { collect, LiveGeneration } from './generation.ts';
import { resolveModel } from './model/registry.ts';
import {
  type ChatMessage,
  type GenerateOptions,
  generateOptionsSchema,
  type PodOptions,
  type Prompt,
  parseOptions,
  podOptionsSchema,
  type ResolvedGenerateOptions,
} from './options.ts';
import type { ControlHandle, ControlStats } from './platform/control.ts';
import type { ControlRemote, Outcome } from './platform/control-thread.ts';
import type { ModelInfo, Pod } from './pod.ts';
import type { PodToCaller } from './protocol/caller.ts';
import { fromErrorRecord, MinipodError } from './protocol/errors.ts';
import { REQUEST_IDS } from './protocol/messages.ts';
import type { LinkRead } from './protocol/threads.ts';
import type { Completion, Generation, LinkStats, PodStats } from './results.ts';
import { type Clock, epoch_ms, monotonicClock, systemRandom } from './runtime/clock.ts';
import { CALLER_THREAD, CONTROL_THREAD } from './runtime/directory.ts';
import { breathe, EventLoopSleeper } from './runtime/event-loop.ts';
import { MessagePort } from './runtime/message-port.ts';
import { entryPoint, threadOptions } from './runtime/thread-entry.ts';

/** An idle caller looks up this often, one that waits for tokens more often; a bell wakes it earlier. */
const SLEEP_MS = 1_000;
const SLEEP_BUSY_MS = 10;

/**
 * V8 does not count shared memory, so closed pods would pile up uncollected (39 MB each were seen). A buffer as large as a pod's memory, never touched and so
 * free of cost, tells it their weight.
 */
const WEIGHTS = new WeakMap<object, ArrayBuffer>();

export async function createLivePod(options: PodOptions = {}): Promise<Pod> {
  const { onProgress, ...rest } = options;
  const resolved = parseOptions(podOptionsSchema, rest, 'createPod');
  const folder = resolveModel(resolved.model);
  const { model: _model, topology: _topology, kv_blocks, memory_bytes, ...numbers } = resolved;
  const origin_ms = epoch_ms();
  const thread = new Worker(entryPoint('../platform/control-thread'), threadOptions());
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
    const created = remote.create({ ...numbers, kv_blocks, memory_bytes, folder, origin_ms }, progress as never) as Promise<Outcome<ControlHandle>>;
    const handle = unwrap(await Promise.race([created, died]));
    return new LivePod(handle, thread, remote, died, monotonicClock(origin_ms));
  } catch (error) {
    await thread.terminate();
    throw error;
  }
}

/** What crosses a thread as its last error is no MinipodError any more, but keeps its code (in Node). */
const isWorkerFailure = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'worker_failed';

function unwrap<Value>(outcome: Outcome<Value>): Value {
  if ('error' in outcome) throw fromErrorRecord(outcome.error);
  return outcome.value;
}

/** Of a reader that is lost. */
const NOTHING_READ: LinkRead = { received_frames: 0, received_bytes: 0, stale: 0, latencies_us: [], latency_us_sum: 0 };

/** Each link once, with what its writer and what its reader count. */
function linkStats(views: ControlStats['links'], threads: ControlStats['threads']): LinkStats[] {
  const nameOf = (thread: number): string => threads[thread]?.name ?? `${thread}`;
  return views.flatMap(({ thread, reports }) =>
    reports.map(({ peer, ...report }) => {
      const reader = views.find((view) => view.thread === peer)?.reports.find((other) => other.peer === thread && other.lane === report.lane);
      // What the writer's thread reads is the ring of the other direction.
      const { received_frames, received_bytes, stale, latencies_us, latency_us_sum } = reader ?? NOTHING_READ;
      return { from: nameOf(thread), to: nameOf(peer), ...report, received_frames, received_bytes, stale, latencies_us, latency_us_sum };
    }),
  );
}

export class LivePod implements Pod {
  readonly model: ModelInfo;
  readonly #handle: ControlHandle;
  readonly #thread: Worker;
  readonly #remote: Comlink.Remote<ControlRemote>;
  readonly #died: Promise<never>;
  readonly #clock: Clock;
  readonly #port: MessagePort;
  readonly #sleeper: EventLoopSleeper;
  readonly #generations = new Map<number, LiveGeneration>();
  /** What is asked of the control thread and not answered: fails with it. */
  readonly #questions = new Set<(error: unknown) => void>();
  #next = 1;
  #closing: Promise<void> | null = null;
  #isClosed = false;

  constructor(handle: ControlHandle, thread: Worker, remote: Comlink.Remote<ControlRemote>, died: Promise<never>, clock: Clock) {
    const { plan, memories } = handle;
    this.#handle = handle;
    WEIGHTS.set(this, new ArrayBuffer(plan.memory.bytes));
    this.#thread = thread;
    this.#remote = remote;
    this.#died = died;
    this.#clock = clock;
    const first = memories[0] as WebAssembly.Memory;
    this.#port = new MessagePort(new Links(CALLER_THREAD, first, plan.rings, new ControlPage(memories), { now_us: () => clock.now_ms() * 1000 }));
    this.#sleeper = new EventLoopSleeper(this.#port.links.control, CALLER_THREAD);
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
    const { signal, ...rest } = options;
    return this.#submit(prompt, parseOptions(generateOptionsSchema, rest, 'generate'), signal);
  }

  async complete(prompt: Prompt, options: GenerateOptions = {}): Promise<Completion> {
    const { signal, ...rest } = options;
    const resolved = parseOptions(generateOptionsSchema, rest, 'complete');
    return collect(this.#submit(prompt, resolved, signal), this.model.name, resolved.n);
  }

  async tokenize(
    prompt: string | readonly ChatMessage[],
    { add_special_tokens = true }: { add_special_tokens?: boolean } = {},
  ): Promise<{ token_ids: number[]; tokens: string[] }> {
    return this.#ask(this.#remote.tokenize(promptRecord(prompt), add_special_tokens) as Promise<Outcome<{ token_ids: number[]; tokens: string[] }>>);
  }

  async detokenize(tokenIds: readonly number[]): Promise<string> {
    return this.#ask(this.#remote.detokenize(tokenIds) as Promise<Outcome<string>>);
  }

  async stats(): Promise<PodStats> {
    const report = await this.#ask(this.#remote.stats() as ReturnType<ControlRemote['stats']>);
    const { memory, npus, workers, layouts } = this.#handle.plan;
    const waiting = report.npus.reduce((sum, { requests_waiting }) => sum + requests_waiting, 0);
    return {
      model: this.model.name,
      uptime_seconds: this.#clock.now_ms() / 1000,
      requests_running: report.npus.reduce((sum, { requests_running }) => sum + requests_running, 0),
      requests_waiting: waiting,
      requests_finished: report.finished,
      prompt_tokens: report.prompt_tokens,
      generation_tokens: report.generation_tokens,
      kv_block_size: this.#handle.plan.options.kv_block_size,
      npus: report.npus.map((npu) => ({ ...npu, worker: workerOfNpu(npu.npu, npus, workers), hbm_bytes: layouts[npu.npu]?.bytes ?? 0 })),
      expert_loads: report.expert_loads,
      memory: { total_bytes: memory.bytes, regions: report.regions },
      fabric: { links: linkStats([{ thread: CALLER_THREAD, reports: this.#port.links.counters() }, ...report.links], report.threads), threads: report.threads },
      unexpected_messages: report.unexpected,
    };
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    for (const generation of this.#generations.values()) generation.end(new MinipodError('closed', 'the pod was closed while the request ran'));
    this.#generations.clear();
    if (!this.#isClosed) await Promise.race([this.#remote.close(), this.#died]).catch(() => {});
    this.#isClosed = true;
    this.#port.links.control.ring(CALLER_THREAD);
    await this.#thread.terminate();
  }

  #submit(prompt: Prompt, options: ResolvedGenerateOptions, signal: AbortSignal | undefined): Generation {
    const record = promptRecord(prompt);
    if (signal !== undefined && !(signal instanceof AbortSignal))
      throw new MinipodError('invalid_request', 'signal: must be an AbortSignal', { param: 'signal' });
    const seed = options.seed ?? systemRandom.drawSeed();
    const request = this.#newRequest();
    const generation = new LiveGeneration(`cmpl-${request.toString(16)}`, seed, options.prompt_logprobs !== undefined, {
      clock: this.#clock,
      cancel: () => this.#cancel(request),
      ended: () => signal?.removeEventListener('abort', onAbort),
    });
    const onAbort = (): void => generation.cancel();
    if (this.#closing !== null || this.#isClosed) {
      generation.end(new MinipodError('closed', 'the pod is closed'));
      return generation;
    }
    if (signal?.aborted === true) {
      generation.end(new MinipodError('cancelled', 'the caller cancelled the request'));
      return generation;
    }
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#generations.set(request, generation);
    try {
      this.#tell(generateCall(request, record, options, seed));
    } catch (error) {
      this.#generations.delete(request);
      generation.end(error instanceof MinipodError ? error : new MinipodError('internal', `the call could not be sent: ${error}`, { cause: error }));
    }
    return generation;
  }

  #newRequest(): number {
    for (;;) {
      const request = this.#next;
      this.#next = (this.#next + 1) % REQUEST_IDS;
      if (!this.#generations.has(request)) return request;
    }
  }

  #cancel(request: number): void {
    if (this.#generations.has(request) && !this.#isClosed) this.#tell({ type: 'CANCEL_CALL', request });
  }

  #tell(message: object): void {
    this.#port.send(CONTROL_THREAD, 'frontend/0', 'caller/0', message);
    this.#port.links.flush();
    // From now on it looks up more often.
    this.#sleeper.wake();
  }

  async #ask<Value>(answer: Promise<Outcome<Value>>): Promise<Value> {
    if (this.#closing !== null || this.#isClosed) throw new MinipodError('closed', 'the pod is closed');
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

  /** Takes what the pod sends, for as long as it lives. */
  async #run(): Promise<void> {
    const { links } = this.#port;
    const sleeper = this.#sleeper;
    const hasWork = (): boolean => this.#isClosed || links.hasInbound();
    const onFrame = (_peer: number, ring: RingConsumer): void => this.#receive(this.#port.read(ring).message as PodToCaller);
    while (!this.#isClosed) {
      const busy = links.receive(onFrame);
      const waits = links.flush();
      // Chunks wake their readers, who run before the next frame is looked for.
      if (busy) await breathe();
      else await sleeper.sleep(waits ? 1 : this.#generations.size > 0 ? SLEEP_BUSY_MS : SLEEP_MS, hasWork);
    }
  }

  #receive(message: PodToCaller): void {
    if (message.type === 'CHUNKS') {
      for (const chunk of message.chunks) this.#generations.get(chunk.request)?.push(chunk);
      return;
    }
    this.#generations.get(message.request)?.receive(message);
    if (message.type === 'ENDED') this.#generations.delete(message.request);
  }

  #fail(error: MinipodError): void {
    this.#isClosed = true;
    for (const generation of this.#generations.values()) generation.end(error);
    this.#generations.clear();
    for (const reject of this.#questions) reject(error);
  }
}
