/**
 * The lives of a pod's threads, one after the other, and what is recorded and told of each. A trace is of one life, and replays by itself: so each has a file of its
 * own. Whoever looks on is told of a life to its end before the next one begins.
 * @module
 */
import { totalmem } from 'node:os';
import type { ControlOptions, OnInspected } from './platform/control-handle.ts';
import { warnRecordingEnded } from './platform/recording.ts';
import type { ProgressReport } from './platform/weights.ts';
import { type StartTerms, startPodThreads } from './pod-start.ts';
import type { StartedThreads } from './pod-threads.ts';
import { MinipodError } from './protocol/errors.ts';
import { TERMINATION_IS_PROOF } from './runtime/thread-start.ts';
import type { Inspect } from './trace/inspection-events.ts';
import { filesOfLife, NOT_RECORDED, type RunFiles } from './trace/life-file.ts';
import { LiveInspection } from './trace/live-inspection.ts';

/** Where a successor's memory is another one, the lost one's is free when V8 has found that nobody has it: both together take no more of the machine's. */
const MEMORY_SHARE_MAX = 0.75;

type Memories = readonly WebAssembly.Memory[];

export class PodLives {
  readonly #options: ControlOptions;
  readonly #terms: StartTerms;
  #inspect: Inspect | null;
  #inspection: LiveInspection | null = null;
  #life = 0;
  #recorded: RunFiles;
  #fitsTwice = true;
  /** Where somebody may still write who was to begin there, and did not. */
  #left: Memories | null = null;

  constructor(options: ControlOptions, terms: StartTerms, inspect: Inspect | null) {
    [this.#options, this.#terms, this.#inspect, this.#recorded] = [options, terms, inspect, options];
  }

  /** The first; or, in `memories` of one that is over, or new ones, another one in its place. */
  async begin(onProgress?: (report: ProgressReport) => void, memories?: Memories, unwanted?: AbortSignal): Promise<StartedThreads> {
    const life = ++this.#life;
    // Who threw is told no more.
    if (this.#inspection?.hasFailed === true) this.#inspect = null;
    await this.close();
    const inspection = this.#inspect === null ? null : new LiveInspection(this.#inspect, this.#options.origin_ms, life);
    this.#inspection = inspection;
    const recorded = life > 1 && filesOfLife(this.#recorded, life);
    const options = { ...this.#options, ...recorded, inspected: inspection?.state, ...(memories !== undefined && { memories }) };
    const onInspected: OnInspected | undefined = inspection === null ? undefined : (ring) => inspection.add(ring);
    const begun = await startPodThreads(options, this.#terms, { onProgress, onInspected, unwanted });
    if ('error' in begun) {
      // Whoever was to begin in new ones leaves no room that anybody is offered.
      if (!begun.hasEnded && memories !== undefined) this.#left = memories;
      throw begun.error;
    }
    this.#fitsTwice = 2 * begun.handle.plan.memory.bytes <= totalmem() * MEMORY_SHARE_MAX;
    return begun;
  }

  /** The same in the place of a lost one, whose memory is given where all has ended. Its trace may be what cannot be had: then it goes on without, and whoever wanted it hears that. */
  async beginAnew(lost: Memories | undefined, unwanted?: AbortSignal): Promise<StartedThreads> {
    try {
      return await this.#beginIn(lost, unwanted);
    } catch (error) {
      if (!(error instanceof MinipodError) || error.code !== 'trace_not_written') throw error;
      warnRecordingEnded(error);
      this.#recorded = NOT_RECORDED;
      return this.#beginIn(lost, unwanted);
    }
  }

  /** Whether others may follow. */
  get canBeginAnew(): boolean {
    return TERMINATION_IS_PROOF || this.#fitsTwice;
  }

  /** Tells what is left to tell of the latest. */
  async close(): Promise<void> {
    await this.#inspection?.close();
  }

  #beginIn(lost: Memories | undefined, unwanted: AbortSignal | undefined): Promise<StartedThreads> {
    const memories = lost === this.#left ? undefined : lost;
    if (memories === undefined && !this.#fitsTwice)
      throw new MinipodError(
        'out_of_memory',
        'the pod ends: not all threads of the lost control thread have ended, and there is no room for another memory beside theirs',
      );
    return this.begin(undefined, memories, unwanted);
  }
}
