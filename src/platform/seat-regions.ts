/** What shared memory says of seats: whose their dies are, whether anybody may touch them, and what lies on their rings. @module */
import type { AddressSpace } from '../fabric/address-space.ts';
import type { RegionState } from '../fabric/region-table.ts';
import { clearRing } from '../fabric/ring-layout.ts';
import type { PodPlan } from '../flowserve/pod-plan.ts';
import type { Seat } from '../runtime/directory.ts';

export class SeatRegions {
  readonly #plan: PodPlan;
  readonly #space: AddressSpace;

  constructor(plan: PodPlan, space: AddressSpace) {
    this.#plan = plan;
    this.#space = space;
  }

  /** NPUs come to lie on the seat's dies, in order. */
  name(seat: Seat, npus: readonly number[]): void {
    for (const { region, index } of this.#of(seat)) if (npus[index] !== undefined) this.#space.table.setNpu(region, npus[index]);
  }

  /** Nothing is left on its rings and of its thread's words: somebody may begin there. */
  makeReady({ thread }: Seat): void {
    for (const ring of this.#plan.rings) if (ring.from === thread || ring.to === thread) clearRing(this.#space.memories[0] as WebAssembly.Memory, ring);
    this.#space.control.reset(thread);
  }

  mark(seat: Seat, state: RegionState): void {
    for (const { region, index } of this.#of(seat)) {
      this.#space.table.setState(region, state);
      if (state !== 'held') this.#space.table.setDie(region, seat.dies[index] as number);
    }
  }

  /** From now on nothing counts that was written or is meant for them, nor what their dies say. */
  raiseEpochs(seat: Seat): void {
    for (const die of seat.dies) this.#space.control.raiseEpochOfDie(die);
    for (const { region } of this.#of(seat)) this.#space.table.raiseEpoch(region);
  }

  /** Of the seat's `index`th die: its HBM, and its DRAM where there is any. */
  #of({ dies }: Seat): { readonly region: number; readonly index: number }[] {
    const { dies: hbm, drams } = this.#plan;
    return dies.flatMap((die, index) =>
      [hbm[die], drams[die]].flatMap((region) => (region === undefined ? [] : [{ region: this.#space.table.indexOf(region.owner, region.kind), index }])),
    );
  }
}
