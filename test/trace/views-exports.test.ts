/** Traces as other tools read them: Perfetto's trace events by their structure, a sequence diagram by Mermaid's grammar. */
import { copyFileSync, truncateSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { actsOf, type TracedAct } from '../../src/trace/acts.ts';
import { inCausalOrder } from '../../src/trace/causal-order.ts';
import { parseRunHeader, type RunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { mermaidLines, RequestMessages } from '../../src/trace/views/mermaid.ts';
import { PerfettoEvents } from '../../src/trace/views/perfetto.ts';
import type { RequestLife } from '../../src/trace/views/request-life.ts';
import { RequestLives } from '../../src/trace/views/request-lives.ts';
import { traceFolder } from './files.ts';
import { recordDeaths, recordHandoffs, recordLive, recordPreemptions } from './recorded-runs.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

type Event = {
  readonly ph: string;
  readonly pid: number;
  readonly tid?: number;
  readonly ts: number;
  readonly name?: string;
  readonly cat?: string;
  readonly id?: number;
  readonly args?: { readonly [name: string]: unknown };
};

function read(path: string): { readonly header: RunHeader; readonly acts: readonly TracedAct[] } {
  using reader = TraceReader.open(path);
  return { header: parseRunHeader(reader.header, path), acts: [...inCausalOrder(actsOf(reader))] };
}

function eventsOf({ header, acts }: ReturnType<typeof read>): Event[] {
  const events = new PerfettoEvents(header);
  for (const act of acts) events.feed(act);
  events.end();
  return events.takeLines().map((line) => JSON.parse(line) as Event);
}

type Slice = { readonly name: string; readonly from: number; readonly to: number };
const trackOf = ({ pid, tid }: Event): string => `${pid}/${tid}`;

/** The slices of each track; throws where they do not nest, or time goes back. */
function slicesOf(events: readonly Event[]): Map<string, Slice[]> {
  const [open, slices, clocks] = [new Map<string, Event[]>(), new Map<string, Slice[]>(), new Map<string, number>()];
  for (const event of events.filter(({ ph }) => ph === 'B' || ph === 'E')) {
    const track = trackOf(event);
    if (event.ts < (clocks.get(track) ?? 0)) throw new Error(`${track}: time goes back to ${event.ts}`);
    clocks.set(track, event.ts);
    const stack = open.get(track) ?? [];
    open.set(track, stack);
    if (event.ph === 'B') stack.push(event);
    else {
      const begun = stack.pop();
      if (begun === undefined) throw new Error(`${track}: a slice ends that has not begun, at ${event.ts}`);
      const list = slices.get(track) ?? [];
      slices.set(track, list);
      list.push({ name: begun.name ?? '', from: begun.ts, to: event.ts });
    }
  }
  expect([...open.values()].flat()).toEqual([]);
  return slices;
}

const RUNS = [
  ['a virtual run with preemptions', recordPreemptions],
  ['a virtual run of prefill and decode apart', recordHandoffs],
  ['a live run', recordLive],
  ['a live run whose workers die', recordDeaths],
] as const;

describe.each(RUNS)('Perfetto’s events of %s', (name, record) => {
  const path = folder.file(`${name.replaceAll(' ', '-')}.trace`);
  let run: ReturnType<typeof read>;
  let events: Event[];
  let slices: Map<string, Slice[]>;
  beforeAll(async () => {
    await record(path);
    run = read(path);
    events = eventsOf(run);
    slices = slicesOf(events);
  });

  it('hold a named track for each NPU and each choice of a request', () => {
    const names = events.flatMap(({ name, args }) => (name === 'thread_name' ? [args?.['name']] : []));
    expect(new Set(names).size).toBe(names.length);
    for (let npu = 0; npu < run.header.npus; npu++) expect(names).toContain(`npu/${npu}`);
    const choices = run.acts.flatMap(({ act: { message } }) => (message?.type === 'SUBMIT' ? message.sequences : []));
    expect(names.filter((name) => String(name).startsWith('request/'))).toHaveLength(choices.length);
    expect(new Set(slices.keys()).size).toBe(names.length);
  });

  it('hold slices that begin and end, nest and follow each other in time, a step and a phase each', () => {
    const planned = run.acts.filter(({ act: { message } }) => message?.type === 'STEP').length;
    const steps = [...slices].filter(([track]) => track.startsWith('1/')).flatMap(([, of]) => of.filter(({ name }) => name.startsWith('step ')));
    // The last step of a worker that dies ends with its successor's birth, if it comes to one.
    if (name !== 'a live run whose workers die') expect(steps).toHaveLength(planned);
    expect(steps.length).toBeGreaterThan(10);
    const phases = new Set(events.flatMap(({ ph, cat, pid }) => (ph === 'B' && pid === 2 ? [cat] : [])));
    for (const phase of ['life', 'control', 'queued', 'prefill', 'decode', ...(name.includes('preempt') ? ['preempted', 'recompute'] : [])])
      expect(phases).toContain(phase);
  });

  it('hold an instant for every message, with its step of the trace', () => {
    const instants = events.filter(({ ph }) => ph === 'i');
    const shown = new Set(instants.map(({ args }) => args?.['step']));
    const isShown = ({ to, message }: ActRecord): boolean =>
      message !== null && message.type !== 'TOKENS' && !to.startsWith('frontend/') && !/^(?:request|job|task)\//.test(to);
    expect(run.acts.filter(({ act, index }) => isShown(act) && !shown.has(index))).toEqual([]);
    expect(instants.some(({ name }) => name === 'TOKENS')).toBe(true);
  });

  it('hold arrows with two ends, forward in time, each end within a slice of its track', () => {
    const starts = events.filter(({ ph }) => ph === 's');
    const ends = new Map(events.filter(({ ph }) => ph === 'f').map((event) => [event.id, event]));
    expect(starts.length).toBeGreaterThan(50);
    expect(ends.size).toBe(starts.length);
    expect(new Set(starts.map(({ id }) => id)).size).toBe(starts.length);
    const isWithin = (event: Event): boolean => (slices.get(trackOf(event)) ?? []).some(({ from, to }) => from <= event.ts && event.ts <= to);
    const isTied = (start: Event): boolean => {
      const end = ends.get(start.id);
      return end !== undefined && end.name === start.name && end.ts >= start.ts && isWithin(start) && isWithin(end);
    };
    expect(starts.filter((start) => !isTied(start))).toEqual([]);
  });

  it('count open requests up from 0 and down to 0 again', () => {
    const counts = events.flatMap(({ ph, name, args }) => (ph === 'C' && name === 'open requests' ? [args?.['requests'] as number] : []));
    expect(Math.max(...counts)).toBeGreaterThan(1);
    expect(counts.at(-1)).toBe(0);
    expect(counts.every((count) => count >= 0)).toBe(true);
  });
});

describe('Perfetto’s events of a trace that ends too early', () => {
  it('are balanced all the same', () => {
    const path = folder.file('short.trace');
    copyFileSync(folder.file('a-live-run.trace'), path);
    truncateSync(path, 20_000);
    expect(slicesOf(eventsOf(read(path))).size).toBeGreaterThan(5);
  });
});

// ── Mermaid ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function diagramOf({ header, acts }: ReturnType<typeof read>, request: number): { readonly lines: string[]; readonly life: RequestLife } {
  const messages = new RequestMessages(request);
  const lives = new RequestLives(header.options, { keepsEvents: (id) => id === request });
  for (const { act } of acts) {
    messages.feed(act);
    const life = lives.feed(act);
    if (life?.request === `request/${request}`) return { lines: mermaidLines(life, messages), life };
  }
  throw new Error(`request/${request} does not end`);
}

/** What Mermaid takes of a sequence diagram, as far as these use it. */
const LINES: readonly RegExp[] = [
  /^ {2}autonumber$/,
  /^ {2}participant p\d+ as [\w./-]+(?: \((?:prefill|decode)\))?$/,
  /^ +(p\d+)-->>(p\d+): KV[^;#]+$/,
  /^ +(p\d+)->>(p\d+): [^;#]+$/,
  /^ {2}Note (?:over|right of) (p\d+): [^;#]+$/,
  /^ {2}loop [^;#]+$/,
  /^ {2}end$/,
];

describe.each(RUNS.map(([name]) => name))('sequence diagrams of %s', (name) => {
  it('are what Mermaid takes: participants first, loops that end, no mark of its own in a text', () => {
    const run = read(folder.file(`${name.replaceAll(' ', '-')}.trace`));
    const requests = run.acts.flatMap(({ act: { message } }) => (message?.type === 'SUBMIT' ? [message.sequences[0]?.request ?? 0] : []));
    let loops = 0;
    for (const request of requests) {
      const { lines, life } = diagramOf(run, request);
      expect(lines[0]).toBe('sequenceDiagram');
      const participants = new Set(lines.flatMap((line) => /^ {2}participant (p\d+) /.exec(line)?.[1] ?? []));
      let depth = 0;
      for (const line of lines.slice(1)) {
        const match = LINES.map((pattern) => pattern.exec(line)).find((found) => found !== null);
        if (match === undefined || match === null) throw new Error(`no line of a sequence diagram: ${line}`);
        if (!match.slice(1).every((participant) => participants.has(participant))) throw new Error(`a participant is missing: ${line}`);
        if (/^ {2}(?:loop|end)\b/.test(line)) {
          depth += line.startsWith('  loop') ? 1 : -1;
          loops++;
        }
        if (depth < 0 || depth > 1) throw new Error(`loops do not end: ${line}`);
      }
      expect(depth).toBe(0);
      expect(lines.at(-1)).toContain(`${life.ending} after`);
      expect(lines.filter((line) => line.endsWith(': SUBMIT'))).toHaveLength(1);
      expect(lines.filter((line) => line.endsWith(': REQUEST_ENDED'))).toHaveLength(1);
    }
    expect(loops).toBeGreaterThan(0);
  });
});
