/** A step's activations in one number: a replay that computes otherwise is found out even where the tokens agree. @module */
import type { Arithmetic, Span } from '../forward/arithmetic.ts';

const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** FNV-1a over the words of each sequence's last row. `words`: of the model's segment. */
export function digestOf({ at, layout }: Arithmetic, words: Int32Array, spans: readonly Span[]): number {
  let hash = FNV_OFFSET;
  for (const { row, rows } of spans) {
    const first = (at.x + (row + rows - 1) * layout.row_bytes) >>> 2;
    for (let word = first; word < first + layout.row_bytes / 4; word++) hash = Math.imul(hash ^ (words[word] as number), FNV_PRIME);
  }
  return hash >>> 0;
}
