/**
 * Who has proved of late that it lives: asked once a beat, it answers, or its work goes on meanwhile (a long prefill answers nothing before its step ends).
 *
 * What is counted is time that the member could have used: a beat that comes late, since its own thread had to wait for a processor, counts once, and one in which
 * the member's thread had to wait counts by the share of it that was the member's. A suspicion that is wrong costs a restart and no token.
 */
import type { Address } from '../../src/protocol/address.ts';
import {
  type HeartbeatMessage,
  type PingMessage,
  ping,
  type SuspectedMessage,
  suspected,
  type TrustedMessage,
  trusted,
} from '../../src/protocol/heartbeats.ts';

/** A hung part is found within six of them. Shorter, and the questions would cost. */
export const BEAT_MS = 50;
/** Beats without a word, or work that goes on, that are borne. */
export const SILENT_BEATS_MAX = 3;

/**
 * `silent`: beats since it was heard of last, the one in which it was asked included. `word`, `life`: its progress word, and its worker's life, at the last beat of
 * those; null: not read yet. `since_ms`: when it was asked what it has not answered; null: it has answered all.
 */
type Watched = { silent: number; word: number | null; life: number | null; since_ms: number | null; isSuspected: boolean };
type Suspect = { readonly member: Address; readonly life: number; readonly silent_ms: number };
/** `trusted`: they were suspected, and have been heard of since. */
export type Beat = { readonly ask: readonly Address[]; readonly suspects: readonly Suspect[]; readonly trusted: readonly Address[] };

/** Gives up who is suspected: the host alone can end a thread. */
const HOST: Address = 'control/0';

/** What whoever watches says after a beat. */
export const sendsOf = (
  self: Address,
  { ask, suspects, trusted: back }: Beat,
): { readonly to: Address; readonly message: SuspectedMessage | TrustedMessage | PingMessage }[] => [
  ...suspects.map(({ member, life, silent_ms }) => ({ to: HOST, message: suspected(member, life, silent_ms) })),
  ...back.map((member) => ({ to: HOST, message: trusted(member) })),
  ...ask.map((to) => ({ to, message: ping(self) })),
];

export class Heartbeats {
  readonly #watched = new Map<Address, Watched>();
  isBeating = false;
  /** Beats until now: who looks whether they go on goes by it. */
  beats = 0;

  /** It lives, perhaps anew: nobody knows it to be silent. */
  watch(member: Address): void {
    this.#watched.set(member, { silent: 0, word: null, life: null, since_ms: null, isSuspected: false });
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
    if (watched !== undefined) Object.assign(watched, { silent: 0, word: null, since_ms: null });
  }

  get members(): readonly Address[] {
    return [...this.#watched.keys()];
  }

  /** Those who have not answered since they were asked: of whom it matters what their progress words say. */
  get silent(): readonly Address[] {
    return this.members.filter((member) => (this.#watched.get(member)?.silent ?? 0) > 0);
  }

  /** Who is suspected is told of, and has as long again. */
  beat({ members, words, shares, lives, now_ms }: Extract<HeartbeatMessage, { type: 'PROGRESS' }>): Beat {
    this.beats++;
    const back = this.members.filter((member) => {
      const index = members.indexOf(member);
      return this.#note(this.#watched.get(member) as Watched, words[index] ?? null, lives[index] ?? null, shares[index] ?? 0, now_ms);
    });
    const suspects = [...this.#watched].flatMap(([member, { silent, life, since_ms }]): Suspect[] =>
      silent > SILENT_BEATS_MAX + 1 ? [{ member, life: life ?? 0, silent_ms: now_ms - (since_ms ?? now_ms) }] : [],
    );
    for (const { member } of suspects) Object.assign(this.#watched.get(member) as Watched, { silent: 0, word: null, isSuspected: true });
    return { ask: this.members, suspects, trusted: back };
  }

  /** `word`, `life`: null: it was not silent when they were read. True: it was suspected, and lives. */
  #note(watched: Watched, word: number | null, life: number | null, share: number, now_ms: number): boolean {
    // A successor does not answer for its predecessor's silence.
    const isAnother = watched.life !== null && life !== null && life !== watched.life;
    const goesOn = watched.word !== null && word !== null && word !== watched.word;
    const isBack = watched.isSuspected && (watched.since_ms === null || isAnother || goesOn);
    if (isBack) watched.isSuspected = false;
    if (isAnother || goesOn) Object.assign(watched, { silent: 1, since_ms: now_ms });
    else {
      watched.silent += word === null ? 1 : share / 100;
      watched.since_ms ??= now_ms;
    }
    if (word !== null) Object.assign(watched, { word, life });
    return isBack;
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    return { watched: [...this.#watched].map(([member, watched]) => ({ member, ...watched })), isBeating: this.isBeating, beats: this.beats };
  }
}
