/**
 * Unicode normalisation form C (UAX #15) over pinned tables: `String.prototype.normalize` knows as much as its engine does.
 * Qwen's tokenizers normalise so.
 * @module
 */
import { COMBINING_RANKS, DECOMPOSITIONS } from './unicode-tables.ts';

// Hangul syllables are composed by arithmetic, The Unicode Standard §3.12.
const HANGUL = { syllable: 0xac00, leading: 0x1100, vowel: 0x1161, trailing: 0x11a7, leadings: 19, vowels: 21, trailings: 28 } as const;
const HANGUL_SYLLABLES = HANGUL.leadings * HANGUL.vowels * HANGUL.trailings;

/** Nothing below U+0300 changes or takes part in a change. */
const ALWAYS_NORMAL = /^[\0-\u02ff]*$/;

type Tables = {
  /** Canonical combining class, as a rank; absent: a starter. */
  readonly ranks: ReadonlyMap<number, number>;
  readonly decompositions: ReadonlyMap<number, readonly number[]>;
  /** first · 2²¹ + second → composite */
  readonly compositions: ReadonlyMap<number, number>;
};
let tables: Tables | null = null;

const pairKey = (first: number, second: number): number => first * 2 ** 21 + second;

/** The text in NFC of the pinned Unicode version. Lone surrogates stay as they are. */
export function nfc(text: string): string {
  if (ALWAYS_NORMAL.test(text)) return text;
  tables ??= buildTables();
  const codePoints = compose(order(decompose(text, tables), tables), tables);
  let normal = '';
  for (const codePoint of codePoints) normal += String.fromCodePoint(codePoint);
  return normal;
}

function decompose(text: string, { decompositions }: Tables): number[] {
  const codePoints: number[] = [];
  for (const character of text) {
    const codePoint = character.codePointAt(0) ?? 0;
    const index = codePoint - HANGUL.syllable;
    if (index >= 0 && index < HANGUL_SYLLABLES) {
      const trailing = index % HANGUL.trailings;
      const pair = (index - trailing) / HANGUL.trailings;
      codePoints.push(HANGUL.leading + Math.floor(pair / HANGUL.vowels), HANGUL.vowel + (pair % HANGUL.vowels));
      if (trailing > 0) codePoints.push(HANGUL.trailing + trailing);
    } else codePoints.push(...(decompositions.get(codePoint) ?? [codePoint]));
  }
  return codePoints;
}

/** Sorts every run of marks by class; equal classes keep their order. */
function order(codePoints: number[], { ranks }: Tables): number[] {
  const rank = (codePoint: number | undefined) => ranks.get(codePoint ?? 0) ?? 0;
  for (let start = 0; start < codePoints.length; start++) {
    if (rank(codePoints[start]) === 0) continue;
    let end = start + 1;
    while (end < codePoints.length && rank(codePoints[end]) > 0) end++;
    if (end - start > 1) {
      const run = codePoints.slice(start, end).sort((a, b) => rank(a) - rank(b));
      for (const [at, mark] of run.entries()) codePoints[start + at] = mark;
    }
    start = end;
  }
  return codePoints;
}

/** Joins each mark to the last starter, if nothing between blocks it. */
function compose(codePoints: readonly number[], { ranks, compositions }: Tables): number[] {
  const composed: number[] = [];
  let starterAt = -1;
  let lastRank = 0;
  for (const codePoint of codePoints) {
    const rank = ranks.get(codePoint) ?? 0;
    const starter = composed[starterAt];
    const adjacent = starterAt === composed.length - 1;
    if (starter !== undefined && (adjacent || lastRank < rank)) {
      const composite = composePair(starter, codePoint, compositions);
      if (composite !== undefined) {
        composed[starterAt] = composite;
        continue;
      }
    }
    if (rank === 0) starterAt = composed.length;
    lastRank = rank;
    composed.push(codePoint);
  }
  return composed;
}

function composePair(first: number, second: number, compositions: Tables['compositions']): number | undefined {
  const leading = first - HANGUL.leading;
  const vowel = second - HANGUL.vowel;
  if (leading >= 0 && leading < HANGUL.leadings && vowel >= 0 && vowel < HANGUL.vowels)
    return HANGUL.syllable + (leading * HANGUL.vowels + vowel) * HANGUL.trailings;
  const syllable = first - HANGUL.syllable;
  const trailing = second - HANGUL.trailing;
  if (syllable >= 0 && syllable < HANGUL_SYLLABLES && syllable % HANGUL.trailings === 0 && trailing > 0 && trailing < HANGUL.trailings) return first + trailing;
  return compositions.get(pairKey(first, second));
}

function buildTables(): Tables {
  const base36 = (text: string) => Number.parseInt(text, 36);
  const ranks = new Map<number, number>();
  let start = 0;
  for (const run of COMBINING_RANKS.split(',')) {
    const [delta = 0, length = 0, rank = 0] = run.split(' ').map(base36);
    start += delta;
    for (let at = 0; at < length; at++) ranks.set(start + at, rank);
  }
  const decompositions = new Map<number, readonly number[]>();
  const composites: { readonly composite: number; readonly parts: readonly number[] }[] = [];
  for (const entry of DECOMPOSITIONS.split(',')) {
    const excluded = entry.startsWith('!');
    const [composite = 0, ...parts] = entry
      .slice(excluded ? 1 : 0)
      .split(' ')
      .map(base36);
    decompositions.set(composite, parts);
    if (!excluded) composites.push({ composite, parts });
  }
  // A composite of three is a composite of two and one more: shorter ones first.
  composites.sort((a, b) => a.parts.length - b.parts.length);
  const compositions = new Map<number, number>();
  for (const { composite, parts } of composites) {
    const [first = 0, ...rest] = parts;
    const last = rest.pop() ?? 0;
    const prefix = rest.reduce((joined, part) => compositions.get(pairKey(joined, part)) ?? -1, first);
    if (prefix >= 0) compositions.set(pairKey(prefix, last), composite);
  }
  return { ranks, decompositions, compositions };
}
