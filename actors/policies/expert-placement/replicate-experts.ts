/**
 * Gives every spare slot to the expert whose replicas have the most to do, one after the other (DeepSeek EPLB, `replicate_experts`). Of equals the first.
 * Shares are of single precision, as DeepSeek's are.
 * @module
 */
import { LeastLoaded } from './least-loaded.ts';

/** Of so many experts, again and again, in memory of its own. */
export class ExpertReplication {
  /** By replica: the first of each expert, in order; then those added, in the order in which they were. */
  readonly expertOfReplica: Int32Array;
  /** By expert: what one of its replicas gets. */
  readonly share: Float32Array;
  readonly #counts: Int32Array;
  /** Less than nothing, so that the most comes out as the least. */
  readonly #negative: LeastLoaded;

  constructor(experts: number, replicas: number) {
    this.expertOfReplica = Int32Array.from({ length: replicas }, (_, replica) => replica);
    this.share = new Float32Array(experts);
    this.#counts = new Int32Array(experts);
    this.#negative = new LeastLoaded(experts);
  }

  /** `tokens`: by expert. */
  replicate(tokens: Float32Array): void {
    const { expertOfReplica, share } = this;
    const [counts, negative] = [this.#counts, this.#negative];
    const experts = share.length;
    counts.fill(1);
    share.set(tokens);
    for (let expert = 0; expert < experts; expert++) negative.loads[expert] = -(tokens[expert] as number);
    negative.rebuild();
    for (let replica = experts; replica < expertOfReplica.length; replica++) {
      const busiest = negative.least;
      const count = (counts[busiest] as number) + 1;
      expertOfReplica[replica] = busiest;
      counts[busiest] = count;
      share[busiest] = (tokens[busiest] as number) / count;
      negative.set(busiest, -(share[busiest] as number));
    }
  }
}
