/**
 * Who owns which region, since which epoch, and whether it may be touched. Written by the control thread, checked by whoever touches.
 *
 *   entry of a region, 8 words:  | state | epoch | holder | …              where it lies and how long it is, is in the memory plan, which every thread has
 *
 *   held ─▶ quarantined ─▶ free ─▶ held        quarantined: its last owner may still write there (Deno does not stop a terminated thread that runs)
 *
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { addressText, offsetOf, segmentOf } from './address.ts';
import type { ControlPage } from './control-page.ts';
import type { Region } from './memory-plan.ts';

/** `holder`: n + 1, NPU n has it; −n − 1: nobody has it, it is die n's; 0: whom the plan names. */
const ENTRY = { state: 0, epoch: 1, holder: 2 } as const;
export const REGION_STATE = ['held', 'free', 'quarantined'] as const;
export type RegionState = (typeof REGION_STATE)[number];
export type Access = 'read' | 'write';
export type RegionReport = Region & { readonly state: RegionState; readonly epoch: number };

export class RegionTable {
  readonly #control: ControlPage;
  readonly #regions: readonly Region[];
  /** Indices of the regions of each segment, by offset. */
  readonly #ofSegment: readonly (readonly number[])[];

  constructor(control: ControlPage, regions: readonly Region[]) {
    this.#control = control;
    this.#regions = regions;
    const segments = 1 + Math.max(0, ...regions.map(({ base }) => segmentOf(base)));
    this.#ofSegment = Array.from({ length: segments }, (_, segment) =>
      regions
        .flatMap(({ base }, index) => (segmentOf(base) === segment ? [index] : []))
        .sort((a, b) => offsetOf((regions[a] as Region).base) - offsetOf((regions[b] as Region).base)),
    );
  }

  setState(region: number, state: RegionState): void {
    const { words, at } = this.#control.regionEntry(region);
    Atomics.store(words, at + ENTRY.state, REGION_STATE.indexOf(state));
  }

  /** An NPU moves onto the die. */
  setNpu(region: number, npu: number): void {
    const { words, at } = this.#control.regionEntry(region);
    Atomics.store(words, at + ENTRY.holder, npu + 1);
  }

  /** No NPU has the die any more: it goes by its own name. */
  setDie(region: number, die: number): void {
    const { words, at } = this.#control.regionEntry(region);
    Atomics.store(words, at + ENTRY.holder, -die - 1);
  }

  /** Whose it is now. */
  ownerOf(region: number): string {
    const { words, at } = this.#control.regionEntry(region);
    const holder = Atomics.load(words, at + ENTRY.holder);
    if (holder === 0) return this.#regions[region]?.owner ?? 'nobody';
    return holder > 0 ? `npu/${holder - 1}` : `die/${-holder - 1}`;
  }

  /** A new owner, or the same one that starts anew. */
  raiseEpoch(region: number): void {
    const { words, at } = this.#control.regionEntry(region);
    Atomics.add(words, at + ENTRY.epoch, 1);
  }

  /** A plain load, and so is the epoch's: XCCL asks seven times a message, the last time after a read-modify-write (ControlPage.epochOfDie). */
  stateOf(region: number): RegionState {
    const { words, at } = this.#control.regionEntry(region);
    return REGION_STATE[words[at + ENTRY.state] as number] as RegionState;
  }

  epochOf(region: number): number {
    const { words, at } = this.#control.regionEntry(region);
    return (words[at + ENTRY.epoch] as number) + 1;
  }

  /** By the owner that the plan names. */
  indexOf(owner: string, kind: Region['kind']): number {
    return this.#regions.findIndex((region) => region.owner === owner && region.kind === kind);
  }

  /**
   * The region that holds `bytes` from `address` on, for one access of `by`.
   * @throws `memory_fault` naming region, owner and access: outside of every region, over the end of one, in quarantine, or of an epoch that is over.
   */
  check(address: number, bytes: number, access: Access, by: string, epoch?: number): number {
    const what = `${by} may not ${access} ${bytes} bytes at ${addressText(address)}`;
    const offset = offsetOf(address);
    const index = this.#regionAt(segmentOf(address), offset);
    const region = this.#regions[index];
    if (region === undefined) throw new MinipodError('memory_fault', `${what}: no region is there`);
    const name = `${region.kind} of ${this.ownerOf(index)}`;
    const past = offset + bytes - offsetOf(region.base) - region.bytes;
    if (past > 0)
      throw new MinipodError('memory_fault', `${what}: ${past} of them lie past the end of ${name} (${region.bytes} bytes from ${addressText(region.base)})`);
    const state = this.stateOf(index);
    if (state !== 'held') throw new MinipodError('memory_fault', `${what}: ${name} is ${state}`);
    const current = this.epochOf(index);
    if (epoch !== undefined && epoch !== current)
      throw new MinipodError('memory_fault', `${what}: it means epoch ${epoch} of ${name}, which is in epoch ${current}`);
    return index;
  }

  report(): RegionReport[] {
    return this.#regions.map((region, index) => ({ ...region, owner: this.ownerOf(index), state: this.stateOf(index), epoch: this.epochOf(index) }));
  }

  /** Binary search for the last region that begins at or before the offset, if it reaches that far. */
  #regionAt(segment: number, offset: number): number {
    const indices = this.#ofSegment[segment] ?? [];
    let [low, high] = [0, indices.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (offsetOf((this.#regions[indices[middle] as number] as Region).base) <= offset) low = middle + 1;
      else high = middle;
    }
    const index = indices[low - 1];
    if (index === undefined) return -1;
    const { base, bytes } = this.#regions[index] as Region;
    return offset < offsetOf(base) + bytes ? index : -1;
  }
}
