/**
 * Rewrites a tokenizer's patterns so that they ask nothing of the engine's Unicode tables.
 * The input is Oniguruma's syntax, as in tokenizer.json; so is the output, with every \p{…}, \s, \d, \w spelled out as code points.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { PROPERTIES, UNICODE_VERSION } from './unicode-tables.ts';

const LONG_NAMES: { readonly [name: string]: string } = {
  Letter: 'L',
  Mark: 'M',
  Number: 'N',
  Punctuation: 'P',
  Symbol: 'S',
  Separator: 'Z',
  Uppercase_Letter: 'Lu',
  Lowercase_Letter: 'Ll',
  Decimal_Number: 'Nd',
  Alpha: 'Alphabetic',
  Space: 'White_Space',
};

/** Oniguruma's meaning of the shorthands: Unicode's, not JavaScript's. */
const SHORTHANDS: { readonly [letter: string]: readonly string[] } = { s: ['White_Space'], d: ['Nd'], w: ['Alphabetic', 'M', 'Nd', 'Pc'] };

const LAST_CODE_POINT = 0x10_ffff;

/** Throws `invalid_checkpoint` for what would need a table that is not pinned. `where` names file and field. */
export function pinUnicode(pattern: string, where: string): string {
  let pinned = '';
  let classDepth = 0;
  for (let at = 0; at < pattern.length; ) {
    const rest = pattern.slice(at, at + 64);
    const property = /^\\([pP])\{(\^?)([^}]*)\}/.exec(rest);
    const shorthand = /^\\([sSdDwW])/.exec(rest);
    const letter = shorthand?.[1] ?? '';
    if (property !== null || shorthand !== null) {
      const negated = property === null ? letter !== letter.toLowerCase() : (property[1] === 'P') !== (property[2] === '^');
      const names = property === null ? (SHORTHANDS[letter.toLowerCase()] ?? []) : [property[3] ?? ''];
      if (negated && names.length > 1) throw unsupported(rest.slice(0, 2), where);
      const ranges = names.map((name) => spellOut(name, negated, where)).join('');
      pinned += classDepth > 0 ? ranges : `[${ranges}]`;
      at += (property ?? shorthand ?? [''])[0].length;
    } else if (/^\\[bByYX]/.test(rest) && classDepth === 0) throw unsupported(rest.slice(0, 2), where);
    else if (/^\[:\^?\w+:\]/.test(rest)) throw unsupported('[:…:]', where);
    else if (rest.startsWith('\\')) {
      pinned += rest.slice(0, 2);
      at += 2;
    } else {
      if (rest[0] === '[') classDepth++;
      else if (rest[0] === ']' && classDepth > 0) classDepth--;
      pinned += rest[0];
      at++;
    }
  }
  return pinned;
}

const unsupported = (what: string, where: string) =>
  new MinipodError('invalid_checkpoint', `${where}: expected a pattern of pinned Unicode classes, found ${what}, which is not supported`);

/** The inside of a character class. */
const spelledOut = new Map<string, string>();
function spellOut(name: string, negated: boolean, where: string): string {
  const key = `${negated}${name}`;
  const known = spelledOut.get(key);
  if (known !== undefined) return known;
  const boundaries = inversionListOf(name);
  if (boundaries === null) throw unsupported(`\\p{${name}} (Unicode ${UNICODE_VERSION}; known: ${Object.keys(PROPERTIES).join(', ')})`, where);
  const starts = negated ? (boundaries[0] === 0 ? boundaries.slice(1) : [0, ...boundaries]) : boundaries;
  let ranges = '';
  for (let at = 0; at < starts.length; at += 2) {
    const first = starts[at] ?? 0;
    const last = (starts[at + 1] ?? LAST_CODE_POINT + 1) - 1;
    ranges += first === last ? escapeOf(first) : `${escapeOf(first)}-${escapeOf(last)}`;
  }
  spelledOut.set(key, ranges);
  return ranges;
}

/**
 * Escaped where the character could be syntax or a line's end, else as it is: V8 reads a pattern's whole source
 * for each `matchAll`, and the escaped form is four times as long (measured on Node 24 with DeepSeek's pattern: 53 against 11 µs).
 */
const escapeOf = (codePoint: number): string => {
  const isPlain = codePoint >= 0x100 && (codePoint < 0xd800 || codePoint > 0xdfff) && codePoint !== 0x2028 && codePoint !== 0x2029;
  return isPlain ? String.fromCodePoint(codePoint) : `\\u{${codePoint.toString(16)}}`;
};

/** First code points of runs inside, outside, inside … a property; null if it is not pinned. */
export function inversionListOf(property: string): number[] | null {
  const bare = property.replace(/^(?:gc|General_Category|sc|Script)=/, '');
  const name = LONG_NAMES[bare] ?? bare;
  if (!Object.hasOwn(PROPERTIES, name)) return null;
  let sum = 0;
  return (PROPERTIES[name] ?? '').split(' ').map((delta) => (sum += Number.parseInt(delta, 36)));
}
