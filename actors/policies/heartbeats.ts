/**
 * Who has proved of late that it lives: asked once a beat, it answers, or its work goes on meanwhile (a long prefill answers nothing before its step ends).
 *
 * What is counted is time that the member could have used: a beat that comes late, since its own thread had to wait for a processor, counts once, and one in which
 * the member's thread had to wait counts by the share of it that was the member's. A suspicion that is wrong costs a restart and no token.
 */
import type { Address } from '../../src/protocol/address.ts';
import { type HeartbeatMessage, type PingMessage, ping, type SuspectedMessage, suspected } from '../../src/protocol/heartbeats.ts';

/** A hung part is found within six of them. Shorter, and the questions would cost. */
export const BEAT_MS = 50;
/** Beats without a word, or work that goes on, that are borne. */
export const SILENT_BEATS_MAX = 3;

/** `silent`: beats since it was heard of last, the one in which it was asked included. `word`: its progress word at the last beat of those; null: not read yet. */
type Watched = { silent: number; word: number | null };
export type Beat = { readonly ask: readonly Address[]; readonly suspects: readonly Address[] };

/** Gives up who is suspected: the host alone can end a thread. */
const HOST: Address = 'control/0';

/** What whoever watches says after a beat. */
export const sendsOf = (self: Address, { ask, suspects }: Beat): { readonly to: Address; readonly message: SuspectedMessage | PingMessage }[] => [
  ...suspects.map((member) => ({ to: HOST, message: suspected(member, (SILENT_BEATS_MAX + 1) * BEAT_MS) })),
  ...ask.map((to) => ({ to, message: ping(self) })),
];

export class Heartbeats {
  readonly #watched = new Map<Address, Watched>();
  isBeating = false;

  /** It lives, perhaps anew: nobody knows it to be silent. */
  watch(member: Address): void {
    this.#watched.set(member, { silent: 0, word: null });
  }

  /** It is lost, and somebody knows. */
  forget(member: Address): void {
    this.#watched.delete(member);
  }

  /** Those alone; who was among them before is known still. */
  watchOnly(members: readonly Address[]): void {
    for (const member of this.members) if (!members.includes(member)) this.forget(member);
    for (const member of members) if (!this.#watched.has(member)) this.watch(member);
  }

  heard(member: Address): void {
    const watched = this.#watched.get(member);
    if (watched === undefined) return;
    watched.silent = 0;
    watched.word = null;
  }

  get members(): readonly Address[] {
    return [...this.#watched.keys()];
  }

  /** Those who have not answered since they were asked: of whom it matters what their progress words say. */
  get silent(): readonly Address[] {
    return this.members.filter((member) => (this.#watched.get(member)?.silent ?? 0) > 0);
  }

  /** Who is suspected is told of, and has as long again. */
  beat({ members, words, shares }: Extract<HeartbeatMessage, { type: 'PROGRESS' }>): Beat {
    for (const [member, watched] of this.#watched) {
      const index = members.indexOf(member);
      const word = words[index];
      if (word === undefined) watched.silent++;
      else {
        watched.silent = watched.word !== null && watched.word !== word ? 1 : watched.silent + (shares[index] ?? 0) / 100;
        watched.word = word;
      }
    }
    const suspects = this.members.filter((member) => (this.#watched.get(member)?.silent ?? 0) > SILENT_BEATS_MAX + 1);
    for (const member of suspects) this.watch(member);
    return { ask: this.members, suspects };
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    return { watched: [...this.#watched].map(([member, { silent, word }]) => ({ member, silent, word })), isBeating: this.isBeating };
  }
}
