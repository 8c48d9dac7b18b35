/**
 * The page's model: what lies where, and what is found. It runs in the browser, by its own source text: it may name nothing outside itself but types.
 * @module
 */
import type { PageData } from './data.ts';

export type Lane = {
  readonly name: string;
  readonly group: number;
  /** Rows, in order of time. */
  readonly slices: readonly number[];
  readonly acts: readonly number[];
};

export type Timeline = ReturnType<typeof openTimeline>;

export function openTimeline({ texts, lanes, acts, slices, parts, run }: PageData) {
  const text = (id: number | undefined): string => texts[id ?? -1] ?? '';
  const at = (column: readonly number[], row: number): number => column[row] ?? 0;

  const byLane = (column: readonly number[], order: readonly number[]): number[][] => {
    const rows: number[][] = lanes.name.map(() => []);
    for (let row = 0; row < column.length; row++) rows[at(column, row)]?.push(row);
    for (const list of rows) list.sort((a, b) => at(order, a) - at(order, b) || a - b);
    return rows;
  };
  const [sliceRows, actRows] = [byLane(slices.lane, slices.from), byLane(acts.lane, acts.time)];

  const inOrder = lanes.name.map((_, lane) => lane).sort((a, b) => at(lanes.group, a) - at(lanes.group, b) || at(lanes.order, a) - at(lanes.order, b));
  const shown: Lane[] = inOrder.map((lane) => ({
    name: text(lanes.name[lane]),
    group: at(lanes.group, lane),
    slices: sliceRows[lane] ?? [],
    acts: actRows[lane] ?? [],
  }));
  const placeOf = new Map(inOrder.map((lane, place) => [lane, place]));

  let [first_us, last_us] = [Number.POSITIVE_INFINITY, 0];
  for (const time of acts.time) {
    first_us = Math.min(first_us, time);
    last_us = Math.max(last_us, time);
  }
  if (first_us > last_us) first_us = 0;
  // What happens before the first request is the pod's start: seconds of it would leave the run a sliver.
  let busy_us = last_us;
  for (const from of slices.from) busy_us = Math.min(busy_us, from);

  /** The first row of a lane's list whose value is not below. */
  const lowerBound = (rows: readonly number[], column: readonly number[], value: number): number => {
    let [low, high] = [0, rows.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (at(column, rows[middle] ?? 0) < value) low = middle + 1;
      else high = middle;
    }
    return low;
  };

  const sliceAt = (place: number, time: number): number | null => {
    const rows = shown[place]?.slices ?? [];
    const row = rows[lowerBound(rows, slices.from, time + 1e-9) - 1];
    return row !== undefined && at(slices.to, row) >= time ? row : null;
  };

  /** The nearest within `reach`. */
  const actAt = (place: number, time: number, reach: number): number | null => {
    const rows = shown[place]?.acts ?? [];
    const index = lowerBound(rows, acts.time, time);
    let [best, distance]: [number | null, number] = [null, reach];
    for (const row of [rows[index - 1], rows[index]]) {
      if (row === undefined || Math.abs(at(acts.time, row) - time) > distance) continue;
      distance = Math.abs(at(acts.time, row) - time);
      best = row;
    }
    return best;
  };

  /** Texts are matched once each, not once a message. */
  let lowered: string[] | null = null;
  const textsWith = (word: string): Uint8Array => {
    lowered ??= texts.map((text) => text.toLowerCase());
    return Uint8Array.from(lowered, (text) => (text.includes(word) ? 1 : 0));
  };

  /** Rows that hold all words, in order of time. A word like request/7 is an actor's whole name; all others match anywhere. */
  const search = (query: string): number[] => {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length === 0) return [];
    const isActor = (word: string): boolean => /^[a-z-]+\/[\d.]+$/.test(word);
    const actors = words.filter(isActor).map((word) => texts.indexOf(word));
    const others = words.filter((word) => !isActor(word)).map(textsWith);
    const found: number[] = [];
    for (let row = 0; row < acts.time.length; row++) {
      const [from, to] = [at(acts.from, row), at(acts.to, row)];
      if (!actors.every((actor) => from === actor || to === actor)) continue;
      const [type, state, content] = [at(acts.type, row), at(acts.state, row), at(acts.content, row)];
      if (others.every((has) => has[from] || has[to] || has[type] || has[state] || has[content])) found.push(row);
    }
    return found.sort((a, b) => at(acts.time, a) - at(acts.time, b) || a - b);
  };

  /** What led to it, the nearest first. */
  const causesOf = (row: number): number[] => {
    const chain: number[] = [];
    for (let cause = acts.cause[row] ?? -1; cause >= 0 && chain.length < 24; cause = acts.cause[cause] ?? -1) chain.push(cause);
    return chain;
  };

  let children: Map<number, number[]> | null = null;
  const consequencesOf = (row: number): readonly number[] => {
    if (children === null) {
      children = new Map();
      acts.cause.forEach((cause, effect) => {
        const list = children?.get(cause);
        if (list === undefined) children?.set(cause, [effect]);
        else list.push(effect);
      });
    }
    return children.get(row) ?? [];
  };

  /** How much of a step's sequences were in prefill, in decode and in recompute. */
  const mixOf = (row: number): readonly [number, number, number] => {
    const [first, count] = [at(slices.part, row), at(slices.parts, row)];
    const counts: [number, number, number] = [0, 0, 0];
    for (let part = first; part < first + count; part++) {
      const kind = at(parts.kind, part) - 2;
      if (kind === 0 || kind === 1 || kind === 2) counts[kind] += 1 / count;
    }
    return counts;
  };

  return {
    run,
    lanes: shown,
    first_us,
    last_us,
    busy_us,
    acts: {
      count: acts.time.length,
      time: (row: number) => at(acts.time, row),
      place: (row: number) => placeOf.get(at(acts.lane, row)) ?? 0,
      cause: (row: number) => acts.cause[row] ?? -1,
      record: (row: number) => at(acts.record, row),
      from: (row: number) => text(acts.from[row]),
      to: (row: number) => text(acts.to[row]),
      type: (row: number) => text(acts.type[row]),
      state: (row: number) => text(acts.state[row]),
      content: (row: number) => text(acts.content[row]),
    },
    slices: {
      count: slices.from.length,
      from: (row: number) => at(slices.from, row),
      to: (row: number) => at(slices.to, row),
      kind: (row: number) => at(slices.kind, row),
      place: (row: number) => placeOf.get(at(slices.lane, row)) ?? 0,
      text: (row: number) => text(slices.text[row]),
      mix: mixOf,
      parts: (row: number) =>
        Array.from({ length: at(slices.parts, row) }, (_, index) => {
          const part = at(slices.part, row) + index;
          return {
            request: at(parts.request, part),
            choice: at(parts.choice, part),
            kind: at(parts.kind, part),
            start: at(parts.start, part),
            tokens: at(parts.tokens, part),
          };
        }),
    },
    /** The lane's rows of slices that touch the window; of acts in it. */
    slicesFrom: (place: number, from_us: number): number => Math.max(0, lowerBound(shown[place]?.slices ?? [], slices.from, from_us) - 1),
    actsFrom: (place: number, from_us: number): number => lowerBound(shown[place]?.acts ?? [], acts.time, from_us),
    sliceAt,
    actAt,
    search,
    causesOf,
    consequencesOf,
  };
}

/** `12.345 ms`, as short as the span it is shown in allows. */
export function timeText(us: number, span_us: number): string {
  if (span_us >= 20_000_000) return `${(us / 1e6).toFixed(1)} s`;
  if (span_us >= 2_000_000) return `${(us / 1e6).toFixed(2)} s`;
  if (span_us >= 20_000) return `${(us / 1e3).toFixed(1)} ms`;
  return `${(us / 1e3).toFixed(3)} ms`;
}
