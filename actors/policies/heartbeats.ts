/**
 * Who has proved of late that it lives: asked once a beat, it answers, or its work goes on meanwhile (a long prefill answers nothing before its step ends).
 *
 * Who has not answered by the next beat is looked at twice as often until it has, or is suspected; nobody is asked more often for that.
 *
 * What is counted is time that the member could have used: a beat that comes late, since its own thread had to wait for a processor, counts once, and one in which
 * the member's thread had to wait counts by the share of it that was the member's. A suspicion that is wrong costs a restart and no token.
 */
import type { Address } from '../../src/protocol/address.ts';
import {
  beatDue,
  type HeartbeatMessage,
  type PingMessage,
  ping,
  type SuspectedMessage,
  suspected,
  type TrustedMessage,
  trusted,
} from '../../src/protocol/heartbeats.ts';

/** Who lives is asked so often. Shorter, and the questions would cost. */
export const BEAT_MS = 50;
/** Who is silent is looked at so often, and asked with every second look. */
export const LOOK_MS = BEAT_MS / 2;
/** Silence that is borne, from the first look on. */
export const SILENCE_MS_MAX = 150;

/**
 * `since_ms`: when it was asked what it has not answered; null: it has answered all. `silent_ms`: for how long of that it could have. `word`, `life`: its progress word,
 * and its worker's life, at the last look; null: not read yet. `isStill`: neither has it answered nor got on with its work by the last look.
 */
type Watched = { since_ms: number | null; silent_ms: number; word: number | null; life: number | null; isStill: boolean; isSuspected: boolean };
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

type Watching = { readonly context: { readonly heartbeats: Heartbeats } };
/** Commands of whoever watches: a beat is its answer. */
export const askForProgress = {
  type: 'claim' as const,
  params: ({ context }: Watching) => ({ claim: { kind: 'progress' as const, members: context.heartbeats.silent } }),
};
export const nextBeat = {
  type: 'after' as const,
  params: ({ context }: Watching) => ({ id: 'beat', delay_ms: context.heartbeats.delay_ms, message: beatDue() }),
};

export class Heartbeats {
  readonly #watched = new Map<Address, Watched>();
  isBeating = false;
  /** Beats until now, looks in between among them: who looks whether they go on goes by it. */
  beats = 0;
  /** Until the next beat. */
  delay_ms = BEAT_MS;
  /** The next beat is a look at those who are silent, before all are asked again. */
  isBetween = false;

  /** It lives, perhaps anew: nobody knows it to be silent. */
  watch(member: Address): void {
    this.#watched.set(member, { since_ms: null, silent_ms: 0, word: null, life: null, isStill: false, isSuspected: false });
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
    if (watched !== undefined) Object.assign(watched, { since_ms: null, silent_ms: 0, word: null, isStill: false });
  }

  get members(): readonly Address[] {
    return [...this.#watched.keys()];
  }

  /** Those who have not answered since they were asked: of whom it matters what their progress words say. */
  get silent(): readonly Address[] {
    return this.members.filter((member) => this.#watched.get(member)?.since_ms !== null);
  }

  /** Until it is to beat again, which it does by asking. */
  rest(): void {
    this.isBeating = false;
    this.isBetween = false;
  }

  /** Who is suspected is told of, and has as long again. */
  beat({ members, words, shares, lives, now_ms }: Extract<HeartbeatMessage, { type: 'PROGRESS' }>): Beat {
    this.beats++;
    const { isBetween } = this;
    const ask = isBetween ? [] : this.members;
    const back = this.members.filter((member) => {
      const index = members.indexOf(member);
      return this.#note(this.#watched.get(member) as Watched, words[index] ?? null, lives[index] ?? null, shares[index] ?? 0, now_ms);
    });
    const suspects = [...this.#watched].flatMap(([member, { silent_ms, life, since_ms }]): Suspect[] =>
      silent_ms > SILENCE_MS_MAX ? [{ member, life: life ?? 0, silent_ms: now_ms - (since_ms ?? now_ms) }] : [],
    );
    for (const { member } of suspects) Object.assign(this.#watched.get(member) as Watched, { silent_ms: 0, word: null, isSuspected: true });
    for (const member of ask) (this.#watched.get(member) as Watched).since_ms ??= now_ms;
    // There is no hurry about who is known to be silent.
    const hurries = [...this.#watched.values()].some(({ isStill, isSuspected }) => isStill && !isSuspected);
    this.isBetween = hurries && !isBetween;
    this.delay_ms = hurries || isBetween ? LOOK_MS : BEAT_MS;
    return { ask, suspects, trusted: back };
  }

  /** `word`, `life`: null: it was not silent when they were read. True: it was suspected, and lives. */
  #note(watched: Watched, word: number | null, life: number | null, share: number, now_ms: number): boolean {
    // A successor does not answer for its predecessor's silence.
    const isAnother = watched.life !== null && life !== null && life !== watched.life;
    const goesOn = watched.word !== null && word !== null && word !== watched.word;
    const isBack = watched.isSuspected && (watched.since_ms === null || isAnother || goesOn);
    if (isBack) watched.isSuspected = false;
    if (watched.since_ms === null || word === null) return isBack;
    if (isAnother || goesOn) Object.assign(watched, { since_ms: now_ms, silent_ms: 0, isStill: false });
    else Object.assign(watched, { silent_ms: watched.silent_ms + (this.delay_ms * share) / 100, isStill: true });
    Object.assign(watched, { word, life });
    return isBack;
  }

  /** All of its state: what a snapshot of its owner shows. */
  toJSON(): object {
    return {
      watched: [...this.#watched].map(([member, watched]) => ({ member, ...watched })),
      isBeating: this.isBeating,
      beats: this.beats,
      delay_ms: this.delay_ms,
      isBetween: this.isBetween,
    };
  }
}
