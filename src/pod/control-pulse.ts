/**
 * Whether the control thread turns its loop, as its caller's thread sees it: nobody else is left to look after the one that looks after all others.
 * @module
 */
import type { ControlPage } from '../fabric/control-page.ts';
import { MinipodError } from '../protocol/errors.ts';
import { CONTROL_THREAD } from '../runtime/directory.ts';
import { Silence } from '../runtime/silence.ts';

/** An idle control thread turns four times a second; what it does at a stretch, such as loading weights anew, takes less than this for models that fit a laptop. */
export const SILENT_MS_MAX = 3_000;
/** Whoever does not turn it for so long will not: it is lost. Much longer, since all that runs begins anew with its successor. */
export const HUNG_MS_MAX = 10_000;

export class ControlPulse {
  readonly #control: ControlPage;
  readonly #hung_ms_max: number;
  readonly #silence = new Silence();

  constructor(control: ControlPage, hung_ms_max = HUNG_MS_MAX) {
    this.#control = control;
    this.#hung_ms_max = hung_ms_max;
  }

  look(now_ms: number): void {
    this.#silence.look(this.#control.progressOf(CONTROL_THREAD), now_ms);
  }

  /** @throws `deadline_exceeded` where nothing that is asked of it would be answered */
  check(): void {
    if (this.#silence.ms > SILENT_MS_MAX) throw this.error;
  }

  get isHung(): boolean {
    return this.#silence.ms > this.#hung_ms_max;
  }

  /** For how long it has been silent. */
  get error(): MinipodError {
    const silent = (this.#silence.ms / 1000).toFixed(1);
    return new MinipodError('deadline_exceeded', `the pod's control thread has not turned its loop for ${silent} s: what runs goes on, and nothing begins`);
  }
}
