/**
 * Which regions lie where: planned before any memory exists, from sizes alone.
 *
 *   segment 0:  | guard 64 KiB | control page | rings | region | region | …      other segments: | guard | control page | region | …
 *
 * A region belongs to one owner and lies in one segment, since a kernel sees only the memory that it was instantiated over.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { GUARD_BYTES, globalAddress, mebibytes, PAGE_BYTES, roundUp } from './address.ts';
import { CONTROL_PAGE_BYTES, REGIONS_MAX } from './control-page.ts';

/** What every segment begins with. */
export const SEGMENT_HEAD_BYTES = GUARD_BYTES + CONTROL_PAGE_BYTES;
/** What makes a region smaller. */
const REMEDIES: Readonly<Record<RegionKind, string>> = {
  control: 'fewer regions',
  rings: 'fewer workers or spare_workers',
  records: 'fewer max_queued',
  vocabulary: 'a smaller tokenizer',
  hbm: 'more NPUs, fewer kv_blocks',
  dram: 'fewer dram_blocks',
};
/** What makes all of a kind smaller: more NPUs have smaller regions each, and larger ones together. */
const REMEDIES_IN_ALL: Readonly<Record<RegionKind, string>> = { ...REMEDIES, hbm: 'fewer NPUs, fewer kv_blocks' };
/** Regions start on their own cache line pair, so that neighbours never share one. */
const REGION_ALIGNMENT = 128;

export type RegionKind = 'control' | 'rings' | 'hbm' | 'dram' | 'records' | 'vocabulary';
/** `parts`: what the bytes are for, by name, where a refusal can say more than the kind. */
export type RegionRequest = { readonly owner: string; readonly kind: RegionKind; readonly bytes: number; readonly parts?: Readonly<Record<string, number>> };
export type Region = Omit<RegionRequest, 'parts'> & { readonly base: number };

export type SegmentLayout = { readonly bytes: number };
/** `regions` in the order of their requests, after one control page a segment. */
export type MemoryPlan = { readonly segments: readonly SegmentLayout[]; readonly regions: readonly Region[]; readonly bytes: number };

/**
 * Places regions in segments, in order, each into the first segment with room.
 * @throws `out_of_memory` with the sum, when a region outgrows a segment or all of them outgrow the memory.
 */
export function planMemory(requests: readonly RegionRequest[], segmentBytes: number, memoryBytes: number): MemoryPlan {
  const filled: number[] = [];
  const placed = requests.map((request): Region => {
    const bytes = roundUp(request.bytes, REGION_ALIGNMENT);
    if (SEGMENT_HEAD_BYTES + bytes > segmentBytes) {
      throw new MinipodError(
        'out_of_memory',
        `${request.kind} of ${request.owner} needs ${mebibytes(bytes)}, a segment holds ${mebibytes(segmentBytes - SEGMENT_HEAD_BYTES)}: use ${REMEDIES[request.kind]} or larger segment_bytes (in all: ${sumOf(requests, 0)})`,
      );
    }
    let segment = filled.findIndex((used) => used + bytes <= segmentBytes);
    if (segment < 0) segment = filled.push(SEGMENT_HEAD_BYTES) - 1;
    const offset = filled[segment] as number;
    filled[segment] = offset + bytes;
    return { owner: request.owner, kind: request.kind, bytes, base: globalAddress(segment, offset) };
  });
  const heads = filled.map((_, segment): Region => ({ owner: 'pod', kind: 'control', bytes: CONTROL_PAGE_BYTES, base: globalAddress(segment, GUARD_BYTES) }));
  const regions = [...heads, ...placed];
  const segments = filled.map((used) => ({ bytes: roundUp(used, PAGE_BYTES) }));
  const bytes = segments.reduce((sum, segment) => sum + segment.bytes, 0);
  if (bytes > memoryBytes) {
    throw new MinipodError(
      'out_of_memory',
      `the pod needs ${mebibytes(bytes)}, memory_bytes grants ${mebibytes(memoryBytes)}: use ${REMEDIES_IN_ALL[largestOf(regions)]} or larger memory_bytes (in all: ${sumOf(requests, bytes)})`,
    );
  }
  if (regions.length > REGIONS_MAX) throw new MinipodError('out_of_memory', `${regions.length} regions, the region table holds ${REGIONS_MAX}`);
  return { segments, regions, bytes };
}

/** The kind that takes the most. */
function largestOf(regions: readonly Region[]): RegionKind {
  const bytesOf = (of: RegionKind): number => regions.reduce((sum, { kind, bytes }) => (kind === of ? sum + bytes : sum), 0);
  return (Object.keys(REMEDIES) as RegionKind[]).reduce((largest, kind) => (bytesOf(kind) > bytesOf(largest) ? kind : largest));
}

/** What all requests together need, by what it is for; what `total` has beyond that are the segments' own pages. */
function sumOf(requests: readonly RegionRequest[], total: number): string {
  const sums = new Map<string, number>();
  for (const { kind, bytes, parts } of requests)
    for (const [part, size] of Object.entries(parts ?? { [kind]: bytes })) sums.set(part, (sums.get(part) ?? 0) + size);
  const rest = total - [...sums.values()].reduce((sum, size) => sum + size, 0);
  if (rest > 0) sums.set('control and guard pages', rest);
  return [...sums].map(([part, size]) => `${part} ${mebibytes(size)}`).join(' + ');
}

/** Those of a pod that is over and was planned alike, with nothing in them; or new ones. */
export function segmentsFor(plan: MemoryPlan, used: readonly WebAssembly.Memory[] = []): readonly WebAssembly.Memory[] {
  const isAlike = used.length === plan.segments.length && plan.segments.every(({ bytes }, index) => used[index]?.buffer.byteLength === bytes);
  if (!isAlike) return allocateSegments(plan);
  for (const { buffer } of used) clear(new Int32Array(buffer));
  return used;
}

/** Pages in which there is nothing are not written: those that nobody has touched take no memory. */
function clear(words: Int32Array): void {
  const page = PAGE_BYTES / 4;
  for (let from = 0; from < words.length; from += page) {
    let at = from;
    while (at < from + page && words[at] === 0) at++;
    if (at < from + page) words.fill(0, at, from + page);
  }
}

export function allocateSegments(plan: MemoryPlan): WebAssembly.Memory[] {
  return plan.segments.map(({ bytes }, index) => {
    const pages = bytes / PAGE_BYTES;
    try {
      return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    } catch (cause) {
      throw new MinipodError('out_of_memory', `this machine does not grant segment ${index} of ${mebibytes(bytes)}`, { cause });
    }
  });
}
