/**
 * A pod's links, NPUs, threads and regions as tables.
 * Rates are what two looks at the pod's counters differ by.
 * @module
 */
import { markdownTable } from 'markdown-table';
import prettyBytes from 'pretty-bytes';
import { addressText, segmentOf } from '../fabric/address.ts';
import type { LinkStats, NpuStats, PodStats, ThreadStats } from '../index.ts';
import { type Column, NONE, roundRate, table } from './columns.ts';

export type Look = {
  readonly earlier: PodStats;
  readonly now: PodStats;
  /** `memory_bytes`, where it was given. */
  readonly memory_bytes: number | undefined;
};

const bytesText = (bytes: number): string => prettyBytes(bytes, { binary: true });

/** All of it, a line an entry. What moves comes first: a terminal that is too low loses the map. */
export function fabricLines(look: Look): string[] {
  return [summary(look), '', ...links(look), '', ...npus(look), '', ...threads(look), '', ...regions(look)];
}

/** A counter's growth a second. One that is lower than before began anew with its thread. */
function rate(earlier: number | undefined, now: number, { earlier: { uptime_seconds: since }, now: { uptime_seconds: until } }: Look): number {
  const growth = now - (earlier ?? 0);
  return (growth < 0 ? now : growth) / Math.max(until - since, 1e-3);
}

/** The bound under which so large a share of the samples lies, as the buckets have it: powers of two. */
export function latencyBound(counts: readonly number[], share: number): string {
  const total = counts.reduce((sum, count) => sum + count, 0);
  let seen = 0;
  const bucket = counts.findIndex((count) => {
    seen += count;
    return total > 0 && seen >= share * total;
  });
  if (bucket < 0) return NONE;
  return bucket === counts.length - 1 ? `≥ ${2 ** (bucket - 1)}` : `< ${2 ** bucket}`;
}

function summary(look: Look): string {
  const { earlier, now } = look;
  const tokens = Math.round(rate(earlier.generation_tokens, now.generation_tokens, look));
  const failed = now.requests_finished['failed'] ?? 0;
  return [
    `${now.model} on ${now.npus.length} NPUs, up ${now.uptime_seconds.toFixed(1)} s`,
    `requests: ${now.requests_running} running, ${now.requests_waiting} waiting, ${failed} failed`,
    `${tokens} tokens/s`,
    `rates over ${(now.uptime_seconds - earlier.uptime_seconds).toFixed(1)} s`,
  ].join('; ');
}

function links(look: Look): string[] {
  const { now, earlier } = look;
  const keyOf = ({ from, to, lane }: LinkStats): string => `${from} ${to} ${lane}`;
  const before = new Map(earlier.fabric.links.map((link) => [keyOf(link), link]));
  const grown = (link: LinkStats, field: 'frames' | 'bytes' | 'wakes'): number => rate(before.get(keyOf(link))?.[field], link[field], look);
  const used = now.fabric.links.filter(isUsed);
  const unused = now.fabric.links.length - used.length;
  const columns: Column<LinkStats>[] = [
    ['LINK', ({ from, to }) => `${from} → ${to}`],
    ['LANE', ({ lane }) => lane],
    ['FRAMES/S', (link) => roundRate(grown(link, 'frames'))],
    ['BYTES/S', (link) => bytesText(Math.round(grown(link, 'bytes')))],
    ['WAKES/S', (link) => roundRate(grown(link, 'wakes'))],
    ['P50 µs', ({ latencies_us }) => latencyBound(latencies_us, 0.5)],
    ['P99 µs', ({ latencies_us }) => latencyBound(latencies_us, 0.99)],
    ['WAITING', ({ waiting }) => waiting],
    ['FULL', ({ full }) => full],
    ['STALE', ({ stale }) => stale],
    ['STALLED', ({ stalled_ms }) => (stalled_ms === 0 ? 0 : `${Math.round(stalled_ms)} ms`)],
    ['CREDITS', ({ ring_free_bytes, slab_free_bytes }) => bytesText(ring_free_bytes) + (slab_free_bytes === 0 ? '' : ` + ${bytesText(slab_free_bytes)}`)],
  ];
  return [...table(used, columns, 10), ...(unused === 0 ? [] : [`Links that have carried nothing: ${unused}.`])];
}

