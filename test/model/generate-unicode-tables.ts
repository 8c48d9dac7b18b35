/**
 * Writes src/model/unicode-tables.ts from the Unicode tables of the Node that runs it:
 * `node test/model/generate-unicode-tables.ts --write` (Node 24, as pinned in devDependencies). A test holds the file against the engine.
 * @module
 */
import { writeFileSync } from 'node:fs';

const CODE_POINTS = 0x11_0000;
const isSurrogate = (codePoint: number) => codePoint >= 0xd800 && codePoint <= 0xdfff;
const isHangulSyllable = (codePoint: number) => codePoint >= 0xac00 && codePoint <= 0xd7a3;

/** What patterns of published tokenizers use, and all that is as cheap. */
export const GENERAL_CATEGORIES = [
  ...['L', 'Lu', 'Ll', 'Lt', 'Lm', 'Lo', 'M', 'Mn', 'Mc', 'Me', 'N', 'Nd', 'Nl', 'No', 'P', 'Pc', 'Pd', 'Ps', 'Pe', 'Pi', 'Pf', 'Po'],
  ...['S', 'Sm', 'Sc', 'Sk', 'So', 'Z', 'Zs', 'Zl', 'Zp', 'C', 'Cc', 'Cf', 'Cs', 'Co', 'Cn'],
];
export const BINARY_PROPERTIES = ['White_Space', 'Alphabetic', 'Lowercase', 'Uppercase'];
export const SCRIPTS = ['Han', 'Hiragana', 'Katakana', 'Hangul', 'Bopomofo', 'Latin', 'Greek', 'Cyrillic', 'Arabic', 'Hebrew', 'Thai', 'Devanagari'];

/** First code points of runs inside, outside, inside … : an inversion list. */
export function inversionList(contains: (codePoint: number) => boolean): number[] {
  const list: number[] = [];
  for (let codePoint = 0; codePoint < CODE_POINTS; codePoint++) if (contains(codePoint) === (list.length % 2 === 0)) list.push(codePoint);
  return list;
}

/** All characters in order, in two texts: halves of pairs, which lie between, are none. The engine finds runs in them faster than it answers for each. */
const textOf = (start: number, end: number) => Array.from({ length: end - start }, (_, at) => String.fromCodePoint(start + at)).join('');
const [BELOW, ABOVE] = [textOf(0, 0xd800), textOf(0xe000, CODE_POINTS)];

/** Of each code point whether the engine says that it has a property: 1 or 0. */
export function engineMembers(expression: string): Uint8Array {
  const members = new Uint8Array(CODE_POINTS);
  const runs = new RegExp(`\\p{${expression}}+`, 'gu');
  for (const [text, base] of [[BELOW, 0] as const, [ABOVE, 0xe000] as const]) {
    const codePointAt = (unit: number) => (base + unit < 0x1_0000 ? base + unit : 0x1_0000 + (base + unit - 0x1_0000) / 2);
    for (const { 0: run, index } of text.matchAll(runs)) members.fill(1, codePointAt(index), codePointAt(index + run.length));
  }
  const one = new RegExp(`\\p{${expression}}`, 'u');
  for (let half = 0xd800; half < 0xe000; half++) members[half] = one.test(String.fromCharCode(half)) ? 1 : 0;
  return members;
}

const engineProperty = (expression: string) => {
  const members = engineMembers(expression);
  return inversionList((codePoint) => members[codePoint] === 1);
};

const encodeDeltas = (values: readonly number[]): string => values.map((value, at) => (value - (values[at - 1] ?? 0)).toString(36)).join(' ');

/**
 * Canonical combining classes as ranks: normalisation only asks whether a mark sorts before another.
 * The engine tells by what it swaps: a mark of a class is known by which representatives it moves in front of.
 */
function combiningRanks(): [codePoint: number, rank: number][] {
  const decomposed = (text: string) => text.normalize('NFD');
  const swaps = (first: string, second: string) => first !== second && decomposed(first + second) === second + first;
  const representatives: string[] = [];
  const marks: string[] = [];
  for (let codePoint = 0; codePoint < CODE_POINTS; codePoint++) {
    const mark = String.fromCodePoint(codePoint);
    if (isSurrogate(codePoint) || decomposed(mark) !== mark) continue;
    // U+0334 has the lowest class but 0, U+0345 the highest: whatever is a mark swaps with one of them.
    if (!swaps('\u0345', mark) && !swaps(mark, '\u0334') && mark !== '\u0334') continue;
    marks.push(mark);
    if (representatives.every((other) => swaps(other, mark) || swaps(mark, other))) representatives.push(mark);
  }
  representatives.sort((a, b) => (swaps(a, b) ? 1 : -1));
  return marks.map((mark) => {
    const rank = representatives.findIndex((other) => !swaps(other, mark) && !swaps(mark, other));
    return [mark.codePointAt(0) ?? 0, rank + 1];
  });
}

export function generate(): string {
  const properties: Record<string, string> = {};
  for (const category of GENERAL_CATEGORIES) properties[category] = encodeDeltas(engineProperty(`gc=${category}`));
  for (const property of BINARY_PROPERTIES) properties[property] = encodeDeltas(engineProperty(property));
  for (const script of SCRIPTS) properties[script] = encodeDeltas(engineProperty(`Script=${script}`));

  const ranks: string[] = [];
  let last = { start: 0, length: 0, rank: 0 };
  let previousStart = 0;
  const flush = () => {
    if (last.length > 0) ranks.push(`${(last.start - previousStart).toString(36)} ${last.length.toString(36)} ${last.rank.toString(36)}`);
    previousStart = last.start;
  };
  for (const [codePoint, rank] of combiningRanks()) {
    if (rank === last.rank && codePoint === last.start + last.length) last.length++;
    else {
      flush();
      last = { start: codePoint, length: 1, rank };
    }
  }
  flush();

  const decompositions: string[] = [];
  for (let codePoint = 0; codePoint < CODE_POINTS; codePoint++) {
    const character = String.fromCodePoint(codePoint);
    if (isSurrogate(codePoint) || isHangulSyllable(codePoint) || character.normalize('NFD') === character) continue;
    const parts = [...character.normalize('NFD')].map((part) => (part.codePointAt(0) ?? 0).toString(36));
    const excluded = character.normalize('NFC') !== character ? '!' : '';
    decompositions.push(`${excluded}${codePoint.toString(36)} ${parts.join(' ')}`);
  }
  const properties_text = Object.entries(properties).map(([name, list]) => `  ${name}:\n    '${list}',`);
  return `/**
 * Unicode's tables, pinned: engines differ in theirs (Node 24 has 4,644 letters more than Deno 2.9), and tokens must not.
 * Generated by test/model/generate-unicode-tables.ts; not edited by hand.
 * @module
 */

export const UNICODE_VERSION = '${process.versions['unicode']}';

/** General categories, binary properties and scripts as inversion lists, each number relative to the one before, base 36. */
export const PROPERTIES: { readonly [name: string]: string } = {
${properties_text.join('\n')}
};

/** Runs of equal canonical combining class: start (relative), length, rank of the class; base 36. Absent code points: class 0. */
export const COMBINING_RANKS =
  '${ranks.join(',')}';

/** Full canonical decompositions without Hangul's: code point and parts, base 36; ! marks what NFC never composes. */
export const DECOMPOSITIONS =
  '${decompositions.join(',')}';
`;
}

if (process.argv.includes('--write')) writeFileSync(new URL('../../src/model/unicode-tables.ts', import.meta.url), generate());
