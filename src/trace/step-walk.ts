/**
 * Goes through a trace step by step, forth and back, with its actors alive as they were then. Kernels are not computed.
 * @module
 */
import type { Address } from '../protocol/address.ts';
import type { Command } from '../runtime/cast.ts';
import { type Acts, actsOf, type Pause, type TracedAct } from './acts.ts';
import { type Divergence, Replay } from './replay.ts';
import { promptsOf, type RunHeader } from './run-header.ts';
import type { TraceReader } from './trace-reader.ts';

/** A step that has just been replayed. Contexts are as JSON has them; null: its actor was not alive, or is no machine. */
export type Stop = {
  readonly traced: TracedAct;
  readonly state_before: string | null;
  readonly context_before: unknown;
  readonly context_after: unknown;
  readonly commands: readonly Command[];
  /** The first step, up to this one, that this minipod does not replay as it was; then states and contexts are as they are now. */
  readonly divergence: Divergence | null;
};

export class StepWalk {
  readonly #reader: TraceReader;
  readonly #header: RunHeader;
  #replay: Replay;
  #acts: Acts;
  #rest: Iterator<TracedAct>;
  /** All steps before this one were replayed. */
  #next = 0;
  #divergence: Divergence | null = null;

  constructor(reader: TraceReader, header: RunHeader) {
    this.#reader = reader;
    this.#header = header;
    this.#replay = new Replay(null, promptsOf(header));
    this.#acts = actsOf(reader);
    this.#rest = this.#acts[Symbol.iterator]();
  }

  /** The pass over the trace: once `goTo` has given null, it says where the trace ends, and why. */
  get acts(): Acts {
    return this.#acts;
  }

  /**
   * Replays up to the step, and it. To go back is to begin again.
   * Null: the trace has no such step, or none that can be read.
   */
  async goTo(step: number, pause?: Pause): Promise<Stop | null> {
    if (step < this.#next) this.#beginAgain();
    for (let found = this.#rest.next(); !found.done; found = this.#rest.next()) {
      const traced = found.value;
      const waiting = pause?.(traced.offset);
      if (waiting) await waiting;
      this.#next = traced.index + 1;
      if (traced.index >= step) return this.#stopAt(traced);
      this.#feed(traced);
    }
    return null;
  }

  /** As it is after the last step; null: nobody of that name is alive. */
  look(actor: Address): { readonly state: string; readonly context: unknown } | null {
    const cast = this.#replay.castWith(actor);
    const state = cast?.stateOf(actor) ?? null;
    return cast === null || state === null ? null : { state, context: plain(cast.contextOf(actor)) };
  }

  #beginAgain(): void {
    this.#replay = new Replay(null, promptsOf(this.#header));
    this.#acts = actsOf(this.#reader);
    this.#rest = this.#acts[Symbol.iterator]();
    this.#next = 0;
    this.#divergence = null;
  }

  #feed({ act, index }: TracedAct): void {
    const differs = this.#replay.feed(act, index);
    this.#divergence ??= differs;
  }

  #stopAt(traced: TracedAct): Stop {
    const { act } = traced;
    const cast = this.#replay.castOf(act);
    const [state_before, context_before] = [cast.stateOf(act.to), plain(cast.contextOf(act.to))];
    this.#feed(traced);
    const { commands } = this.#replay;
    return { traced, state_before, context_before, context_after: plain(cast.contextOf(act.to)), commands, divergence: this.#divergence };
  }
}

/** Copied, since an actor's context may be changed in place; stores of policies say what they hold by their `toJSON`. */
const plain = (context: unknown): unknown => JSON.parse(JSON.stringify(context ?? null));
