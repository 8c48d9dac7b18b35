import { readFileSync } from 'node:fs';
import { Tokenizer as BpeTokenizer } from '@huggingface/tokenizers';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { nfc } from '../../src/model/nfc.ts';
import { defineTokenizer } from '../../src/model/tokenizer-definition.ts';
import { inversionListOf, pinUnicode } from '../../src/model/unicode-classes.ts';
import { PROPERTIES, UNICODE_VERSION } from '../../src/model/unicode-tables.ts';
import { runs } from '../property-runs.ts';
import { readJson, TINY } from './checkpoint-folder.ts';
import { BINARY_PROPERTIES, engineMembers, GENERAL_CATEGORIES, generate, inversionList, SCRIPTS } from './generate-unicode-tables.ts';

const pinnedUnassigned = membership('Cn');
const engineUnassigned = engineMembers('Cn');
const bothKnow = (codePoint: number) => !pinnedUnassigned(codePoint) && engineUnassigned[codePoint] === 0;
/** What `process.versions.unicode` says is Node's answer on Deno too. */
const sameUnicode = inversionList((codePoint) => pinnedUnassigned(codePoint) !== (engineUnassigned[codePoint] === 1)).length === 0;

/** A test for membership in a pinned property. */
function membership(property: string): (codePoint: number) => boolean {
  const inside = new Uint8Array(0x11_0000);
  const list = inversionListOf(property) ?? [];
  for (let at = 0; at < list.length; at += 2) inside.fill(1, list[at], list[at + 1]);
  return (codePoint) => inside[codePoint] === 1;
}

/** Patterns of published tokenizers, with what is in them that JavaScript has not. */
const PATTERNS = {
  deepseek: [
    '\\p{N}{1,3}',
    '[一-龥぀-ゟ゠-ヿ]+',
    '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
  ],
  qwen: ["(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"],
  kimi: [
    '[\\p{Han}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
  ],
} as const;

/** All that the patterns ask for. */
const PATTERN_PROPERTIES = ['L', 'Lu', 'Ll', 'Lt', 'Lm', 'Lo', 'M', 'N', 'P', 'S', 'Han', 'White_Space'];
const engineListOf = (property: string): number[] => {
  const members = engineMembers(property === 'Han' ? 'Script=Han' : property);
  return inversionList((codePoint) => members[codePoint] === 1);
};
/** Where such a property begins or ends, as pinned or as the engine has it, and all of ASCII: between two of them all characters are of the same classes. */
const BORDERS = [
  ...new Set([...Array(0x80).keys(), ...PATTERN_PROPERTIES.flatMap((property) => [...(inversionListOf(property) ?? []), ...engineListOf(property)])]),
]
  .flatMap((border) => [border - 1, border])
  .filter((codePoint) => codePoint >= 0 && codePoint <= 0x10_ffff && bothKnow(codePoint) && (codePoint < 0xd800 || codePoint > 0xdfff));

const base = readJson(TINY['tiny-deepseek-v3'], 'tokenizer.json');
const withPatterns = (patterns: readonly string[]) => ({
  ...base,
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [
      ...patterns.map((Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false })),
      { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
    ],
  },
});
const pinned = (json: unknown) => new BpeTokenizer(defineTokenizer(json, 'tokenizer.json').json, {});

type Step = { readonly pattern?: RegExp | null; readonly tokenizers?: readonly Step[]; readonly use_regex?: boolean };
const compiledPatterns = (step: Step): RegExp[] => [
  ...(step.tokenizers ?? []).flatMap(compiledPatterns),
  ...(step.pattern instanceof RegExp && step.use_regex !== false ? [step.pattern] : []),
];

