/**
 * The holder's side: what a prefill NPU (or any that lends blocks) has on offer. One owner, who opens, tells of progress, polls and drains.
 *
 *   open ─▶ layers come ─▶ sealed: all sums are there        poll sums what is there, a bounded number of bytes at a time
 *     ├─▶ sealed: all of it is guarded where it rests, and has sums
 *     └─▶ the lease goes its own way (lease-word.ts); poll looks at it, ends what has expired, and collects what is over
 *
 * While an offer is open its blocks are held for it in the pool, beside whoever else holds them; so nobody writes them before the puller has let go.
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { BlockPool } from '../../fabric/block-pool.ts';
import { assert, invariantBroken, MinipodError } from '../../protocol/errors.ts';
import type { KvPlace } from '../layouts/step-layout.ts';
import { BlockWalk } from './block-walk.ts';
import type { Checksum } from './checksum.ts';
import { POLL_BYTES } from './copying.ts';
import { claimantOf, dieOfPuller, isSerialOf, LEASE, leaseWord, stateOf } from './lease-word.ts';
import { LAYERS_MAX, OFFER_WORD, type OfferPlace, type OffersPlace, offerPlace, Progress, SUMS } from './offer-layout.ts';
import type { Registration } from './registration.ts';

/**
 *   pulled       the puller has all of it
 *   expired      nobody pulled it in time, or who did was too slow and has stopped
 *   withdrawn    its owner took it back, and whoever pulled has stopped
 *   stopped      the puller gave up
 *   puller_lost  the puller died
 */
const OFFER_ENDS = ['pulled', 'expired', 'withdrawn', 'stopped', 'puller_lost'] as const;
export type OfferEnd = (typeof OFFER_ENDS)[number];

export type OfferCounters = { opened: number; refused: number; fenced: number; summed_bytes: number; readonly ended: Record<OfferEnd, number> };

export type OffersOptions = {
  readonly npu: number;
  readonly space: AddressSpace;
  readonly place: OffersPlace;
  readonly kv: KvPlace;
  readonly pool: BlockPool;
  readonly checksum: Checksum;
  /** `puller` (lease-word.ts) can read here no more: its die's epoch has risen, or its link was cut at this end. Asked of claims alone. */
  readonly isGone: (puller: number) => boolean;
  /** A block holds what was written there, as far as that is known; asked once it is summed. Missing: they all do. */
  readonly isSound?: (block: number) => boolean;
  /** The sum at rest of all that a block holds (`Checksum.rest`); null: it has none. Missing: none has. */
  readonly restingSumOf?: (block: number) => number | null;
  /** Something has changed for who pulls on that die: one that waits is to look. */
  readonly arrive?: (die: number) => void;
};

/** An offer that is open. */
export class Offer<Token> {
  readonly token: Token;
  readonly registration: Registration;
  /** By the holder's clock. */
  readonly expires_ms: number;
  readonly blocks: readonly number[];
  readonly place: OfferPlace;
  readonly progress: Progress;
  readonly sums: Int32Array;
  readonly summed: BlockWalk;
  layers_there = 0;
  isSealed = false;
  /** Why it is to end, once it is. */
  ending: 'expired' | 'withdrawn' | null = null;
  /** How it ended: its slot may be another's. */
  end: OfferEnd | null = null;

  constructor(token: Token, registration: Registration, expires_ms: number, blocks: readonly number[], place: OfferPlace, progress: Progress, walk: BlockWalk) {
    this.token = token;
    this.registration = registration;
    this.expires_ms = expires_ms;
    this.blocks = blocks;
    this.place = place;
    this.progress = progress;
    this.sums = new Int32Array(blocks.length);
    this.summed = walk;
  }
}

export type EndedOffer<Token> = { readonly token: Token; readonly registration: Registration; readonly end: OfferEnd };

export class Offers<Token> {
  readonly counters: OfferCounters = {
    opened: 0,
    refused: 0,
    fenced: 0,
    summed_bytes: 0,
    ended: { pulled: 0, expired: 0, withdrawn: 0, stopped: 0, puller_lost: 0 },
  };
  readonly #options: OffersOptions;
  readonly #words: Int32Array;
  readonly #free: number[];
  readonly #open: Offer<Token>[] = [];
  readonly #layers: number;
  #ended: EndedOffer<Token>[] = [];

