// Which expert computes which token: the gate's choice, sorted by (NPU, expert, token), a counting sort.
// src/flowserve/expert-batches.ts does the same in JavaScript for steps that are no program; a test holds the two against each other.

/** Bytes of a share: u32 first segment, segments, first pair, pairs. */
const SHARE_BYTES: usize = 16;

/**
 * Sorts rows * topK pairs, of the rows from `first` on; `experts` begins with the first one's.
 *
 *   order       u32 [nExperts][2]       (expert, its NPU) by (NPU, expert)
 *   starts      u32 [nExperts]          scratch
 *   segments    u32 [nExperts][2]       (expert, pairs) of those that have any, in that order
 *   pairRows    u32 [rows * topK]       the token of each pair, sorted
 *   rowIndices  u32 [rows, topK]        each pair's place in pairRows
 *   shares      u32 [npus][4]           what goes to each NPU
 */
export function sortPairs(
  experts: usize, first: i32, rows: i32, topK: i32, order: usize, nExperts: i32, npus: i32, starts: usize,
  segments: usize, pairRows: usize, rowIndices: usize, shares: usize,
): void {
  const pairs = <usize>(rows * topK) << 2;
  memory.fill(starts, 0, <usize>nExperts << 2);
  memory.fill(shares, 0, <usize>npus * SHARE_BYTES);
  for (let pair: usize = 0; pair < pairs; pair += 4) {
    const count = starts + (<usize>load<u32>(experts + pair) << 2);
    store<u32>(count, load<u32>(count) + 1);
  }
  let segment: u32 = 0, next: u32 = 0;
  for (const end = order + (<usize>nExperts << 3); order < end; order += 8) {
    const expert = load<u32>(order);
    const start = starts + (<usize>expert << 2);
    const count = load<u32>(start);
    store<u32>(start, next);
    if (!count) continue;
    const share = shares + <usize>load<u32>(order, 4) * SHARE_BYTES;
    if (!load<u32>(share, 4)) {
      store<u32>(share, segment);
      store<u32>(share, next, 8);
    }
    store<u32>(share, load<u32>(share, 4) + 1, 4);
    store<u32>(share, load<u32>(share, 12) + count, 12);
    const at = segments + (<usize>segment << 3);
    store<u32>(at, expert);
    store<u32>(at, count, 4);
    segment++;
    next += count;
  }
  let pair: usize = 0;
  for (let row = 0; row < rows; row++) {
    for (let slot = 0; slot < topK; slot++) {
      const start = starts + (<usize>load<u32>(experts + pair) << 2);
      const place = load<u32>(start);
      store<u32>(start, place + 1);
      store<u32>(pairRows + (<usize>place << 2), first + row);
      store<u32>(rowIndices + pair, place);
      pair += 4;
    }
  }
}
