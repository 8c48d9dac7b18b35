/** Workers that give their places to lost ones, which have no successors otherwise (actors/role-switch.ts). @module */
import type { Address } from '../protocol/address.ts';
import { type RoleSwitchMessage, roleRefused, type SwitchRoleMessage } from '../protocol/role-switch.ts';
import type { Seat } from '../runtime/directory.ts';
import type { Thread } from './worker-life.ts';

export class RoleSuccessions {
  /** By the worker that gives way. */
  readonly #byPlace = new Map<number, SwitchRoleMessage>();
  /** Those that are to begin in another's place, and have not begun. */
  readonly #heirs = new Set<number>();
  readonly #tell: (to: Address, message: RoleSwitchMessage) => void;

  constructor(tell: (to: Address, message: RoleSwitchMessage) => void) {
    this.#tell = tell;
  }

  /** False, and refused: one of them is not what it was when that was asked. */
  begin(asked: SwitchRoleMessage, threads: readonly Thread[]): boolean {
    const { lost, place } = asked;
    const mayBe = threads[place]?.state === 'running' && threads[lost]?.state === 'lost' && !this.#heirs.has(lost);
    if (mayBe) this.#byPlace.set(place, asked);
    else this.#refuse(asked);
    return mayBe;
  }

  /** Nobody knows whether the place gets free. */
  fail(place: number): void {
    const asked = this.#byPlace.get(place);
    this.#byPlace.delete(place);
    if (asked !== undefined) this.#refuse(asked);
  }

  #refuse({ role_switch, place }: SwitchRoleMessage): void {
    this.#tell(role_switch, roleRefused(place));
  }

  /** Whose seat is free has a place, with all weights that are needed there. Else it leaves one, if anybody is to have it, for whom that is furnished. */
  mayBegin(worker: number, threads: readonly Thread[], furnish: (heir: number, seat: Seat) => void): boolean {
    const asked = this.#byPlace.get(worker);
    if (asked !== undefined) this.#leave(asked, threads, furnish);
    return this.#heirs.has(worker) && threads[worker]?.hasLostWeights === false;
  }

  #leave(asked: SwitchRoleMessage, threads: readonly Thread[], furnish: (heir: number, seat: Seat) => void): void {
    const { place } = asked;
    const [from, to] = [threads[place] as Thread, threads[asked.lost] as Thread];
    [from.seat, to.seat] = [to.seat, from.seat];
    to.hasLostWeights = true;
    this.#byPlace.delete(place);
    this.#heirs.add(asked.lost);
    furnish(asked.lost, to.seat);
  }

  hasBegun(worker: number): void {
    this.#heirs.delete(worker);
  }
}
