/**
 * Checks a tokenizer.json and rewrites it so that it computes the same on every engine.
 * Supported is what the served architectures use: byte-level BPE. Whatever would consult the engine's Unicode tables is replaced by pinned ones, or refused.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { nfc } from './nfc.ts';
import { pinUnicode } from './unicode-classes.ts';

type Json = { readonly [key: string]: unknown };

export type AddedToken = { readonly id: number; readonly content: string; readonly special: boolean };

export type TokenizerDefinition = {
  /** For the library: patterns pinned, no normalizer of its own. */
  readonly json: object;
  readonly normalise: ((text: string) => string) | null;
  readonly addedTokens: readonly AddedToken[];
};

/** GPT-2's pattern, which `ByteLevel { use_regex }` stands for. */
const BYTE_LEVEL_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const ASCII_PUNCTUATION = String.raw`!-\/:-@\[-\`{-~`;

/** Throws `invalid_checkpoint` naming the file, the field, what is supported and what was found. */
export function defineTokenizer(value: unknown, file: string): TokenizerDefinition {
  const fail: Fail = (field, expected, found) => {
    throw new MinipodError('invalid_checkpoint', `${file}: ${field}: expected ${expected}, found ${JSON.stringify(found)?.slice(0, 200) ?? 'nothing'}`);
  };
  if (!isJson(value)) return fail('the whole file', 'an object', value);
  const model = value['model'];
  if (!isJson(model) || model['type'] !== 'BPE') return fail('model.type', 'BPE', isJson(model) ? model['type'] : model);
  checkVocabulary(model, fail);
  if (!decodesByteLevel(value['decoder'])) return fail('decoder', 'ByteLevel', value['decoder']);
  const preTokenizer = pinPreTokenizer(value['pre_tokenizer'], `${file}: pre_tokenizer`, fail);
  if (!JSON.stringify(preTokenizer).includes('"ByteLevel"')) return fail('pre_tokenizer', 'one with ByteLevel', value['pre_tokenizer']);

  const addedTokens = (value['added_tokens'] ?? []) as unknown;
  if (!Array.isArray(addedTokens) || !addedTokens.every(isAddedToken))
    return fail('added_tokens', 'a list of tokens with id, content and special', addedTokens);
  const normalise = pinNormalizer(value['normalizer'] ?? null, fail);
  const json = {
    ...value,
    added_tokens: addedTokens,
    // An empty sequence keeps the library's distinction of added tokens that are matched before and after normalisation.
    normalizer: normalise === null ? null : { type: 'Sequence', normalizers: [] },
    pre_tokenizer: preTokenizer,
    post_processor: value['post_processor'] ?? null,
  };
  return { json, normalise, addedTokens };
}

type Fail = (field: string, expected: string, found: unknown) => never;

function checkVocabulary(model: Json, fail: Fail): void {
  const { vocab, merges } = model;
  if (!isJson(vocab)) fail('model.vocab', 'an object from token to id', vocab);
  for (const token in vocab) if (!isTokenId(vocab[token])) fail(`model.vocab[${JSON.stringify(token)}]`, 'a token id', vocab[token]);
  if (model['byte_fallback'] === true) fail('model.byte_fallback', 'false: byte-level BPE has a token for every byte', true);
  for (const letter of BYTE_LETTERS)
    if (!Object.hasOwn(vocab, letter)) fail('model.vocab', `a token for every byte, such as ${JSON.stringify(letter)}`, undefined);
  if (!Array.isArray(merges)) fail('model.merges', 'a list of pairs', merges);
  for (const [at, merge] of merges.entries()) {
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
    // The library drops text in silence whose merge has no token.
    if (!Array.isArray(pair) || pair.length !== 2 || !Object.hasOwn(vocab, `${pair[0]}${pair[1]}`))
      fail(`model.merges[${at}]`, 'a pair of tokens that make a token', merge);
  }
}

const decodesByteLevel = (decoder: unknown): boolean =>
  isJson(decoder) &&
  (decoder['type'] === 'ByteLevel' || (decoder['type'] === 'Sequence' && Array.isArray(decoder['decoders']) && decoder['decoders'].every(decodesByteLevel)));

function pinPreTokenizer(step: unknown, where: string, fail: Fail): Json {
  const unsupported = (what: string) => fail('pre_tokenizer', `Sequence, Split, Digits, Punctuation or ByteLevel${what}`, step);
  if (!isJson(step)) return unsupported('');
  const isolate = (pattern: string): Json => ({ type: 'Split', pattern: { Regex: pinUnicode(pattern, where) }, behavior: 'Isolated', invert: false });
  switch (step['type']) {
    case 'Sequence': {
      const steps = step['pretokenizers'];
      if (!Array.isArray(steps)) return unsupported(', with a list of pretokenizers');
      return { type: 'Sequence', pretokenizers: steps.map((inner) => pinPreTokenizer(inner, where, fail)) };
    }
    case 'Split': {
      const { pattern, behavior, invert } = step;
      if (behavior !== 'Isolated' && behavior !== 'Removed') return unsupported(', with behavior Isolated or Removed');
      if (!isJson(pattern)) return unsupported(', with a pattern');
      const { Regex: regex, String: literal } = pattern;
      if (typeof regex !== 'string') return typeof literal === 'string' && invert !== true ? step : unsupported(', with a pattern');
      // Isolated pieces are the same whichever way round; the library would drop what does not match.
      return { ...step, pattern: { Regex: pinUnicode(regex, where) }, invert: behavior === 'Removed' && invert === true };
    }
    case 'Digits':
      return isolate(step['individual_digits'] === true ? String.raw`\p{N}` : String.raw`\p{N}+`);
    case 'Punctuation':
      if ((step['behavior'] ?? 'Isolated') !== 'Isolated') return unsupported(', with behavior Isolated');
      return isolate(`[${ASCII_PUNCTUATION}${String.raw`\p{P}`}]`);
    case 'ByteLevel': {
      if (step['add_prefix_space'] === true) return unsupported(' without add_prefix_space');
      const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
      return step['use_regex'] === false ? bytes : { type: 'Sequence', pretokenizers: [isolate(BYTE_LEVEL_PATTERN), bytes] };
    }
    default:
      return unsupported('');
  }
}

function pinNormalizer(normalizer: unknown, fail: Fail): ((text: string) => string) | null {
  if (normalizer === null) return null;
  if (isJson(normalizer) && normalizer['type'] === 'NFC') return nfc;
  if (isJson(normalizer) && normalizer['type'] === 'Sequence' && Array.isArray(normalizer['normalizers'])) {
    const steps = normalizer['normalizers'].map((step) => pinNormalizer(step, fail)).filter((step) => step !== null);
    return steps.length === 0 ? null : (text) => steps.reduce((soFar, step) => step(soFar), text);
  }
  return fail('normalizer', 'none or NFC: others would follow the Unicode tables of the engine', normalizer);
}

/** GPT-2's letters for the 256 bytes: printable Latin-1 stands for itself, the rest for U+0100 and up in order. */
export const BYTE_LETTERS: readonly string[] = (() => {
  const printable = (byte: number) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
})();

const isJson = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value);
const isTokenId = (value: unknown): value is number => Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 0xffff_ffff;
const isAddedToken = (value: unknown): value is AddedToken =>
  isJson(value) &&
  isTokenId(value['id']) &&
  typeof value['content'] === 'string' &&
  value['content'] !== '' &&
  typeof (value['special'] ?? false) === 'boolean';
