/**
 * Tokens routed to each expert in the last windows of time, as NPUs tell of them (xDeepServe §4.5, collect): what a map is planned on.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';
import type { ExpertLoads } from './expert-placement/expert-loads.ts';
import type { PlacementShape } from './expert-placement/placement-shape.ts';

const hasTokens = (window: Float64Array): boolean => window.some((count) => count > 0);

export class LoadWindows {
  readonly #shape: Pick<PlacementShape, 'layers' | 'experts'>;
  readonly #windows_max: number;
  /** [window][layer × expert], the latest last. */
  #windows: Float64Array[] = [];

  constructor(shape: Pick<PlacementShape, 'layers' | 'experts'>, windows_max: number) {
    this.#shape = shape;
    this.#windows_max = windows_max;
  }

  /** One in which nothing was routed goes on: an idle pod forgets nothing. */
  begin(): void {
    const { layers, experts } = this.#shape;
    const last = this.#windows.at(-1);
    if (last === undefined || hasTokens(last)) this.#windows.push(new Float64Array(layers * experts));
    this.#windows = this.#windows.slice(-this.#windows_max);
  }

  add(npu: number, tokens: readonly number[]): void {
    const window = this.#windows.at(-1) as Float64Array;
    assert(tokens.length === window.length, `npu/${npu} counts ${tokens.length} experts, the map has ${window.length}`);
    for (const [at, count] of tokens.entries()) window[at] = (window[at] as number) + count;
  }

  /** Null: nothing was routed yet. */
  get loads(): ExpertLoads | null {
    const { layers, experts } = this.#shape;
    const routed = this.#windows.filter(hasTokens);
    if (routed.length === 0) return null;
    const tokens = new Float64Array(routed.length * layers * experts);
    for (const [index, window] of routed.entries()) tokens.set(window, index * layers * experts);
    return { windows: routed.length, layers, experts, tokens };
  }
}
