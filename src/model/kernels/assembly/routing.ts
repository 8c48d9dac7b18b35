// Which slot computes which token: the gate's choice by the expert map, sorted by (NPU, slot, token), a counting sort.
// src/flowserve/experts/expert-batches.ts does the same in JavaScript for steps that are no program; a test holds the two against each other.

/** Bytes of a share: u32 first segment, segments, first pair, pairs. */
const SHARE_BYTES: usize = 16;

/**
 * Sorts rows * topK pairs, of the rows from `first` on; `experts` begins with the first one's. Replicas of an expert take turns by `spread` + row.
 *
 *   map         u32 [nExperts + 1]      where an expert's replicas begin, then [slots] replicas, then [slots] the expert of each slot
 *   each        slots of an NPU         `slots` of all; pairs are in their order, from slot `begin` on and round
 *   starts      u32 [slots]             scratch
 *   segments    u32 [slots][2]          (slot of its NPU << 16 | expert, pairs) of those that have any, in order
 *   pairRows    u32 [rows * topK]       the token of each pair, sorted
 *   rowIndices  u32 [rows, topK]        each pair's place in pairRows
 *   shares      u32 [slots / each][4]   what goes to each NPU
 */
export function sortPairs(
  experts: usize, first: i32, rows: i32, topK: i32, spread: i32, map: usize, nExperts: i32, slots: i32, each: i32, begin: i32, starts: usize,
  segments: usize, pairRows: usize, rowIndices: usize, shares: usize,
): void {
  const replicas = map + (<usize>(nExperts + 1) << 2);
  const expertOfSlot = replicas + (<usize>slots << 2);
  memory.fill(starts, 0, <usize>slots << 2);
  memory.fill(shares, 0, <usize>(slots / each) * SHARE_BYTES);
  let pair: usize = 0;
  for (let row = 0; row < rows; row++) {
    const position = <u32>(first + row + spread);
    for (let choice = 0; choice < topK; choice++) {
      const entry = map + (<usize>load<u32>(experts + pair) << 2);
      const from = load<u32>(entry);
      const slot = load<u32>(replicas + (<usize>(from + position % (load<u32>(entry, 4) - from)) << 2));
      store<u32>(rowIndices + pair, slot);
      const count = starts + (<usize>slot << 2);
      store<u32>(count, load<u32>(count) + 1);
      pair += 4;
    }
  }
  let segment: u32 = 0, next: u32 = 0;
  for (let turn = 0, slot = begin, own = 0, share = shares + <usize>(begin / each) * SHARE_BYTES; turn < slots; turn++, slot++) {
    if (own == each) {
      own = 0;
      share += SHARE_BYTES;
      if (slot == slots) {
        slot = 0;
        share = shares;
      }
    }
    const start = starts + (<usize>slot << 2);
    const count = load<u32>(start);
    store<u32>(start, next);
    if (count) {
      if (!load<u32>(share, 4)) {
        store<u32>(share, segment);
        store<u32>(share, next, 8);
      }
      store<u32>(share, load<u32>(share, 4) + 1, 4);
      store<u32>(share, load<u32>(share, 12) + count, 12);
      const at = segments + (<usize>segment << 3);
      store<u32>(at, (<u32>own << 16) | load<u32>(expertOfSlot + (<usize>slot << 2)));
      store<u32>(at, count, 4);
      segment++;
      next += count;
    }
    own++;
  }
  pair = 0;
  for (let row = 0; row < rows; row++) {
    for (let choice = 0; choice < topK; choice++) {
      const start = starts + (<usize>load<u32>(rowIndices + pair) << 2);
      const place = load<u32>(start);
      store<u32>(start, place + 1);
      store<u32>(pairRows + (<usize>place << 2), first + row);
      store<u32>(rowIndices + pair, place);
      pair += 4;
    }
  }
}
