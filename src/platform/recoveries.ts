/**
 * How long it took to put successors in the place of lost workers, by part:
 *
 *   lost ─ end ─▶ its end is proven ─ release ─▶ all peers have let go of its rings ─ start ─▶ the successor runs
 *
 * What callers see as a stall has detection before it, and what is computed again after it.
 * @module
 */

export type RecoveryCause = 'died' | 'given_up';
/**
 * `at_ms`: when it was lost, by the pod's clock; `reason`: why, in words. Null: it has not come to that, and never will where a later one of the same worker
 * stands behind it: then the successor was lost before it ran.
 */
export type RecoveryReport = {
  readonly worker: number;
  readonly cause: RecoveryCause;
  readonly reason: string;
  /** False: it has no successor to come. */
  readonly has_successor: boolean;
  /** The successor was a thread that waited for it. */
  readonly is_warm: boolean;
  readonly at_ms: number;
  readonly end_ms: number | null;
  readonly release_ms: number | null;
  readonly start_ms: number | null;
};

const KEPT_MAX = 64;

type Recovery = { -readonly [Field in keyof RecoveryReport]: RecoveryReport[Field] };

export class Recoveries {
  readonly #now_ms: () => number;
  readonly #respawns: boolean;
  readonly #latest: Recovery[] = [];

  constructor(now_ms: () => number, respawns: boolean) {
    this.#now_ms = now_ms;
    this.#respawns = respawns;
  }

  lost(worker: number, cause: RecoveryCause, reason: string): void {
    this.#latest.push({
      worker,
      cause,
      reason,
      has_successor: this.#respawns,
      is_warm: false,
      at_ms: this.#now_ms(),
      end_ms: null,
      release_ms: null,
      start_ms: null,
    });
    if (this.#latest.length > KEPT_MAX) this.#latest.shift();
  }

  ended(worker: number): void {
    const recovery = this.#of(worker);
    if (recovery !== undefined) recovery.end_ms ??= this.#now_ms() - recovery.at_ms;
  }

  released(worker: number, is_warm: boolean): void {
    const recovery = this.#of(worker);
    if (recovery === undefined) return;
    recovery.is_warm = is_warm;
    // One that had none to come may have got another's place (role-successions.ts).
    recovery.has_successor = true;
    recovery.release_ms = this.#now_ms() - recovery.at_ms - (recovery.end_ms ?? 0);
  }

  started(worker: number): void {
    const recovery = this.#of(worker);
    if (recovery !== undefined) recovery.start_ms = this.#now_ms() - recovery.at_ms - (recovery.end_ms ?? 0) - (recovery.release_ms ?? 0);
  }

  /** The latest last. */
  report(): readonly RecoveryReport[] {
    return this.#latest.map((recovery) => ({ ...recovery }));
  }

  /** The one that is under way. */
  #of(worker: number): Recovery | undefined {
    return this.#latest.findLast((recovery) => recovery.worker === worker && recovery.start_ms === null);
  }
}
