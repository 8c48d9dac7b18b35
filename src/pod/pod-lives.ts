/**
 * The lives of a pod's threads, one after the other, and what is recorded and told of each. A trace is of one life, and replays by itself: so each has a file of its
 * own. Whoever looks on is told of a life to its end before the next one begins.
 * @module
 */
import type { ControlOptions, OnInspected } from '../platform/control-handle.ts';
import { warnRecordingEnded } from '../platform/recording.ts';
import type { ProgressReport } from '../platform/weights.ts';
import { MinipodError } from '../protocol/errors.ts';
import { TERMINATION_IS_PROOF } from '../runtime/thread-start.ts';
import type { Inspect } from '../trace/inspection-events.ts';
import { filesOfLife, NOT_RECORDED, type RunFiles } from '../trace/life-file.ts';
import { LiveInspection } from '../trace/live-inspection.ts';
import { type Memories, PodMemories } from './pod-memories.ts';
import { type StartTerms, startPodThreads } from './pod-start.ts';
import type { StartedThreads } from './pod-threads.ts';

const isTraceMissing = (error: unknown): error is MinipodError => error instanceof MinipodError && error.code === 'trace_not_written';

export class PodLives {
  readonly #options: ControlOptions;
  readonly #terms: StartTerms;
  #inspect: Inspect | null;
  #inspection: LiveInspection | null = null;
  #life = 0;
  #recorded: RunFiles;
  readonly #memories = new PodMemories();

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
      // Where its trace cannot be written it has started nobody yet who would outlive it.
      this.#memories.giveUp(memories, begun.hasEnded || isTraceMissing(begun.error));
      throw begun.error;
    }
    this.#memories.setSize(begun.handle.plan.memory.bytes);
    return begun;
  }

  /** Who served is lost. `hasEnded`, here and below: it is proven that nobody writes in its memory any more. */
  lose(memories: Memories, hasEnded: boolean): void {
    this.#memories.lose(memories, hasEnded);
  }

  /** Who has begun will not serve. */
  giveUp(memories: Memories, hasEnded: boolean): void {
    this.#memories.giveUp(memories, hasEnded);
  }

  /** The same in the place of a lost one. Its trace may be what cannot be had: then it goes on without, and whoever wanted it hears that. */
  async beginAnew(unwanted: AbortSignal): Promise<StartedThreads> {
    try {
      return await this.begin(undefined, this.#memories.take(), unwanted);
    } catch (error) {
      if (!isTraceMissing(error)) throw error;
      warnRecordingEnded(error);
      this.#recorded = NOT_RECORDED;
      return this.begin(undefined, this.#memories.take(), unwanted);
    }
  }

  /** Whether others may follow. */
  get canBeginAnew(): boolean {
    return TERMINATION_IS_PROOF || this.#memories.fitsTwice;
  }

  /** Tells what is left to tell of the latest. */
  async close(): Promise<void> {
    await this.#inspection?.close();
  }
}
