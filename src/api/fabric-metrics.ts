/**
 * The fabric's figures as Prometheus metrics, `minipod:…`: taken over from the pod's own counts at the moment of the scrape.
 * @module
 */
import { Counter, Gauge, type Histogram, type Registry } from 'prom-client';
import { REGION_STATE } from '../fabric/region-table.ts';
import type { PodStats } from '../stats.ts';

type Labels = Readonly<Record<string, string>>;

/** A histogram that somebody else has counted: prom-client's own takes single observations only. */
function countedHistogram(registry: Registry, name: string, help: string) {
  type Value = { readonly metricName: string; readonly labels: Labels; readonly value: number };
  let values: Value[] = [];
  const metric = { name, get: async () => ({ name, help, type: 'histogram', values }) };
  // The registry asks no more of a metric than its name and its values.
  registry.registerMetric(metric as unknown as Histogram);
  return {
    reset() {
      values = [];
    },
    /** `counts`: by bucket, the last one above all bounds. `sum`: of what was observed. */
    set(labels: Labels, bounds: readonly number[], counts: readonly number[], sum: number) {
      let count = 0;
      for (const [bucket, observed] of counts.entries()) {
        count += observed;
        values.push({ metricName: `${name}_bucket`, labels: { le: String(bounds[bucket] ?? '+Inf'), ...labels }, value: count });
      }
      values.push({ metricName: `${name}_sum`, labels, value: sum }, { metricName: `${name}_count`, labels, value: count });
    },
  };
}

/**
 * Series: 37 for each lane of a link that has carried anything (of w workers 2 + 2w are in daily use, and w² − w lie ready between workers), 58 for each NPU,
 * 6 for memory, 4 for each worker. A counter of a thread that was started anew begins at 0 again, as Prometheus expects of counters.
 */
