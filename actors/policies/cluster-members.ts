/**
 * Who is in the pod's control plane: which executors serve, which job executors are lost, and who was asked to take their requests over.
 * @module
 */
import { type Address, idOf, roleOf } from '../../src/protocol/address.ts';
import { memberLife } from '../../src/protocol/constructors.ts';
import type { MemberLife } from '../../src/protocol/controllers.ts';

type Loss = MemberLife & { /** Null: nobody was asked yet. */ taker: Address | null };
type Assigned = MemberLife & { readonly taker: Address };

export class ClusterMembers {
  /** By member: the life in which it serves. */
  readonly #serving = new Map<Address, number>();
  /** By member: its last life that is known to be over. */
  readonly #over = new Map<Address, number>();
  /** Job executors whose requests nobody has said to have taken over. */
  #losses: Loss[] = [];

  ready({ member, life }: MemberLife): void {
    if (life > (this.#over.get(member) ?? 0)) this.#serving.set(member, Math.max(life, this.#serving.get(member) ?? 0));
  }

  /** False: it was known. */
  lost({ member, life }: MemberLife): boolean {
    if (life <= (this.#over.get(member) ?? 0)) return false;
    this.#over.set(member, life);
    if ((this.#serving.get(member) ?? 0) <= life) this.#serving.delete(member);
    // What it was about to take over, it may have taken or not: whoever is asked next finds out.
    for (const loss of this.#losses) if (loss.taker === member) loss.taker = null;
    if (roleOf(member) === 'job-executor') this.#losses.push({ member, life, taker: null });
    return true;
  }

  takenOver({ member, life }: MemberLife): void {
    this.#losses = this.#losses.filter((loss) => loss.member !== member || loss.life !== life);
  }

  /** What is to be taken over, each by the serving job executor that has the fewest of these to do; what nobody can take waits for one to serve. */
  assign(): readonly Assigned[] {
    const takers = this.jobExecutors;
    if (takers.length === 0) return [];
    const busy = (member: Address): number => this.#losses.filter(({ taker }) => taker === member).length;
    return this.#losses
      .filter(({ taker }) => taker === null)
      .map((loss) => {
        const taker = takers.reduce((best, other) => (busy(other.member) < busy(best.member) ? other : best)).member;
        loss.taker = taker;
        return { member: loss.member, life: loss.life, taker };
      });
  }

  /** A leader that begins does not know what the one before it has asked for. */
  assignAnew(): readonly Assigned[] {
    for (const loss of this.#losses) loss.taker = null;
    return this.assign();
  }

  /** Those that serve, by id. */
  get jobExecutors(): readonly MemberLife[] {
    return this.serving.filter(({ member }) => roleOf(member) === 'job-executor').sort((a, b) => idOf(a.member) - idOf(b.member));
  }

  get taskExecutors(): readonly MemberLife[] {
    return this.serving.filter(({ member }) => roleOf(member) === 'task-executor');
  }

  get serving(): MemberLife[] {
    return [...this.#serving].map(([member, life]) => memberLife(member, life));
  }

  get losses(): MemberLife[] {
    return this.#losses.map(({ member, life }) => memberLife(member, life));
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    return { serving: this.serving, over: Object.fromEntries(this.#over), losses: structuredClone(this.#losses) };
  }
}
