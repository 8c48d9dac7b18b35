/**
 * When a host's weights are held against their sums (resting-weights.ts).
 *
 *   scrub       a pass over all of them begins once a period: it goes on wherever the thread has nothing to do, and in steps' time only as far as it would else not be
 *               done when the next one begins. A flip is found two periods later at most, of which its thread has to live.
 *   each-step   an expert's when it has computed for a peer, before that is answered, all of an NPU's when its step is computed, before anybody is told, and what came
 *               from another NPU when it is there
 *
 * and either way an expert's where somebody who copied it says that it is not what was summed once.
 *
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import { type ErrorRecord, toErrorRecord } from '../../protocol/errors.ts';
import type { WeightCheck } from '../../protocol/steps.ts';
import { CHUNK_BYTES, type Checksum } from '../distflow/checksum.ts';
import type { ExpertArithmetic, WeightGuard } from '../forward/arithmetic.ts';
import type { PlanOptions } from '../pod-plan.ts';
import { type RestingLayout, RestingWeights, WeightDamage } from './resting-weights.ts';

/** Unless somebody says how long a pass may take. */
const SCRUB_S = 60;

type Suspect = { readonly npu: number; readonly layer: number; readonly slot: number };

export class WeightChecks {
  readonly #when: WeightCheck;
  readonly #period_ms: number;
  readonly #now_ms: () => number;
  readonly #weights: readonly RestingWeights[];
  readonly #byNpu: ReadonlyMap<number, RestingWeights>;
  readonly #bytes: number;
  /** Slots that somebody got bad weights from. */
  readonly #suspects: Suspect[] = [];
  /** Of the pass at hand. */
  #began_ms: number;
  #looked = 0;
  /** Whose turn it is; none: the pass is over. */
  #at = 0;

  constructor(
    { weight_checks: when = 'off', weight_scrub_s = SCRUB_S }: Pick<PlanOptions, 'weight_checks' | 'weight_scrub_s'>,
    layouts: readonly RestingLayout[],
    space: AddressSpace,
    checksum: Checksum,
    now_ms: () => number,
  ) {
    this.#when = when;
    this.#period_ms = 1000 * weight_scrub_s;
    this.#now_ms = now_ms;
    this.#weights = when === 'off' ? [] : layouts.map((layout) => new RestingWeights(layout, space, checksum));
    this.#byNpu = new Map(this.#weights.map((weights) => [weights.npu, weights]));
    this.#bytes = this.#weights.reduce((sum, { bytes }) => sum + bytes, 0);
    this.#began_ms = now_ms();
    this.#at = when === 'scrub' ? 0 : this.#weights.length;
  }

  /** What the arithmetic asks when it has computed for others, from now on: whoever has yet to begin can have no successor. */
  guard(arithmetic: ExpertArithmetic): void {
    const weights = this.#byNpu.get(arithmetic.layout.npu);
    if (weights === undefined || this.#when !== 'each-step') return;
    const guard: WeightGuard = { slot: (layer, slot) => weights.checkSlot(layer, slot), pieces: () => weights.checkPieces() };
    arithmetic.guard.weights = guard;
  }

  /** Weights were copied to the NPU from another one, with their sums. Null: they are what was loaded once, or are looked at later. */
  arrive(npu: number): ErrorRecord | null {
    if (this.#when !== 'each-step') return null;
    try {
      this.#byNpu.get(npu)?.checkPieces();
      return null;
    } catch (error) {
      if (error instanceof WeightDamage) return toErrorRecord(error);
      throw error;
    }
  }

  /** An NPU's step is computed, and nobody has heard of it. @throws `WeightDamage` */
  endStep(npu: number): void {
    if (this.#when === 'each-step') this.#byNpu.get(npu)?.check();
  }

  /** Another NPU got other weights from that slot than were summed once: it is looked at next. */
  suspect(npu: number, layer: number, slot: number): void {
    if (this.#when !== 'off') this.#suspects.push({ npu, layer, slot });
  }

  /** Looks at a bounded number of bytes, if there are any that are to be looked at now. True: at some. @throws `WeightDamage` */
  scrub(isIdle: boolean): boolean {
    if (this.#suspects.length > 0) {
      const { npu, layer, slot } = this.#suspects.shift() as Suspect;
      this.#byNpu.get(npu)?.checkSlot(layer, slot);
      return true;
    }
    const period_ms = this.#period_ms;
    if (this.#when !== 'scrub' || this.#bytes === 0) return false;
    const passed_ms = this.#now_ms() - this.#began_ms;
    if (this.#at === this.#weights.length) {
      if (passed_ms < period_ms) return false;
      this.#began_ms += passed_ms;
      this.#at = 0;
      this.#looked = 0;
      return true;
    }
    if (!isIdle && this.#looked >= (this.#bytes * passed_ms) / period_ms) return false;
    const weights = this.#weights[this.#at] as RestingWeights;
    this.#looked += weights.scrub(CHUNK_BYTES);
    if (weights.isAtBegin) this.#at++;
    return true;
  }
}
