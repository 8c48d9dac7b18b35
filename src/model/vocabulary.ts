/**
 * What ids stand for, in shared memory: written once at the pod's start by the thread that has read the tokenizer, so that nobody else has to. (A tokenizer of
 * 163,840 tokens takes seconds to read, and hundreds of megabytes while it is read.)
 *
 *   region, in words:   | tokens | special ones | ends[tokens] | ids of the special ones | bytes of all tokens, one after the other |
 *
 * `ends[n]`: where token n's bytes end, counted from the first one's. A token's text is looked up and decoded when it is first asked for, then kept.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import type { AddressSpace } from '../fabric/address-space.ts';
import type { Region } from '../fabric/memory-plan.ts';
import { assert } from '../protocol/errors.ts';
import type { Tokenizer } from './tokenizer.ts';
import { newUtf8Decoder } from './utf8-decoder.ts';

/** All that it takes to turn ids into text. */
export type Vocabulary = Pick<Tokenizer, 'tokenBytes' | 'tokenText' | 'specialTokenIds'>;

const HEAD_WORDS = 2;
const NO_BYTES = new Uint8Array(0);

/** A tokenizer's vocabulary as it lies in shared memory. */
export function packVocabulary({ vocabSize, tokenBytes, specialTokenIds }: Pick<Tokenizer, 'vocabSize' | 'tokenBytes' | 'specialTokenIds'>): Uint8Array {
  const tokens = Array.from({ length: vocabSize }, (_, id) => tokenBytes(id));
  const words = HEAD_WORDS + vocabSize + specialTokenIds.size;
  const packed = new Uint8Array(words * 4 + tokens.reduce((sum, { length }) => sum + length, 0));
  const head = new Int32Array(packed.buffer, 0, words);
  head.set([vocabSize, specialTokenIds.size]);
  let end = 0;
  for (const [id, bytes] of tokens.entries()) {
    packed.set(bytes, words * 4 + end);
    end += bytes.length;
    head[HEAD_WORDS + id] = end;
  }
  head.set([...specialTokenIds], HEAD_WORDS + vocabSize);
  return packed;
}

/** The same, read from any thread. */
export function sharedVocabulary(space: AddressSpace, region: Region): Vocabulary {
  const words = space.wordsOf(region.base);
  const base = offsetOf(region.base) / 4;
  const [count, special] = [words[base] as number, words[base + 1] as number];
  const [ends, ids] = [base + HEAD_WORDS, base + HEAD_WORDS + count];
  const first = region.base + (HEAD_WORDS + count + special) * 4;
  assert(count > 0, 'the vocabulary is not written yet');
  // With all their places from the first: V8 makes hash tables of lists with such gaps.
  const known = new Array<Uint8Array | undefined>(count).fill(undefined);
  const texts = new Array<string | undefined>(count).fill(undefined);
  const tokenBytes = (id: number): Uint8Array => {
    const bytes = known[id];
    if (bytes !== undefined) return bytes;
    if (id < 0 || id >= count) return NO_BYTES;
    const from = id === 0 ? 0 : (words[ends + id - 1] as number);
    // A copy: what is shared no decoder takes.
    const found = space.bytesAt(first + from, (words[ends + id] as number) - from).slice();
    known[id] = found;
    return found;
  };
  const tokenText = (id: number): string => {
    const text = texts[id];
    if (text !== undefined) return text;
    const decoded = newUtf8Decoder().decode(tokenBytes(id));
    texts[id] = decoded;
    return decoded;
  };
  return { tokenBytes, tokenText, specialTokenIds: new Set(words.subarray(ids, ids + special)) };
}