export function fabricMetrics(registry: Registry): (stats: PodStats) => void {
  const registers = [registry];
  const counter = <Label extends string>(name: string, help: string, labelNames: readonly Label[]) =>
    new Counter({ name: `minipod:${name}`, help, labelNames, registers });
  const gauge = <Label extends string>(name: string, help: string, labelNames: readonly Label[]) =>
    new Gauge({ name: `minipod:${name}`, help, labelNames, registers });

  const regions = gauge('memory_regions', 'Regions of global memory; a worker that was given up may still write in one that is quarantined.', ['state']);
  const regionBytes = gauge('memory_region_bytes', 'Bytes of the regions of global memory.', ['state']);

  const ofLink = ['from', 'to', 'lane'] as const;
  const frames = counter('link_frames_total', 'Frames written.', ofLink);
  const bytes = counter('link_bytes_total', 'Bytes of payload written.', ofLink);
  const received = counter('link_received_frames_total', 'Frames read.', ofLink);
  const receivedBytes = counter('link_received_bytes_total', 'Bytes of payload read.', ofLink);
  const full = counter('link_full_total', 'Payloads that found no room and waited at the writer.', ofLink);
  const wakes = counter('link_wakes_total', 'Times the reader slept and was woken for this link.', ofLink);
  const stale = counter('link_stale_total', 'Links let go of at a frame of an epoch that is over.', ofLink);
  const waiting = gauge('link_waiting', 'Payloads that wait for room.', ofLink);
  const stalled = gauge('link_stalled_seconds', 'For how long the reader has read nothing while payloads wait.', ofLink);
  const ringFree = gauge('link_ring_free_bytes', 'Credits: what the ring takes at this moment.', ofLink);
  const slabFree = gauge('link_slab_free_bytes', 'Credits: what the slab for large payloads takes at this moment.', ofLink);
  const latency = countedHistogram(registry, 'minipod:link_latency_seconds', 'From send to receive, of one frame in 64.');

  const ofNpu = ['npu'] as const;
  const info = gauge('npu_info', 'What an NPU is for: attention and, where they are not apart, experts; or experts alone.', ['npu', 'kind', 'worker']);
  const lost = gauge('npu_lost', '1: its worker is lost and no successor has reported yet, or it is reset after a step that failed.', ofNpu);
  const blocksHeld = gauge('kv_blocks_held', 'KV blocks that the memory holds, those of ended sequences included until the next step.', ofNpu);
  const blocksHeldMax = gauge('kv_blocks_held_max', 'The most KV blocks that were ever held.', ofNpu);
  const mappedOut = gauge('blocks_mapped_out', 'Blocks of KV that went bad and are given out no more, in the NPU’s HBM and in the DRAM below it.', [
    'npu',
    'tier',
  ]);
  const fieldsWritten = counter('xccl_fields_written_total', "Fields written in peers' metadata.", ofNpu);
  const fieldsStale = counter('xccl_fields_stale_total', 'Fields dropped since they were written under an epoch that is over.', ofNpu);
  const dispatched = counter('xccl_dispatches_written_total', 'Dispatches to peers.', ofNpu);
  const served = counter('xccl_dispatches_served_total', "Peers' dispatches answered with rows.", ofNpu);
  const refused = counter('xccl_dispatches_refused_total', "Peers' dispatches refused, since their tables led out of the asker's area.", ofNpu);
  const damaged = counter('xccl_rows_damaged_total', 'Times that rows on their way were not what they had been, by who found it.', ofNpu);
  const pulled = counter('xccl_pulled_bytes_total', "Rows taken from peers' areas: of dispatches, to compute with, and of answers.", ofNpu);
  const replies = gauge('xccl_reply_bytes', 'Bytes of answers that wait in the reply area to be taken.', ofNpu);
  const repliesMax = gauge('xccl_reply_bytes_max', 'The most bytes of answers that ever waited in the reply area to be taken.', ofNpu);

  const ofWorker = ['worker', 'moment'] as const;
  const collections = counter(
    'collections_total',
    'Garbage collections of worker threads: at chosen moments, in a rest or between two steps, or at any.',
    ofWorker,
  );
  const collecting = counter('collection_seconds_total', 'For how long garbage collections held worker threads up.', ['worker']);
  const collectingMax = gauge('collection_seconds_max', 'For how long the longest garbage collection held the worker thread up.', ['worker']);

  const decodeSteps = countedHistogram(registry, 'minipod:npu_decode_step_seconds', 'Of steps that only decode.');
  const gaps = countedHistogram(
    registry,
    'minipod:npu_step_gap_seconds',
    'Between two steps of an NPU, where the second goes on with a sequence of the first.',
  );

  const all: readonly { reset(): void }[] = [
    ...[regions, regionBytes, frames, bytes, received, receivedBytes, full, wakes, stale, waiting, stalled, ringFree, slabFree, latency],
    ...[
      info,
      lost,
      blocksHeld,
      blocksHeldMax,
      mappedOut,
      fieldsWritten,
      fieldsStale,
      dispatched,
      served,
      refused,
      pulled,
      replies,
      repliesMax,
      decodeSteps,
      gaps,
    ],
    ...[collections, collecting, collectingMax],
  ];

  return ({ memory, fabric, npus, garbage }) => {
    // Links come and go with their threads.
    for (const metric of all) metric.reset();
    for (const state of REGION_STATE) {
      const here = memory.regions.filter((region) => region.state === state);
      regions.set({ state }, here.length);
      regionBytes.set(
        { state },
        here.reduce((sum, region) => sum + region.bytes, 0),
      );
    }
    for (const link of fabric.links) {
      if (link.frames + link.received_frames + link.stale + link.full + link.waiting === 0) continue;
      const { from, to, lane } = link;
      const labels = { from, to, lane };
      frames.inc(labels, link.frames);
      bytes.inc(labels, link.bytes);
      received.inc(labels, link.received_frames);
      receivedBytes.inc(labels, link.received_bytes);
      // Empty: nobody reads it now, the reader is lost.
      if (link.latencies_us.length > 0) latency.set(labels, powerBounds(link.latencies_us), link.latencies_us, link.latency_us_sum / 1e6);
      full.inc(labels, link.full);
      wakes.inc(labels, link.wakes);
      stale.inc(labels, link.stale);
      waiting.set(labels, link.waiting);
      stalled.set(labels, link.stalled_ms / 1000);
      ringFree.set(labels, link.ring_free_bytes);
      slabFree.set(labels, link.slab_free_bytes);
    }
    for (const { worker: number, ...counts } of garbage) {
      const worker = String(number);
      collections.inc({ worker, moment: 'chosen' }, counts.collections_chosen);
      collections.inc({ worker, moment: 'any' }, Math.max(0, counts.collections - counts.collections_chosen));
      collecting.inc({ worker }, counts.collections_us_sum / 1e6);
      collectingMax.set({ worker }, counts.collections_us_max / 1e6);
    }
    for (const { npu: number, ...npu } of npus) {
      const labels = { npu: String(number) };
      info.set({ ...labels, kind: npu.kind, worker: String(npu.worker) }, 1);
      lost.set(labels, npu.state === 'lost' ? 1 : 0);
      blocksHeld.set(labels, npu.kv_blocks_held);
      blocksHeldMax.set(labels, npu.kv_blocks_held_max);
      mappedOut.set({ ...labels, tier: 'hbm' }, npu.kv_blocks_mapped_out);
      mappedOut.set({ ...labels, tier: 'dram' }, npu.dram_blocks_mapped_out);
      fieldsWritten.inc(labels, npu.fields_written);
      fieldsStale.inc(labels, npu.fields_stale);
      dispatched.inc(labels, npu.dispatches_written);
      served.inc(labels, npu.dispatches_served);
      refused.inc(labels, npu.dispatches_refused);
      damaged.inc(labels, npu.rows_damaged);
      pulled.inc(labels, npu.pulled_bytes);
      replies.set(labels, npu.reply_bytes);
      repliesMax.set(labels, npu.reply_bytes_max);
      if (npu.decode_steps_us.length > 0) decodeSteps.set(labels, powerBounds(npu.decode_steps_us), npu.decode_steps_us, npu.decode_steps_us_sum / 1e6);
      if (npu.step_gaps_us.length > 0) gaps.set(labels, powerBounds(npu.step_gaps_us), npu.step_gaps_us, npu.step_gaps_us_sum / 1e6);
    }
  };
}

/** Seconds: entry n of the counts is of those under 2ⁿ µs, the last one of all others. */
const powerBounds = (counts: readonly number[]): number[] => counts.slice(0, -1).map((_, power) => 2 ** power / 1e6);
