/**
 * Who pulls from whom where the two sides have different tensor parallelism: every rank of a TP group holds the whole KV, so rank r of the target pulls from
 * rank r mod tp of the source (xDeepServe §5.1, step 7).
 *
 *   source tp = 2, target tp = 3:   0 ◀─ 0   1 ◀─ 1   0 ◀─ 2        a source rank opens one offer for each that pulls from it
 * @module
 */

/** Rank of the source group that this rank of the target pulls from. */
export const sourceRankOf = (target_rank: number, source_tp: number): number => target_rank % source_tp;

/** The how manieth of those that pull from that rank: whose offer, of several that it opened, is his. */
export const turnOf = (target_rank: number, source_tp: number): number => Math.floor(target_rank / source_tp);

/** How many pull from a rank of the source: so many offers it opens. */
export const pullersOf = (source_rank: number, source_tp: number, target_tp: number): number => Math.max(0, Math.ceil((target_tp - source_rank) / source_tp));
