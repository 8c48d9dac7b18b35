/**
 * Where a prefill NPU says what it lends: a table of offers in its own region, read by whoever pulls.
 *
 *   offer    word 0   lease       lease-word.ts
 *                 1   serial      the how manieth offer of this slot, u32: what a registration names
 *                 2   progress    the offer's serial (20 bits) | layers that are there (12 bits), or SEALED: all are, and all sums
 *                 3   blocks      how many
 *                 4   sums        what its checksums are: SUMS
 *                16   block of each           u32 [blocks_max]
 *                 …   generation of each      u32 [blocks_max]       what it was when it was offered
 *                 …   checksum of each        u32 [blocks_max]       there once progress says SEALED
 *
 * Progress is written by the prefill step after each layer; a puller copies layer ℓ once it says more than ℓ (DeepServe §4.5, by layer).
 * @module
 */
import { offsetOf, roundUp } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Arena } from '../../fabric/arena.ts';
import { MinipodError } from '../../protocol/errors.ts';

export const OFFER_WORD = { lease: 0, serial: 1, progress: 2, blocks: 3, sums: 4 } as const;
export const OFFER_HEADER_WORDS = 5;
/** Of a copy, made for this offer; or those by which the blocks are guarded where they rest, which are there when it is opened. */
export const SUMS = { copy: 0, rest: 1 } as const;
const TABLES_AT = 16;

export type OffersPlace = { readonly address: number; readonly slots: number; readonly blocks_max: number };

const slotWords = (blocks_max: number): number => roundUp(TABLES_AT + 3 * blocks_max, 16);

/** `blocks_max`: of one sequence. */
export function layoutOffers(arena: Arena, slots: number, blocks_max: number): OffersPlace {
  return { address: arena.allocate(slots * slotWords(blocks_max) * 4), slots, blocks_max };
}

/** Addresses of one offer's words. */
export type OfferPlace = { readonly header: number; readonly blocks: number; readonly generations: number; readonly checksums: number };

/** @throws `invalid_request` for a slot that the table lacks. */
export function offerPlace({ address, slots, blocks_max }: OffersPlace, slot: number): OfferPlace {
  if (!(slot >= 0 && slot < slots)) throw new MinipodError('invalid_request', `offer ${slot} was asked for, and the table has ${slots}`);
  const header = address + slot * slotWords(blocks_max) * 4;
  const table = (index: number): number => header + (TABLES_AT + index * blocks_max) * 4;
  return { header, blocks: table(0), generations: table(1), checksums: table(2) };
}

// ---------------------------------------------------------------- progress

const LAYER_BITS = 12;
const SERIALS = 2 ** (32 - LAYER_BITS);
const SEALED = 2 ** LAYER_BITS - 1;
/** Layers that progress can count. */
export const LAYERS_MAX = SEALED - 1;

const progressWord = (serial: number, layers: number): number => ((serial % SERIALS) << LAYER_BITS) | layers;
const sealedWord = (serial: number): number => progressWord(serial, SEALED);
/** It is progress of this offer, and of no earlier one. */
export const isProgressOf = (word: number, serial: number): boolean => word >>> LAYER_BITS === serial % SERIALS;
export const isSealed = (word: number): boolean => (word & SEALED) === SEALED;
/** Layers that are there, of `layers`. */
export const layersThere = (word: number, layers: number): number => Math.min(word & SEALED, layers);

/** How the prefill step writes it: one store a layer, after the layer's KV. */
export class Progress {
  readonly #words: Int32Array;
  readonly #at: number;
  readonly #serial: number;

  constructor(space: AddressSpace, offer: OfferPlace, serial: number) {
    this.#words = space.wordsOf(offer.header);
    this.#at = offsetOf(offer.header) / 4 + OFFER_WORD.progress;
    this.#serial = serial;
  }

  /** Layers 0 … `layers` − 1 are in the blocks. */
  reach(layers: number): void {
    Atomics.store(this.#words, this.#at, progressWord(this.#serial, layers));
  }

  seal(): void {
    Atomics.store(this.#words, this.#at, sealedWord(this.#serial));
  }
}
