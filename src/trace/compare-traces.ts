/**
 * Two traces side by side: the first difference, then what differs in sum.
 * @module
 */
import type { Role } from '../protocol/address.ts';
import { actsOf, type Pause, type TracedAct } from './acts.ts';
import { canonicalJson } from './canonical-json.ts';
import type { TraceDamage } from './damage.ts';
import { isSameEnd, type RequestEnd, RequestEnds } from './request-ends.ts';
import type { TraceReader } from './trace-reader.ts';
import { TraceTally } from './trace-tally.ts';

export type HeaderDifference = { readonly field: string; readonly a: unknown; readonly b: unknown };

/** `fields`: what differs in the two acts; one of them is null where its trace has ended. */
export type ActDifference = { readonly record: number; readonly fields: readonly string[]; readonly a: TracedAct | null; readonly b: TracedAct | null };

type Sum = { readonly acts: number; readonly duration_us: number; readonly damage: TraceDamage | null };

export type TraceComparison = {
  readonly is_equal: boolean;
  readonly header: readonly HeaderDifference[];
  readonly first: ActDifference | null;
  readonly a: Sum;
  readonly b: Sum;
  /** Messages that one trace has more of. */
  readonly counts: readonly { readonly role: Role; readonly type: string; readonly a: number; readonly b: number }[];
  /** Requests that ended otherwise, or in one trace only; the first of them. */
  readonly ends: readonly { readonly request: string; readonly a: RequestEnd | null; readonly b: RequestEnd | null }[];
  readonly ends_total: number;
};

/** Requests that are named; more of them are counted. */
const ENDS_MAX = 20;

/** Acts are compared one by one, in the order of the files. Memory grows with the requests that ended in one trace and not yet in the other. */
export async function compareTraces(a: TraceReader, b: TraceReader, pause?: Pause): Promise<TraceComparison> {
  const passes = { a: actsOf(a), b: actsOf(b) };
  const walks = { a: passes.a[Symbol.iterator](), b: passes.b[Symbol.iterator]() };
  const tallies = { a: new TraceTally(), b: new TraceTally() };
  const ends = new EndsComparison();
  let first: ActDifference | null = null;
  for (;;) {
    const [left, right] = [walks.a.next().value ?? null, walks.b.next().value ?? null];
    if (left === null && right === null) break;
    const waiting = pause?.((left ?? right)?.offset ?? 0);
    if (waiting) await waiting;
    first ??= differenceOf(left, right);
    for (const [side, traced] of [
      ['a', left],
      ['b', right],
    ] as const) {
      if (traced === null) continue;
      tallies[side].add(traced.act);
      ends.add(side, traced);
    }
  }
  const header = headerDifferences(a.header, b.header);
  const [damageA, damageB] = [passes.a.damage, passes.b.damage];
  return {
    is_equal: first === null && header.length === 0 && damageA === null && damageB === null && passes.a.stopped === passes.b.stopped,
    header,
    first,
    a: { acts: tallies.a.acts, duration_us: tallies.a.duration_us, damage: damageA },
    b: { acts: tallies.b.acts, duration_us: tallies.b.duration_us, damage: damageB },
    counts: countDifferences(tallies.a, tallies.b),
    ...ends.result(),
  };
}

function differenceOf(a: TracedAct | null, b: TracedAct | null): ActDifference | null {
  if (a !== null && b !== null && Buffer.compare(a.bytes, b.bytes) === 0) return null;
  const record = (a ?? b)?.index ?? 0;
  if (a === null || b === null) return { record, fields: [], a, b };
  const [left, right] = [fieldsOf(a), fieldsOf(b)];
  return { record, fields: Object.keys({ ...left, ...right }).filter((field) => left[field] !== right[field]), a, b };
}

const fieldsOf = ({ act }: TracedAct): { readonly [field: string]: string } =>
  Object.fromEntries(Object.entries(act).map(([field, value]) => [field, JSON.stringify(value)]));

/** Leaf by leaf: `options.kv_blocks`. */
function headerDifferences(a: unknown, b: unknown, path = ''): HeaderDifference[] {
  if (isObject(a) && isObject(b))
    return Object.keys({ ...a, ...b })
      .sort()
      .flatMap((key) => headerDifferences(a[key], b[key], path === '' ? key : `${path}.${key}`));
  return a === b || canonicalJson({ value: a }) === canonicalJson({ value: b }) ? [] : [{ field: path, a: a ?? null, b: b ?? null }];
}

const isObject = (value: unknown): value is { readonly [key: string]: unknown } => typeof value === 'object' && value !== null && !Array.isArray(value);

function countDifferences(a: TraceTally, b: TraceTally): TraceComparison['counts'] {
  const keyed = (tally: TraceTally) => new Map(tally.types.map((row) => [`${row.role} ${row.type}`, row]));
  const [left, right] = [keyed(a), keyed(b)];
  return [...new Set([...left.keys(), ...right.keys()])].sort().flatMap((key) => {
    const row = left.get(key) ?? right.get(key);
    const [inA, inB] = [left.get(key)?.acts ?? 0, right.get(key)?.acts ?? 0];
    return row === undefined || inA === inB ? [] : [{ role: row.role, type: row.type, a: inA, b: inB }];
  });
}

type Side = 'a' | 'b';
type Difference = TraceComparison['ends'][number];

class EndsComparison {
  readonly #ends = { a: new RequestEnds(), b: new RequestEnds() };
  /** Ended in one trace only, so far. */
  readonly #alone = { a: new Map<string, RequestEnd>(), b: new Map<string, RequestEnd>() };
  readonly #different: Difference[] = [];
  #total = 0;

  add(side: Side, { act }: TracedAct): void {
    const ended = this.#ends[side].add(act);
    if (ended === null) return;
    const { request, end } = ended;
    const other = this.#alone[side === 'a' ? 'b' : 'a'];
    const there = other.get(request);
    if (there === undefined) this.#alone[side].set(request, end);
    else {
      other.delete(request);
      if (!isSameEnd(end, there)) this.#note(side === 'a' ? { request, a: end, b: there } : { request, a: there, b: end });
    }
  }

  result(): Pick<TraceComparison, 'ends' | 'ends_total'> {
    for (const [request, a] of this.#alone.a) this.#note({ request, a, b: null });
    for (const [request, b] of this.#alone.b) this.#note({ request, a: null, b });
    return { ends: this.#different, ends_total: this.#total };
  }

  #note(difference: Difference): void {
    this.#total++;
    if (this.#different.length < ENDS_MAX) this.#different.push(difference);
  }
}