describe('pinned patterns', () => {
  it.each(['the shipped tokenizer', ...Object.keys(PATTERNS)])('should ask nothing of the engine: %s', (name) => {
    const patterns = PATTERNS[name as keyof typeof PATTERNS];
    const bpe = pinned(patterns === undefined ? base : withPatterns(patterns));
    const compiled = compiledPatterns(bpe.pre_tokenizer as unknown as Step);
    expect(compiled.length).toBe(patterns?.length ?? 1);
    // \s in JavaScript is a fixed list but for Zs, so it is refused too; [\s\S] is any code point on every engine.
    for (const { source, flags } of compiled) {
      expect(source.replaceAll('[\\s\\S]', '')).not.toMatch(/\\[pPsSwWdDbB]/);
      expect(flags).not.toContain('i');
    }
  });

  it('should split code points that engines disagree on by the pinned tables alone', () => {
    const bpe = pinned(base);
    const letter = membership('L');
    // U+088F, U+1C89 and U+A7DA came with Unicode 17 and 16; U+323B0 with 17; U+0378 is in none.
    expect([0x1c89, 0xa7da, 0x088f, 0x323b0, 0x0378].map(letter)).toEqual([true, true, true, true, false]);
    const pieces = (text: string) => (bpe.pre_tokenizer as unknown as (text: string) => string[])(text).length;
    expect(pieces('a\u1c89b')).toBe(1);
    expect(pieces('a\u0378b')).toBe(3);
  });

  it.each(Object.entries(PATTERNS))('should split like the library does what the engine knows too: %s', { timeout: 60_000 }, (_, patterns) => {
    const ours = pinned(withPatterns(patterns));
    const library = new BpeTokenizer(withPatterns(patterns), {});
    const split = (bpe: BpeTokenizer, text: string) => (bpe.pre_tokenizer as unknown as (text: string) => string[])(text);
    for (let at = 0; at < BORDERS.length; at += 512) {
      const text = BORDERS.slice(at, at + 512)
        .map((codePoint) => `x${String.fromCodePoint(codePoint)}1`)
        .join('');
      expect(split(ours, text)).toEqual(split(library, text));
    }
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'aZ09 \n\r\t\'sSé中\u0301_!"\u00a0\u0085ー') }), (text) => {
        expect(split(ours, text)).toEqual(split(library, text));
      }),
      { numRuns: runs(500) },
    );
  });

  it('should spell out negated properties and refuse what is not pinned', () => {
    expect(pinUnicode('\\S', 'x')).toBe(pinUnicode('\\P{White_Space}', 'x'));
    expect(pinUnicode('[\\s]\\\\p{L}', 'x')).toMatch(/\\\\p\{L\}$/);
    for (const pattern of ['\\bx', '[[:alpha:]]', '\\p{Emoji}', '\\W']) expect(() => pinUnicode(pattern, 'file: field')).toThrow(/^file: field: /);
  });
});

describe('the pinned tables', () => {
  it('should be those that the generator writes', { timeout: 60_000 }, () => {
    // Compared outside expect: its report would be the whole file.
    const bare = (text: string) => text.replaceAll(/\s+/g, '');
    const written = readFileSync(new URL('../../src/model/unicode-tables.ts', import.meta.url), 'utf8');
    if (sameUnicode) expect(bare(written) === bare(generate()), `run generate-unicode-tables.ts --write on a Node with Unicode ${UNICODE_VERSION}`).toBe(true);
    expect(Object.keys(PROPERTIES)).toEqual([...GENERAL_CATEGORIES, ...BINARY_PROPERTIES, ...SCRIPTS]);
  });

  it('should agree with any engine on code points that both know', () => {
    for (const property of ['L', 'N', 'P', 'S', 'M', 'White_Space']) {
      const ours = membership(property);
      const engine = engineMembers(property);
      expect(inversionList((codePoint) => bothKnow(codePoint) && ours(codePoint) !== (engine[codePoint] === 1))).toEqual([]);
    }
  });
});

describe('nfc', () => {
  const assigned = (text: string) => [...text].every((character) => bothKnow(character.codePointAt(0) ?? 0));
  const marks = [...Array(0x11_0000).keys()]
    .filter((codePoint) => /\p{M}/u.test(String.fromCodePoint(codePoint)))
    .map((codePoint) => String.fromCodePoint(codePoint));
  const known = marks.filter(assigned);

  it('should agree with the engine on every code point and its decomposition', () => {
    const different: string[] = [];
    for (let codePoint = 0; codePoint < 0x11_0000; codePoint++) {
      const character = String.fromCodePoint(codePoint);
      if ((codePoint >= 0xd800 && codePoint <= 0xdfff) || !assigned(character)) continue;
      const decomposed = character.normalize('NFD');
      if (nfc(character) !== character.normalize('NFC') || nfc(decomposed) !== decomposed.normalize('NFC')) different.push(codePoint.toString(16));
    }
    expect(different).toEqual([]);
  });

  it('should agree with the engine on any sequence of marks, Hangul and letters', () => {
    const unit = fc.oneof(
      fc.constantFrom(...known),
      fc.integer({ min: 0x1100, max: 0x11ff }).map((c) => String.fromCodePoint(c)),
      fc.constantFrom(...'aeoAΩωא가각ạ한が'),
      // A lone half of a pair is no character, and `assigned` leaves it out.
      fc.integer({ min: 0, max: 0x10_ffff }).map((c) => String.fromCodePoint(c)),
    );
    fc.assert(
      fc.property(
        fc.array(unit, { maxLength: 8 }).map((units) => units.join('')),
        (text) => {
          fc.pre(assigned(text));
          expect(nfc(text)).toBe(text.normalize('NFC'));
        },
      ),
      { numRuns: runs(2_000) },
    );
  });
});
