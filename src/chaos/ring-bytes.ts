/** What rings hold, for who breaks it: frames that are torn, and acknowledgements of long ago. @module */
import type { AddressSpace } from '../fabric/address-space.ts';
import type { RingPlace } from '../fabric/links.ts';
import { RingProducer } from '../fabric/ring.ts';
import { DATA_WORD, EXTENDED, EXTENDED_BYTES, EXTENT, FRAME, HEADER_WORDS, PAD, TAIL_WORD } from '../fabric/ring-layout.ts';
import { wordsOfBytes } from '../fabric/scratch.ts';
import type { Damage } from './damage.ts';

const ANY_WORD = 2 ** 31;

/** Rings lie in segment 0. */
const wordsOf = (space: Pick<AddressSpace, 'wordsOf'>): Int32Array => space.wordsOf(0);

/** Where the ring's reader goes on, if anything lies there for it. */
export function unreadAt(space: AddressSpace, { offset }: RingPlace): number | null {
  const head = Atomics.load(wordsOf(space), offset / 4);
  const tail = Atomics.load(wordsOf(space), offset / 4 + TAIL_WORD);
  return head === tail ? null : tail;
}

/** A writer's end, as no one else sees it. */
class WriterEnd extends RingProducer {
  /** Where what it shows next begins, and in which of the rings; null: it has nothing to show. */
  static unshownAt(ring: RingProducer, rings: readonly RingPlace[]): { readonly place: RingPlace; readonly at: number } | null {
    const { headWord, capacity, published, tail } = ring as WriterEnd;
    const place = rings.find(({ offset }) => offset / 4 === headWord);
    // Its reader may read on in between: then it seems to be less, and it is not said.
    const unshown = capacity - ring.free_bytes - ((published - tail) | 0);
    return place === undefined || unshown <= 0 ? null : { place, at: published };
  }
}
export const { unshownAt } = WriterEnd;

/** The frame at that position of the ring is other words from one on that `below` draws: its header, its payload, or both. */
export function tearFrame(space: AddressSpace, { offset, capacity, slab_bytes }: RingPlace, at: number, below: (limit: number) => number): void {
  const words = wordsOf(space);
  const data = offset / 4 + DATA_WORD;
  const next = data + (at & (capacity - 1)) / 4;
  const frame = words[next] === PAD ? data : next;
  const payload = wordsOfBytes(words[frame + FRAME.bytes] as number);
  const isExtended = ((words[frame] as number) & EXTENDED) !== 0;
  const header = isExtended ? EXTENDED_BYTES / 4 : HEADER_WORDS;
  const payloadAt = isExtended && slab_bytes > 0 ? data + (capacity + (words[frame + EXTENT.slab_offset] as number)) / 4 : frame + header;
  for (let word = below(header + payload); word < header + payload; word++) {
    const place = word < header ? frame + word : payloadAt + word - header;
    words[place] = (words[place] as number) ^ (1 + below(ANY_WORD - 1));
  }
}

/** Nobody's frame lies where the writer, which has shown all that it has written, would go on: words that `below` draws. Where head is then; null: no room. */
export function leaveRubbish(space: AddressSpace, { offset, capacity }: RingPlace, below: (limit: number) => number): number | null {
  const words = wordsOf(space);
  const head = Atomics.load(words, offset / 4);
  if (capacity - ((head - Atomics.load(words, offset / 4 + TAIL_WORD)) | 0) < HEADER_WORDS * 4) return null;
  for (let word = 0; word < HEADER_WORDS; word++) words[offset / 4 + DATA_WORD + ((head + word * 4) & (capacity - 1)) / 4] = 1 + below(ANY_WORD - 1);
  const next = (head + HEADER_WORDS * 4) | 0;
  Atomics.store(words, offset / 4, next);
  return next;
}

/** Its writer has shown nothing since. */
export const isHeadAt = (space: AddressSpace, { offset }: RingPlace, at: number): boolean => Atomics.load(wordsOf(space), offset / 4) === at;

/** How far the ring was read is said as a lap ago, when nothing was of what its writer may write over now. Of a ring of which all is read, by its reader. Null: there is more. */
export function sayAsOfALapAgo(space: Pick<AddressSpace, 'wordsOf'>, { offset, capacity }: RingPlace): Damage | null {
  const words = wordsOf(space);
  const at = offset / 4 + TAIL_WORD;
  const tail = Atomics.load(words, at);
  if (Atomics.load(words, offset / 4) !== tail) return null;
  const bad = (tail - capacity) | 0;
  Atomics.store(words, at, bad);
  return { address: at * 4, bad: [bad], whole: [tail] };
}
