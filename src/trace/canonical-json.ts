/**
 * JSON with one spelling for one value, so that equal headers have equal bytes and an equal hash on every runtime.
 *
 * Keys in order of their UTF-16 code units, no spaces, numbers as ECMAScript spells them: RFC 8785 (JCS), but that whatever JSON would bend
 * (NaN, undefined in a list, a Date, a bigint) is an error here.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';

/** Deeper is a cycle, or no header. */
const DEPTH_MAX = 64;

/**
 * `value` in its one spelling. Keys whose value is undefined are left out, as JSON does.
 * @throws `invalid_request` naming the place of what JSON cannot carry.
 */
export const canonicalJson = (value: unknown): string => spell(value, '', 0);

function spell(value: unknown, place: string, depth: number): string {
  if (depth > DEPTH_MAX) throw refused(place, `is nested deeper than ${DEPTH_MAX} levels`);
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw refused(place, `is ${value}`);
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${Array.from(value, (item, i) => spell(item, `${place}[${i}]`, depth + 1)).join(',')}]`;
  if (typeof value !== 'object' || !isPlain(value)) throw refused(place, `is ${typeof value === 'object' ? 'no plain object' : `of type ${typeof value}`}`);
  const fields = Object.entries(value)
    .filter(([, field]) => field !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${fields.map(([key, field]) => `${JSON.stringify(key)}:${spell(field, `${place}.${key}`, depth + 1)}`).join(',')}}`;
}

function isPlain(value: object): boolean {
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype;
}

const refused = (place: string, what: string): MinipodError =>
  new MinipodError('invalid_request', `the trace's header${place && ` at ${place}`} ${what}: it can hold what JSON can`, { param: 'header' });
