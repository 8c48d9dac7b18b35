/** A message of which one value came across as another, wherever in it that lies. @module */
import type { Message } from '../protocol/messages.ts';

type Holder = Record<string, unknown>;
type Place = { readonly holder: Holder; readonly key: string };

/** What a frame's header says by itself, and what the message is. */
const OF_HEADER = 'type';
/** Of a number. */
const BITS = 16;

/** `draw` gives a whole number below its limit. Null: it has no value that could. */
export function corrupted(message: Message, draw: (limit: number) => number): Message | null {
  const copy = structuredClone(message);
  const places = [...placesIn(copy as unknown as Holder)].filter(({ key, holder }) => key !== OF_HEADER || holder !== (copy as unknown));
  const place = places[draw(Math.max(1, places.length))];
  if (place === undefined) return null;
  place.holder[place.key] = other(place.holder[place.key], draw);
  return copy;
}

function* placesIn(holder: Holder): Generator<Place> {
  for (const [key, value] of Object.entries(holder)) {
    if (typeof value === 'object' && value !== null) yield* placesIn(value as Holder);
    else if (typeof value === 'number' || typeof value === 'boolean' || (typeof value === 'string' && value !== '')) yield { holder, key };
  }
}

function other(value: unknown, draw: (limit: number) => number): unknown {
  if (typeof value === 'boolean') return !value;
  if (typeof value === 'number') return Number.isInteger(value) && Math.abs(value) < 2 ** 31 ? value ^ (1 << draw(BITS)) : 1 + draw(2 ** BITS);
  const text = value as string;
  const at = draw(text.length);
  // The lowest bit: what was printed stays so.
  return `${text.slice(0, at)}${String.fromCharCode(text.charCodeAt(at) ^ 1)}${text.slice(at + 1)}`;
}
