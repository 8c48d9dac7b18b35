/**
 * How long an NPU takes for each expert's tokens, measured only while somebody looks: two looks at the clock a batch are a hundredth of what a small expert takes.
 *
 * Looking begins it, and it goes on for a minute after the last look. Captured decode (decode-graphs.ts) computes an NPU's own experts within one call, where
 * nothing can be timed: meanwhile one such step in 16 runs part by part, with the same bits.
 * @module
 */
import { invariantBroken } from '../../protocol/errors.ts';

/** Entry n counts those under `boundOf(n)`, the last one all others: four to the octave, from 64 ns to a second. */
const BUCKETS = 97;
const FIRST_OCTAVE = 6;
const PER_OCTAVE = 4;

const LOOKED_AT_US = 60_000_000;
const STEPS_PER_SAMPLE = 16;

/** In microseconds, after `tokens` of some expert were computed; 0: none. It goes by measuring, or by a cost model. */
export type ServiceClock = (tokens: number) => number;

/** Of an expert's batches on one NPU. */
export type ServiceTimes = { batches: number; tokens: number; us_sum: number; readonly counts: number[] };

const newTimes = (): ServiceTimes => ({ batches: 0, tokens: 0, us_sum: 0, counts: new Array(BUCKETS).fill(0) });

/** In its octave 2ᵏ … 2ᵏ⁺¹ ns, which has four buckets of equal width. */
export function bucketOf(us: number): number {
  const ns = Math.min(2 ** 30 - 1, Math.max(0, Math.floor(us * 1_000)));
  const octave = 31 - Math.clz32(ns);
  if (octave < FIRST_OCTAVE) return 0;
  return 1 + PER_OCTAVE * (octave - FIRST_OCTAVE) + ((ns >>> (octave - 2)) & (PER_OCTAVE - 1));
}

/** Microseconds: what a bucket's times are below, but those of the last one, which takes all longer ones too. */
export function boundOf(bucket: number): number {
  if (bucket === 0) return 2 ** FIRST_OCTAVE / 1_000;
  const [octave, part] = [FIRST_OCTAVE + Math.floor((bucket - 1) / PER_OCTAVE), (bucket - 1) % PER_OCTAVE];
  return (2 ** octave * (1 + (part + 1) / PER_OCTAVE)) / 1_000;
}

/** The bound of the bucket that holds this share of the times: at most a quarter too long. */
export function percentileOf({ batches, counts }: ServiceTimes, share: number): number {
  let seen = 0;
  for (const [bucket, count] of counts.entries()) {
    seen += count;
    if (seen > 0 && seen >= share * batches) return boundOf(bucket);
  }
  invariantBroken('there is no percentile of no times');
}

export class ExpertTimes {
  /** Null: nobody looks. */
  #clock: ServiceClock | null = null;
  #until_us = 0;
  /** By layer, then by expert. */
  readonly #times: (ServiceTimes | undefined)[][] = [];

  /** Somebody looks: what is computed from now on is measured. */
  look(clock: ServiceClock): void {
    this.#clock = clock;
    this.#until_us = clock(0) + LOOKED_AT_US;
  }

  /** Whether a step that could run captured is to run part by part. */
  samples(step: number): boolean {
    return this.#clock !== null && step % STEPS_PER_SAMPLE === 0;
  }

  /** Before the first batch; −1: nothing is measured. */
  begin(): number {
    if (this.#clock === null) return -1;
    const now_us = this.#clock(0);
    if (now_us <= this.#until_us) return now_us;
    this.#clock = null;
    return -1;
  }

  /** A batch that began at `began_us` is computed. Returns when the next one begins. */
  add(layer: number, expert: number, tokens: number, began_us: number): number {
    if (this.#clock === null) return -1;
    const now_us = this.#clock(tokens);
    const us = now_us - began_us;
    this.#times[layer] ??= [];
    const layerTimes = this.#times[layer] as (ServiceTimes | undefined)[];
    layerTimes[expert] ??= newTimes();
    const times = layerTimes[expert];
    const bucket = bucketOf(us);
    times.batches++;
    times.tokens += tokens;
    times.us_sum += us;
    times.counts[bucket] = (times.counts[bucket] as number) + 1;
    return now_us;
  }

  /** Null: no batch of it was measured. */
  of(layer: number, expert: number): ServiceTimes | null {
    return this.#times[layer]?.[expert] ?? null;
  }
}
