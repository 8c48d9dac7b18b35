/**
 * What a decode NPU is told of blocks on offer, in a message of a few numbers; all else lies in the offer itself (offer-layout.ts). xDeepServe §5.1, step 3.
 * @module
 */
import type { KvPlace } from '../layouts/step-layout.ts';
import type { OffersPlace } from './offer-layout.ts';

export type Registration = {
  /** Whose table of offers, and which of it. */
  readonly npu: number;
  readonly slot: number;
  readonly serial: number;
  readonly blocks: number;
};

/** What every thread knows of an NPU that offers, from its layout. */
export type OfferSource = { readonly offers: OffersPlace; readonly kv: KvPlace };
