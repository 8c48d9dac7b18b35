/** What a pod holds although nobody asks it for anything: requests, KV blocks, answers that nobody takes, payloads under way. @module */
import type { PodStats } from '../stats.ts';

export const leftovers = ({ requests_running, requests_waiting, npus, dp_groups, fabric }: PodStats): string[] => [
  ...(requests_running + requests_waiting > 0 ? [`${requests_running} requests run, ${requests_waiting} wait`] : []),
  // On a virtual clock, which stands still at rest, a lost one's successor may be to come yet; who is gone has none.
  ...npus.flatMap(({ npu, state, gone, kv_blocks_used, kv_blocks_held }) =>
    kv_blocks_used + kv_blocks_held > 0 || (state !== 'idle' && !(state === 'lost' && (gone || fabric.threads.length === 0)))
      ? [`NPU ${npu} is ${state}, ${kv_blocks_used} KV blocks are in use, ${kv_blocks_held} are held`]
      : [],
  ),
  ...dp_groups.flatMap(({ dp_group, kv_lent, kv_expected }) =>
    kv_lent + kv_expected > 0 ? [`DP group ${dp_group} lends the KV of ${kv_lent} sequences and awaits that of ${kv_expected}`] : [],
  ),
  ...npus.flatMap(({ npu, kv_transfers_open }) => (kv_transfers_open > 0 ? [`NPU ${npu} has ${kv_transfers_open} offers and pulls open`] : [])),
  ...npus.flatMap(({ npu, reply_bytes }) => (reply_bytes > 0 ? [`NPU ${npu} holds ${reply_bytes} bytes of answers`] : [])),
  ...fabric.links.flatMap(({ from, to, lane, waiting, waiting_bytes, slab_bytes }) =>
    waiting + waiting_bytes + slab_bytes > 0
      ? [`from ${from} to ${to}, ${lane}: ${waiting} payloads of ${waiting_bytes} bytes wait, ${slab_bytes} bytes of the slab are taken`]
      : [],
  ),
];