const isUsed = ({ frames, received_frames, waiting, full, stale }: LinkStats): boolean => frames + received_frames + waiting + full + stale > 0;

function npus(look: Look): string[] {
  const before = new Map(look.earlier.npus.map((npu) => [npu.npu, npu]));
  type Counted = 'steps' | 'fields_written' | 'dispatches_written' | 'dispatches_served' | 'pulled_bytes';
  const grown = (npu: NpuStats, field: Counted): number => rate(before.get(npu.npu)?.[field], npu[field], look);
  const columns: Column<NpuStats>[] = [
    ['NPU', ({ npu }) => npu],
    ['WORKER', ({ worker }) => worker],
    ['DIE', ({ die }) => die],
    ['STATE', ({ state }) => state],
    ['STEPS/S', (npu) => roundRate(grown(npu, 'steps'))],
    ['DISPATCHES/S', (npu) => roundRate(grown(npu, 'dispatches_written'))],
    ['SERVED/S', (npu) => roundRate(grown(npu, 'dispatches_served'))],
    ['REFUSED', ({ dispatches_refused }) => dispatches_refused],
    ['PULLED/S', (npu) => bytesText(Math.round(grown(npu, 'pulled_bytes')))],
    ['FIELDS/S', (npu) => roundRate(grown(npu, 'fields_written'))],
    ['FIELDS STALE', ({ fields_stale }) => fields_stale],
    ['REPLIES MAX', ({ reply_bytes_max }) => bytesText(reply_bytes_max)],
    ['KV HELD', ({ kv_blocks_held }) => kv_blocks_held],
    ['KV MAX', ({ kv_blocks_held_max }) => kv_blocks_held_max],
    ['KV BLOCKS', ({ kv_blocks }) => kv_blocks],
  ];
  return table(look.now.npus, columns, 11);
}

function threads(look: Look): string[] {
  const before = new Map(look.earlier.fabric.threads.map(({ thread, wakes }) => [thread, wakes]));
  const columns: Column<ThreadStats>[] = [
    ['THREAD', ({ name }) => name],
    ['STATE', ({ state }) => state],
    ['EPOCH', ({ epoch }) => epoch],
    ['WAITS FOR', ({ waits_for }) => waits_for.join(', ') || '-'],
    ['WAKES/S', ({ thread, wakes }) => roundRate(rate(before.get(thread), wakes, look))],
    ['DROPPED', ({ dropped }) => dropped],
  ];
  return table(look.now.fabric.threads, columns, 2);
}

function regions({ now: { memory }, memory_bytes }: Look): string[] {
  const states = new Map<string, number>();
  for (const { state, bytes } of memory.regions) states.set(state, (states.get(state) ?? 0) + bytes);
  const rows = memory.regions.map(({ owner, kind, base, state, epoch, bytes }) => [owner, kind, addressText(base), state, String(epoch), bytesText(bytes)]);
  const sum = memory.regions.reduce((bytes, region) => bytes + region.bytes, 0);
  const cells = [['REGION', 'KIND', 'AT', 'STATE', 'EPOCH', 'BYTES'], ...rows, ['sum', '', '', '', '', bytesText(sum)]];
  const segments = new Set(memory.regions.map(({ base }) => segmentOf(base))).size;
  const byState = [...states].map(([state, bytes]) => `${state} ${bytesText(bytes)}`).join(', ');
  const free = memory_bytes === undefined ? '' : ` Free: ${bytesText(memory_bytes - memory.total_bytes)} of ${bytesText(memory_bytes)} granted.`;
  return [
    ...markdownTable(cells, { align: ['', '', '', '', 'r', 'r'] }).split('\n'),
    `Regions: ${byState}. Segments: ${segments}, ${bytesText(memory.total_bytes)} in all.${free}`,
  ];
}
