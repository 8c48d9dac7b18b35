/**
 * One die's end of XCCL: writes its fields in its peers' metadata, reads theirs in its own.
 *
 * A field is published by storing its event number last; who sees the number sees the words before it. Numbers rise by one for each (peer, channel), from 1.
 * A field counts only if both epochs in it are current: the writer's, so that a die that was given up is not heard, and the reader's, so that a
 * successor on the same memory does not take what was meant for its predecessor. What does not count is counted as stale. An end stamps the epochs that it
 * knows, its own from its birth and its peers' from when it last began with them: one that was given up and still writes gives itself away.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import { invariantBroken } from '../protocol/errors.ts';
import { type Areas, type Channel, FIELD_BYTES, FIELD_WORD } from './areas.ts';
import type { TravelWatch } from './travel-watch.ts';

/** What XCCL needs of the pod around it. */
export type Surroundings = {
  readonly space: AddressSpace;
  /** Where the areas of a die lie. */
  readonly areasOf: (die: number) => Areas;
  /** Tells the thread that hosts the die to look at its metadata; nothing to do where that is this thread. */
  readonly arrive: (die: number) => void;
  readonly now_ms: () => number;
  /** Missing: nobody ever looks on. */
  readonly watch?: TravelWatch | undefined;
};

/** `pulled_bytes`: of rows taken from peers' areas by dispatch and combine, in whichever form they travel. */
export type EndpointCounters = { writes: number; stale: number; pulled_bytes: number };

const FIELD_WORDS = FIELD_BYTES / 4;
/** Words of a field that are its channel's own. */
export const OWN_WORDS = FIELD_WORDS - FIELD_WORD.a;

/** This die's fields in a peer's metadata: the peer's segment, and the index of the first word. */
type Fields = { readonly words: Int32Array; readonly first: number };

/** 0 says that there is no event, so a wrap leaves it out. */
const after = (event: number): number => (event + 1) | 0 || 1;

export class Endpoint {
  readonly die: number;
  /** The die's epoch when this end was made: raised since, this end is given up, and whatever it does counts for nothing. */
  readonly epoch: number;
  readonly areas: Areas;
  readonly surroundings: Surroundings;
  readonly counters: EndpointCounters = { writes: 0, stale: 0, pulled_bytes: 0 };
  /** Of each peer. */
  readonly #channels: number;
  readonly #own: Int32Array;
  readonly #metadata: number;
  /** By peer × channels + channel: the last event written to the peer. */
  readonly #written: Int32Array;
  /** By peer × channels + channel: the last event that was consumed. */
  readonly #consumed: Int32Array;
  /** By peer × channels + channel: the stale event that was counted last. */
  readonly #staleSeen: Int32Array;
  /** By peer. */
  readonly #epochs: Int32Array;
  readonly #fields: (Fields | undefined)[] = [];

  /** `epoch`: of the die, as whoever made this end knows it; else the one that it has now. */
  constructor(die: number, surroundings: Surroundings, epoch = surroundings.space.control.epochOfDie(die)) {
    this.die = die;
    this.surroundings = surroundings;
    this.epoch = epoch;
    this.areas = surroundings.areasOf(die);
    this.#own = surroundings.space.wordsOf(this.areas.metadata);
    this.#metadata = offsetOf(this.areas.metadata) / 4;
    this.#channels = this.areas.peer_bytes / FIELD_BYTES;
    const fields = this.areas.dies * this.#channels;
    this.#written = new Int32Array(fields);
    this.#consumed = new Int32Array(fields);
    this.#staleSeen = new Int32Array(fields);
    this.#epochs = Int32Array.from({ length: this.areas.dies }, (_, peer) => surroundings.space.control.epochOfDie(peer));
  }

  get space(): AddressSpace {
    return this.surroundings.space;
  }

  /** The peer's epoch that this end knows: what it writes is meant for that one, and only that one is heard. */
  epochOf(peer: number): number {
    return this.#epochs[peer] as number;
  }

