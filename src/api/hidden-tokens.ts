/**
 * Which tokens a text does not show (end of sequence and its like): those that the pod detokenizes to nothing. Asked once for each token id.
 * @module
 */
import type { Pod } from '../pod.ts';

export class HiddenTokens {
  readonly #pod: Pod;
  readonly #known = new Map<number, boolean>();

  constructor(pod: Pod) {
    this.#pod = pod;
  }

  async learn(tokenIds: readonly number[]): Promise<void> {
    for (const id of tokenIds) if (!this.#known.has(id)) this.#known.set(id, (await this.#pod.detokenize([id])) === '');
  }

  /** Of a token that was learnt. */
  has(tokenId: number): boolean {
    return this.#known.get(tokenId) === true;
  }
}
