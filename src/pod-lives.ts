/**
 * The lives of a pod's threads, one after the other, and what is recorded and told of each. A trace is of one life, and replays by itself: so each has a file of its
 * own. Whoever looks on is told of a life to its end before the next one begins.
 * @module
 */
import type { ControlOptions } from './platform/control-handle.ts';
import { warnRecordingEnded } from './platform/recording.ts';
import type { ProgressReport } from './platform/weights.ts';
import { type PodEntries, startPodThreads } from './pod-start.ts';
import type { StartedThreads } from './pod-threads.ts';
import { MinipodError } from './protocol/errors.ts';
import type { Inspect } from './trace/inspection-events.ts';
import { filesOfLife, NOT_RECORDED, type RunFiles } from './trace/life-file.ts';
import { LiveInspection } from './trace/live-inspection.ts';

export class PodLives {
  readonly #options: ControlOptions;
  readonly #entries: PodEntries;
  #inspect: Inspect | null;
  #inspection: LiveInspection | null = null;
  #life = 0;
  #recorded: RunFiles;

  constructor(options: ControlOptions, entries: PodEntries, inspect: Inspect | null) {
    [this.#options, this.#entries, this.#inspect, this.#recorded] = [options, entries, inspect, options];
  }

  /** The first; or, in `memories` of one that is over, or new ones, another one in its place. */
  async begin(onProgress?: (report: ProgressReport) => void, memories?: readonly WebAssembly.Memory[]): Promise<StartedThreads> {
    const life = ++this.#life;
    // Who threw is told no more.
    if (this.#inspection?.hasFailed === true) this.#inspect = null;
    await this.close();
    const inspection = this.#inspect === null ? null : new LiveInspection(this.#inspect, this.#options.origin_ms, life);
    this.#inspection = inspection;
    const recorded = life > 1 && filesOfLife(this.#recorded, life);
    const options = { ...this.#options, ...recorded, inspected: inspection?.state, ...(memories !== undefined && { memories }) };
    return startPodThreads(options, this.#entries, onProgress, inspection === null ? undefined : (ring) => inspection.add(ring));
  }

  /** The same in a lost one's place. Its trace may be what cannot be had: then it goes on without, and whoever wanted it hears that. */
  async beginAnew(memories: readonly WebAssembly.Memory[] | undefined): Promise<StartedThreads> {
    try {
      return await this.begin(undefined, memories);
    } catch (error) {
      if (!(error instanceof MinipodError) || error.code !== 'trace_not_written') throw error;
      warnRecordingEnded(error);
      this.#recorded = NOT_RECORDED;
      return this.begin(undefined, memories);
    }
  }

  /** Tells what is left to tell of the latest. */
  async close(): Promise<void> {
    await this.#inspection?.close();
  }
}