  /** Takes the table over from whoever had the region before: what that one offered is over. */
  constructor(options: OffersOptions) {
    const { space, place, kv } = options;
    this.#options = options;
    this.#words = space.wordsOf(place.address);
    this.#layers = kv.block_bytes / kv.layer_bytes;
    assert(this.#layers <= LAYERS_MAX, `${this.#layers} layers, progress counts ${LAYERS_MAX}`);
    this.#free = Array.from({ length: place.slots }, (_, slot) => place.slots - 1 - slot);
    for (let slot = 0; slot < place.slots; slot++) {
      const at = this.#at(offerPlace(place, slot).header);
      const serial = (Atomics.load(this.#words, at + OFFER_WORD.serial) + 1) >>> 0;
      Atomics.store(this.#words, at + OFFER_WORD.serial, serial);
      Atomics.store(this.#words, at + OFFER_WORD.lease, leaseWord(serial, 0, LEASE.free));
    }
  }

  /** Offers whose leases are not over. */
  get open_count(): number {
    return this.#open.length;
  }

  /** There are sums to be made: `poll` has work. */
  get isSumming(): boolean {
    return this.#open.some((offer) => !offer.isSealed && this.#canSum(offer));
  }

  /** Of the next that expires; infinite where none is open. */
  get expires_ms(): number {
    let first = Number.POSITIVE_INFINITY;
    for (const { expires_ms } of this.#open) first = Math.min(first, expires_ms);
    return first;
  }

  /**
   * Puts blocks on offer to one puller. `layers_there`: all of them where the prefill is over, fewer where layers are still to come (`reach`).
   * Null: no slot is free; ask again once an offer has ended.
   * @throws `invalid_request` for more blocks than a slot holds.
   */
  open(token: Token, blocks: readonly number[], expires_ms: number, layers_there = this.#layers): Offer<Token> | null {
    const { npu, space, place, kv, pool } = this.#options;
    if (blocks.length > place.blocks_max)
      throw new MinipodError('invalid_request', `${blocks.length} blocks are to be offered, an offer of npu/${npu} holds ${place.blocks_max}`);
    const slot = this.#free.pop();
    if (slot === undefined) {
      this.counters.refused++;
      return null;
    }
    const words = this.#words;
    const at = offerPlace(place, slot);
    const header = this.#at(at.header);
    const serial = (Atomics.load(words, header + OFFER_WORD.serial) + 1) >>> 0;
    Atomics.store(words, header + OFFER_WORD.serial, serial);
    for (const [index, block] of blocks.entries()) {
      pool.share(block);
      words[this.#at(at.blocks) + index] = block;
      words[this.#at(at.generations) + index] = pool.generationOf(block);
    }
    words[header + OFFER_WORD.blocks] = blocks.length;
    const shape = { blocks: blocks.length, layer_bytes: kv.layer_bytes, first_layer: 0, end_layer: this.#layers };
    const walk = new BlockWalk(shape, layers_there === this.#layers ? 'by request' : 'by layer');
    const registration = { npu, slot, serial, blocks: blocks.length };
    const offer = new Offer(token, registration, expires_ms, blocks, at, new Progress(space, at, serial), walk);
    this.reach(offer, layers_there);
    const resting = layers_there === this.#layers ? this.#restingSums(blocks) : null;
    words[header + OFFER_WORD.sums] = resting === null ? SUMS.copy : SUMS.rest;
    if (resting !== null) this.#seal(offer, resting);
    // Last: who can claim it sees all of the above.
    Atomics.store(words, header + OFFER_WORD.lease, leaseWord(serial, 0, LEASE.held));
    this.#open.push(offer);
    this.counters.opened++;
    return offer;
  }

  /** Layers 0 … `layers` − 1 of all its blocks are there, and will not change. Of an offer that has ended meanwhile, such as by expiry, nobody is told. */
  reach(offer: Offer<Token>, layers: number): void {
    if (offer.end !== null) return;
    assert(layers >= offer.layers_there && layers <= this.#layers, `layer ${layers} of ${this.#layers} after ${offer.layers_there}`);
    offer.layers_there = layers;
    if (offer.isSealed) return;
    offer.progress.reach(layers);
    this.#tellPuller(offer);
  }

  /** The owner wants its blocks back. Nobody begins to pull it any more; who pulls it now is fenced. */
  withdraw(offer: Offer<Token>): void {
    offer.ending ??= 'withdrawn';
  }

  /** Looks at every lease, and sums what is there by about so many bytes at most. True if something ended. */
  poll(now_ms: number, budget_bytes = POLL_BYTES): boolean {
    const before = this.#ended.length;
    let left = budget_bytes;
    for (let index = 0; index < this.#open.length; ) {
      const offer = this.#open[index] as Offer<Token>;
      if (now_ms >= offer.expires_ms) offer.ending ??= 'expired';
      this.#look(offer);
      if (this.#open[index] !== offer) continue;
      if (!offer.isSealed && left > 0) left -= this.#sum(offer, left);
      index++;
    }
    return this.#ended.length > before;
  }

  /** Takes what has ended, in the order in which it was seen to; its blocks are given back to the pool already. */
  drain(): readonly EndedOffer<Token>[] {
    const ended = this.#ended;
    this.#ended = [];
    return ended;
  }

  /**
   * Race: the puller claims, releases or stops while this looks. Each change is a swap of the very word that was looked at, so one of the two comes first
   * and the other sees another word; this end then looks again.
   */
  #look(offer: Offer<Token>): void {
    while (this.#open.includes(offer)) {
      const word = this.#lease(offer);
      const state = stateOf(word);
      const { serial } = offer.registration;
      // Words of an error that is not needed would be allocated at every look.
      if (state === LEASE.free || !isSerialOf(word, serial)) invariantBroken(`offer ${serial} is open, and its lease is ${word}`);
      if (state === LEASE.released) this.#collect(offer, 'pulled');
      else if (state === LEASE.stopped) this.#collect(offer, offer.ending ?? 'stopped');
      else if (state !== LEASE.held && this.#options.isGone(claimantOf(word))) this.#collect(offer, 'puller_lost');
      else if (state === LEASE.fenced || offer.ending === null) return;
      else if (state === LEASE.held) this.#endHeld(offer, word, offer.ending);
      else this.#fence(offer, word);
    }
  }

  #endHeld(offer: Offer<Token>, word: number, end: OfferEnd): void {
    if (this.#swap(offer, word, leaseWord(offer.registration.serial, 0, LEASE.free))) this.#collect(offer, end);
  }

  #fence(offer: Offer<Token>, word: number): void {
    if (!this.#swap(offer, word, leaseWord(offer.registration.serial, claimantOf(word), LEASE.fenced))) return;
    this.counters.fenced++;
    this.#options.arrive?.(dieOfPuller(claimantOf(word)));
  }

  #collect(offer: Offer<Token>, end: OfferEnd): void {
    const { registration, blocks, token } = offer;
    Atomics.store(this.#words, this.#at(offer.place.header) + OFFER_WORD.lease, leaseWord(registration.serial, 0, LEASE.free));
    for (const block of blocks) this.#options.pool.free(block);
    this.#open.splice(this.#open.indexOf(offer), 1);
    this.#free.push(registration.slot);
    offer.end = end;
    this.counters.ended[end]++;
    this.#ended.push({ token, registration, end });
  }

  /** Race: who claims it after this look has the progress from its own, later one. */
  #tellPuller(offer: Offer<Token>): void {
    const word = this.#lease(offer);
    if (stateOf(word) === LEASE.pulling) this.#options.arrive?.(dieOfPuller(claimantOf(word)));
  }

  #canSum({ summed, layers_there }: Offer<Token>): boolean {
    return summed.isDone || summed.layer < layers_there;
  }

  /** Bytes that were summed. */
  #sum(offer: Offer<Token>, budget_bytes: number): number {
    const { kv, checksum } = this.#options;
    const { summed, sums, blocks } = offer;
    let bytes = 0;
    while (!summed.isDone && summed.layer < offer.layers_there && bytes < budget_bytes) {
      const { block, at, bytes: size } = summed;
      sums[block] = checksum.sum(sums[block] as number, kv.address + (blocks[block] as number) * kv.block_bytes + at, size);
      bytes += size;
      summed.advance();
    }
    this.counters.summed_bytes += bytes;
    if (summed.isDone && offer.layers_there === this.#layers) {
      // A sum of what went bad before would prove it to whoever pulls it.
      if (!this.#areSound(blocks)) {
        offer.ending ??= 'withdrawn';
        return bytes;
      }
      this.#seal(offer, sums);
      this.#tellPuller(offer);
    }
    return bytes;
  }

  #seal(offer: Offer<Token>, sums: ArrayLike<number>): void {
    this.#words.set(sums, this.#at(offer.place.checksums));
    offer.progress.seal();
    offer.isSealed = true;
  }

  /** Null: not all of the blocks have one. */
  #restingSums(blocks: readonly number[]): number[] | null {
    const { restingSumOf } = this.#options;
    if (restingSumOf === undefined) return null;
    const sums: number[] = [];
    for (const block of blocks) {
      const sum = restingSumOf(block);
      if (sum === null) return null;
      sums.push(sum);
    }
    return sums;
  }

  #areSound(blocks: readonly number[]): boolean {
    return blocks.every((block) => this.#options.isSound?.(block) !== false);
  }

  #lease(offer: Offer<Token>): number {
    return Atomics.load(this.#words, this.#at(offer.place.header) + OFFER_WORD.lease);
  }

  #swap(offer: Offer<Token>, expected: number, next: number): boolean {
    return Atomics.compareExchange(this.#words, this.#at(offer.place.header) + OFFER_WORD.lease, expected, next) === expected;
  }

  #at(address: number): number {
    return offsetOf(address) / 4;
  }
}
