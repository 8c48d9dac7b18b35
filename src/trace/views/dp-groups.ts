/**
 * Which NPUs each DP group has, as its birth says. With several ranks all run the same steps; what becomes of a sequence is told by the first.
 * @module
 */
import { type Address, address, idOf } from '../../protocol/address.ts';
import type { ActRecord } from '../act-record.ts';

export class DpGroups {
  readonly #npus = new Map<number, readonly number[]>();
  readonly #groups = new Map<number, number>();

  note({ to, machine, input }: Pick<ActRecord, 'to' | 'machine' | 'input'>): void {
    if (machine !== 'dp-group') return;
    // Another version of minipod may have written the trace.
    const npus = (input as { readonly npus?: readonly Address[] }).npus?.map(idOf);
    if (npus === undefined) return;
    this.#npus.set(idOf(to), npus);
    for (const npu of npus) this.#groups.set(npu, idOf(to));
  }

  /** By rank. Of a group whose birth the trace does not have: the one of its number. */
  npusOf(group: number): readonly number[] {
    return this.#npus.get(group) ?? [group];
  }

  firstNpuOf(group: number): number {
    return this.npusOf(group)[0] as number;
  }

  groupOf(npu: number): number {
    return this.#groups.get(npu) ?? npu;
  }

  isFirstRank(npu: number): boolean {
    return this.firstNpuOf(this.groupOf(npu)) === npu;
  }

  /** Where a sequence is computed: `npu/3`, or `dp-group/1` where that is several. */
  siteOf(group: number): Address {
    const npus = this.npusOf(group);
    return npus.length === 1 ? address('npu', npus[0] as number) : address('dp-group', group);
  }
}
