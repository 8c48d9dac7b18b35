/**
 * Which experts of a layer get one more replica (xDeepServe §4.5, select). Over the windows of time t, with an expert's tokens split evenly over its replicas:
 *
 *   h(t) = the expert with the most tokens on one replica in t      L = Σ_t tokens of h(t) on one replica
 *
 * R times: of those that are the hottest in some window, the one whose further replica makes L least. Of equals the lowest id.
 * @module
 */
import type { ExpertLoads } from './expert-loads.ts';

/** For layers of so many experts over so many windows, again and again, in memory of its own. */
export class ReplicaSelection {
  /** By expert, until the next `select`: how many replicas it has. */
  readonly counts: Int32Array;
  /** In the order in which they were chosen. */
  readonly chosen: Int32Array;
  readonly #windows: number;
  /** [window][expert]: what one replica gets. */
  readonly #share: Float64Array;
  /** By window: the hottest expert, what it gets, and what the next one does. */
  readonly #hottest: Int32Array;
  readonly #most: Float64Array;
  readonly #next: Float64Array;
  /** By expert: the round in which it was last tried. */
  readonly #tried: Int32Array;

  constructor({ windows, experts }: ExpertLoads, redundant: number) {
    this.#windows = windows;
    this.counts = new Int32Array(experts);
    this.chosen = new Int32Array(redundant);
    this.#share = new Float64Array(windows * experts);
    this.#hottest = new Int32Array(windows);
    this.#most = new Float64Array(windows);
    this.#next = new Float64Array(windows);
    this.#tried = new Int32Array(experts);
  }

  select({ layers, experts, tokens }: ExpertLoads, layer: number): void {
    const { counts, chosen } = this;
    const [windows, share, hottest, next] = [this.#windows, this.#share, this.#hottest, this.#next];
    counts.fill(1);
    this.#tried.fill(-1);
    for (let window = 0; window < windows; window++) {
      const row = (window * layers + layer) * experts;
      for (let expert = 0; expert < experts; expert++) share[window * experts + expert] = tokens[row + expert] as number;
      this.#rank(window);
    }
    for (let round = 0; round < chosen.length; round++) {
      let best = -1;
      let least = Number.POSITIVE_INFINITY;
      for (let window = 0; window < windows; window++) {
        const candidate = hottest[window] as number;
        if (this.#tried[candidate] === round) continue;
        this.#tried[candidate] = round;
        const sum = this.#sumWithOneMore(candidate, tokens, layers, layer);
        if (sum > least || (sum === least && candidate > best)) continue;
        best = candidate;
        least = sum;
      }
      chosen[round] = best;
      const count = (counts[best] as number) + 1;
      counts[best] = count;
      for (let window = 0; window < windows; window++) {
        const before = share[window * experts + best] as number;
        share[window * experts + best] = (tokens[(window * layers + layer) * experts + best] as number) / count;
        // It has less than it had: where it was neither first nor second, both still are.
        if (hottest[window] === best || before === next[window]) this.#rank(window);
      }
    }
  }

  /** L, if the candidate had one replica more: elsewhere than where it is the hottest nothing changes. */
  #sumWithOneMore(candidate: number, tokens: Float64Array, layers: number, layer: number): number {
    const experts = this.counts.length;
    const replicas = (this.counts[candidate] as number) + 1;
    let sum = 0;
    for (let window = 0; window < this.#windows; window++) {
      if (this.#hottest[window] !== candidate) sum += this.#most[window] as number;
      else sum += Math.max((tokens[(window * layers + layer) * experts + candidate] as number) / replicas, this.#next[window] as number);
    }
    return sum;
  }

  #rank(window: number): void {
    const [share, experts] = [this.#share, this.counts.length];
    const row = window * experts;
    let hottest = 0;
    let most = share[row] as number;
    let next = 0;
    for (let expert = 1; expert < experts; expert++) {
      const load = share[row + expert] as number;
      if (load > most) {
        hottest = expert;
        next = most;
        most = load;
      } else if (load > next) next = load;
    }
    this.#hottest[window] = hottest;
    this.#most[window] = most;
    this.#next[window] = next;
  }
}
