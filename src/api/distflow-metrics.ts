/**
 * KV on its way between task executors as Prometheus metrics, `minipod:…`: named as those of vLLM's NIXL connector are, where they count the same.
 * @module
 */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { PodStats } from '../stats.ts';

/** Series: 6 for each DP group, and 12 for each pair of task executors between which KV has gone. */
export function distflowMetrics(registry: Registry): (stats: PodStats) => void {
  const registers = [registry];
  const counter = <Label extends string>(name: string, help: string, labelNames: readonly Label[]) =>
    new Counter({ name: `minipod:${name}`, help, labelNames, registers });
  const gauge = <Label extends string>(name: string, help: string, labelNames: readonly Label[]) =>
    new Gauge({ name: `minipod:${name}`, help, labelNames, registers });

  const ofGroup = ['engine'] as const;
  const lent = gauge('kv_lent', 'Sequences whose KV is lent to a decode side that has not pulled it yet.', ofGroup);
  const expected = gauge('kv_expected', 'Sequences whose KV is awaited from a prefill side, for want of room or on its way.', ofGroup);
  const expired = counter('distflow_num_kv_expired_reqs_total', 'Leases of KV that ended before anybody had pulled it.', ofGroup);

  const fetched = counter('remote_prefix_hits_total', 'Prefixes that were taken from other DP groups instead of being computed.', ofGroup);
  const refused = counter('remote_prefix_hits_refused_total', 'Prefixes of other DP groups that were sooner computed than fetched.', ofGroup);
  const missed = counter('remote_prefix_misses_total', 'Prefixes that other DP groups were asked for, and that did not come.', ofGroup);

  const ofPair = ['source', 'target', 'fabric'] as const;
  const transfers = counter('distflow_num_transfers_total', 'Transfers of KV from a task executor to another that are done.', ofPair);
  const bytes = counter('distflow_bytes_transferred_total', 'Bytes of transfers that are done.', ofPair);
  const wasted = counter('distflow_wasted_bytes_total', 'Bytes that were moved for transfers which failed.', ofPair);
  const failed = counter('distflow_num_failed_transfers_total', 'Transfers that failed or were cancelled; KV that is still wanted is computed anew.', [
    ...ofPair,
    'reason',
  ]);

  const probes = counter('distflow_link_probes_total', 'Dummy payloads over links of a network: those that came, and those that ended with their link.', [
    ...ofPair,
    'outcome',
  ]);

  return ({ dp_groups, kv_links }) => {
    for (const metric of [lent, expected, expired, fetched, refused, missed, transfers, bytes, wasted, failed, probes]) metric.reset();
    for (const { dp_group, kv_lent, kv_expected, kv_leases_expired, remote_hits, remote_hits_refused, remote_hits_missed } of dp_groups) {
      const engine = String(dp_group);
      lent.set({ engine }, kv_lent);
      expected.set({ engine }, kv_expected);
      expired.inc({ engine }, kv_leases_expired);
      fetched.inc({ engine }, remote_hits);
      refused.inc({ engine }, remote_hits_refused);
      missed.inc({ engine }, remote_hits_missed);
    }
    for (const { source, target, fabric, done, bytes: moved, wasted_bytes, failed: failures, probes_passed, probes_broken } of kv_links) {
      const pair = { source: String(source), target: String(target), fabric };
      transfers.inc(pair, done);
      bytes.inc(pair, moved);
      wasted.inc(pair, wasted_bytes);
      if (fabric !== 'memory')
        for (const [outcome, count] of Object.entries({ passed: probes_passed, broken: probes_broken })) probes.inc({ ...pair, outcome }, count);
      for (const [reason, count] of Object.entries(failures)) failed.inc({ ...pair, reason }, count);
    }
  };
}
