/**
 * Ranges of one length, many or few, by raw addresses.
 * @module
 */
import { addressText } from '../../fabric/address.ts';
import { MinipodError } from '../../protocol/errors.ts';
import type { BlockShape } from './block-walk.ts';
import type { End } from './end.ts';
import { epochOfRegion } from './region-epoch.ts';

/** Ranges of `bytes` each, a multiple of 4, all in one region. */
export type Scatter = { readonly addresses: ArrayLike<number>; readonly bytes: number };

/** Layers `first` … `end` − 1 of ranges that hold layers one after the other, `layer_bytes` each. */
export type LayerRange = { readonly layer_bytes: number; readonly first: number; readonly end: number };

/** What both lists together ask for; without layers each range is one. @throws `invalid_request` where they do not fit. */
export function shapeOf(source: Scatter, target: Scatter, layers: LayerRange | null): BlockShape {
  const { bytes } = source;
  const blocks = source.addresses.length;
  const refuse = (what: string): never => {
    throw new MinipodError('invalid_request', `transfer: ${what}`);
  };
  if (blocks !== target.addresses.length) refuse(`${blocks} ranges cannot come to ${target.addresses.length}`);
  if (bytes !== target.bytes) refuse(`ranges of ${bytes} bytes cannot come to ranges of ${target.bytes}`);
  if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes % 4 !== 0) refuse(`ranges have ${bytes} bytes; a multiple of 4 would be right`);
  const { layer_bytes, first, end } = layers ?? { layer_bytes: bytes, first: 0, end: 1 };
  if (!(layer_bytes > 0 && layer_bytes % 4 === 0 && 0 <= first && first <= end && end * layer_bytes <= bytes))
    refuse(`ranges of ${bytes} bytes have no layers ${first} to ${end} of ${layer_bytes} bytes`);
  for (const { addresses } of [source, target])
    for (let index = 0; index < blocks; index++) {
      const address = addresses[index] as number;
      if (!Number.isSafeInteger(address) || address < 0 || address % 4 !== 0) refuse(`range ${index} begins at ${address}, which is no address of words`);
    }
  return { blocks, layer_bytes, first_layer: first, end_layer: end };
}

/** From the first byte of all ranges to the last. */
export type Span = { readonly address: number; readonly bytes: number };
export function spanOf({ addresses, bytes }: Scatter): Span {
  let [low, high] = [Number.POSITIVE_INFINITY, 0];
  for (let index = 0; index < addresses.length; index++) {
    low = Math.min(low, addresses[index] as number);
    high = Math.max(high, addresses[index] as number);
  }
  return addresses.length === 0 ? { address: 0, bytes: 0 } : { address: low, bytes: high + bytes - low };
}

/** @throws `memory_fault` where the ranges do not all lie in one region that is held. */
export function mustBeHeld(end: End, target: Scatter): void {
  const { address, bytes } = spanOf(target);
  if (bytes > 0 && epochOfRegion(end.space, address, bytes) < 0)
    throw new MinipodError('memory_fault', `die ${end.die} may not write ${bytes} bytes at ${addressText(address)}: no region that is held has them all`);
}