  /** The event that the next `write` to the peer publishes. */
  nextEvent(peer: number, channel: Channel): number {
    return after(this.#written[this.#index(peer, channel)] as number);
  }

  /** Publishes a field: five words of the channel's own, then the event number, which is returned; and wakes the peer. */
  write(peer: number, channel: Channel, a: number, b: number, c: number, d: number, e: number): number {
    const { words, first } = this.#fieldsAt(peer);
    const at = first + channel * FIELD_WORDS;
    const index = this.#index(peer, channel);
    const event = after(this.#written[index] as number);
    // Whoever reads an older event's words meanwhile finds it gone when it looks again.
    Atomics.exchange(words, at + FIELD_WORD.event, 0);
    words[at + FIELD_WORD.source_epoch] = this.epoch;
    words[at + FIELD_WORD.target_epoch] = this.#epochs[peer] as number;
    words[at + FIELD_WORD.a] = a;
    words[at + FIELD_WORD.b] = b;
    words[at + FIELD_WORD.c] = c;
    words[at + FIELD_WORD.d] = d;
    words[at + FIELD_WORD.e] = e;
    Atomics.store(words, at + FIELD_WORD.event, event);
    this.#written[index] = event;
    this.counters.writes++;
    this.surroundings.arrive(peer);
    return event;
  }

  /**
   * Sets one word of the field that was published last, without a new event and without waking anybody: what the peer may look up when it needs to,
   * such as that its answer was taken.
   */
  mark(peer: number, channel: Channel, word: number, value: number): void {
    const { words, first } = this.#fieldsAt(peer);
    Atomics.store(words, first + channel * FIELD_WORDS + word, value);
  }

  /** The event that the peer published last on the channel, or 0: none, or none of this epoch. */
  eventFrom(peer: number, channel: Channel): number {
    const index = this.#index(peer, channel);
    return this.#ifCurrent(peer, index, Atomics.load(this.#own, this.#metadata + index * FIELD_WORDS + FIELD_WORD.event));
  }

  /** The same, but 0 for an event that was consumed. */
  newEventFrom(peer: number, channel: Channel): number {
    const index = this.#index(peer, channel);
    const at = this.#metadata + index * FIELD_WORDS + FIELD_WORD.event;
    // Most looks end here: nothing new. A plain load costs a seventh of an atomic one, and whoever is told to look by an arrival sees what came before it.
    const seen = this.#own[at] as number;
    if (seen === 0 || seen === this.#consumed[index]) return 0;
    const event = Atomics.load(this.#own, at);
    return event === 0 || event === this.#consumed[index] ? 0 : this.#ifCurrent(peer, index, event);
  }

  /** Not to be shown by `newEventFrom` again. */
  consume(peer: number, channel: Channel, event: number): void {
    this.#consumed[this.#index(peer, channel)] = event;
  }

  /** A word of the field that `eventFrom` has just shown. Words belong to that event if it is still there after they were read (`isStill`). */
  wordFrom(peer: number, channel: Channel, word: number): number {
    return this.#own[this.#metadata + this.#index(peer, channel) * FIELD_WORDS + word] as number;
  }

  /** The event that `newEventFrom` would show, with its own five words put in `words`; 0 also while the field is being rewritten. */
  readNew(peer: number, channel: Channel, words: Int32Array): number {
    const own = this.#own;
    const index = this.#index(peer, channel);
    const at = this.#metadata + index * FIELD_WORDS;
    // As in `newEventFrom`.
    const seen = own[at + FIELD_WORD.event] as number;
    if (seen === 0 || seen === this.#consumed[index]) return 0;
    const event = Atomics.load(own, at + FIELD_WORD.event);
    if (event === 0 || event === this.#consumed[index]) return 0;
    for (let word = 0; word < OWN_WORDS; word++) words[word] = own[at + FIELD_WORD.a + word] as number;
    return Atomics.or(own, at + FIELD_WORD.event, 0) === event ? this.#ifCurrent(peer, index, event) : 0;
  }

  /**
   * The field still is the event's, and its writer has not been given up: what was read of it, or pulled by it, is whole.
   *
   * Race: the writer changes the event before it touches what the event showed; here what it showed was read before the event is looked at again. A plain
   * load may overtake the reads before it (ARM); a read-modify-write ends after them.
   */
  isStill(peer: number, channel: Channel, event: number): boolean {
    const index = this.#index(peer, channel);
    if (Atomics.or(this.#own, this.#metadata + index * FIELD_WORDS + FIELD_WORD.event, 0) !== event) return false;
    return this.#ifCurrent(peer, index, event) === event;
  }

  /** Begins anew with a peer whose epoch has risen since; true if it had. What this end has under way with the predecessor has failed. */
  refresh(peer: number): boolean {
    if (this.#epochs[peer] === this.surroundings.space.control.epochOfDie(peer)) return false;
    this.forget(peer);
    return true;
  }

  /** The peer starts anew, with events from 1: so does this end towards it. */
  forget(peer: number): void {
    this.#epochs[peer] = this.surroundings.space.control.epochOfDie(peer);
    for (let channel = 0; channel < this.#channels; channel++) {
      const index = this.#index(peer, channel);
      this.#written[index] = 0;
      this.#consumed[index] = 0;
    }
  }

  #index(peer: number, channel: Channel): number {
    // A message made ahead of need would cost more than the look itself.
    if (peer < 0 || peer >= this.areas.dies) invariantBroken(`die ${peer} of ${this.areas.dies}`);
    return peer * this.#channels + channel;
  }

  #fieldsAt(peer: number): Fields {
    return this.#fields[peer] ?? this.#findFields(peer);
  }

  #findFields(peer: number): Fields {
    const { space, areasOf } = this.surroundings;
    const { metadata } = areasOf(peer);
    const fields = { words: space.wordsOf(metadata), first: (offsetOf(metadata) + this.die * this.areas.peer_bytes) / 4 };
    this.#fields[peer] = fields;
    return fields;
  }

  /** The event, or 0 if it is none of both dies' epochs, which is counted once. */
  #ifCurrent(peer: number, index: number, event: number): number {
    if (event === 0) return 0;
    const at = this.#metadata + index * FIELD_WORDS;
    const { control } = this.surroundings.space;
    const source = this.#epochs[peer] as number;
    if (
      this.#own[at + FIELD_WORD.source_epoch] === source &&
      this.#own[at + FIELD_WORD.target_epoch] === this.epoch &&
      control.epochOfDie(peer) === source &&
      control.epochOfDie(this.die) === this.epoch
    )
      return event;
    if (this.#staleSeen[index] !== event) {
      this.#staleSeen[index] = event;
      this.counters.stale++;
    }
    return 0;
  }
}
