/**
 * What the page shows, gathered act by act: columns of numbers, and each text once.
 * @module
 */
import { type Address, idOf } from '../../../protocol/address.ts';
import { type Message, taskId } from '../../../protocol/messages.ts';
import { callOf } from '../../../protocol/request-ids.ts';
import type { TracedAct } from '../../acts.ts';
import type { RunHeader } from '../../run-header.ts';
import type { PhaseSlice } from '../choice-track.ts';
import { DpGroups } from '../dp-groups.ts';
import type { StepEvent } from '../npu-steps.ts';
import { contentsOf } from '../perfetto.ts';
import { RecentActs } from '../recent-acts.ts';
import { RequestLives } from '../request-lives.ts';
import { type Track, trackOf } from '../tracks.ts';

/** A browser draws and searches these without a pause that a person would notice, and the page stays below about 10 MB. */
export const PAGE_ACTS_MAX = 200_000;

/** A slice's `kind` is an index: phases of a choice, then a step of an NPU. */
export const SLICE_KINDS = [
  'control',
  'queued',
  'prefill',
  'decode',
  'recompute',
  'waiting',
  'preempted',
  'transferring',
  'deferred',
  'receiving',
  'step',
] as const;
type Columns<Name extends string> = { readonly [Column in Name]: number[] };

export type PageData = {
  readonly run: { readonly title: string; readonly facts: readonly string[]; readonly damage: string | null };
  /** What columns name by number. */
  readonly texts: readonly string[];
  readonly lanes: Columns<'group' | 'name' | 'order'>;
  /** `cause`: the row that sent it, or −1. `record`: its step in the trace. */
  readonly acts: Columns<'time' | 'lane' | 'from' | 'to' | 'type' | 'state' | 'content' | 'cause' | 'record'>;
  /** Parts of a step lie at `part` … in their own columns. */
  readonly slices: Columns<'lane' | 'kind' | 'from' | 'to' | 'text' | 'part' | 'parts'>;
  readonly parts: Columns<'request' | 'choice' | 'kind' | 'start' | 'tokens'>;
};

/** Of a list in a message, and of a field as text. */
const ITEMS_MAX = 8;
const LINE_CHARACTERS = 240;

export class PageCollector {
  readonly #lives: RequestLives;
  readonly #recent = new RecentActs();
  readonly #texts = new Map<string, number>();
  readonly #lanes = new Map<string, number>();
  readonly #groups = new DpGroups();
  /** By call, which a request's id keeps whoever takes it over: its first name, and its choices. */
  readonly #calls = new Map<number, { readonly request: number; readonly choices: number }>();
  readonly #lane: PageData['lanes'] = { group: [], name: [], order: [] };
  readonly #acts: PageData['acts'] = { time: [], lane: [], from: [], to: [], type: [], state: [], content: [], cause: [], record: [] };
  readonly #slices: PageData['slices'] = { lane: [], kind: [], from: [], to: [], text: [], part: [], parts: [] };
  readonly #parts: PageData['parts'] = { request: [], choice: [], kind: [], start: [], tokens: [] };
  #last_us = 0;

  constructor({ options }: Pick<RunHeader, 'options'>) {
    this.#lives = new RequestLives(options, { onPhase: (slice) => this.#phase(slice), onStep: (event) => this.#step(event) });
  }

  /** Acts that it holds: no more than `PAGE_ACTS_MAX` of them may be fed. */
  get acts(): number {
    return this.#acts.time.length;
  }

  /** Acts come in causal order. */
  feed({ act, index }: TracedAct): void {
    const { to, from, time_us, message, state, machine } = act;
    this.#last_us = Math.max(this.#last_us, time_us);
    this.#groups.note(act);
    if (message?.type === 'SUBMIT') this.#calls.set(callOf(idOf(to)), { request: idOf(to), choices: message.sequences.length });
    this.#lives.feed(act);
    const cause = this.#recent.ofCause(act);
    this.#recent.note(act, this.acts);
    this.#acts.time.push(time_us);
    this.#acts.lane.push(this.#laneOf(trackOf(to, this.#groups)));
    this.#acts.from.push(this.#text(from));
    this.#acts.to.push(this.#text(to));
    this.#acts.type.push(this.#text(message?.type ?? '(birth)'));
    this.#acts.state.push(this.#text(state ?? (machine === null ? '' : 'gone')));
    this.#acts.content.push(this.#text(message === null ? '' : contentOf(message)));
    this.#acts.cause.push(cause ?? -1);
    this.#acts.record.push(index);
  }

  /** Nothing may be fed afterwards. */
  end(run: PageData['run']): PageData {
    this.#lives.unfinished(this.#last_us);
    return { run, texts: [...this.#texts.keys()], lanes: this.#lane, acts: this.#acts, slices: this.#slices, parts: this.#parts };
  }

  #phase({ request, choice, phase, from_us, to_us, share }: PhaseSlice): void {
    if (from_us === to_us) return;
    const text = share === null ? '' : `step ${share.step} of ${share.site}, ${share.sequences - 1} others in it`;
    this.#slice(this.#laneOf({ kind: 'choice', request, choice }), SLICE_KINDS.indexOf(phase), from_us, to_us, text);
  }

  #step({ what, step }: StepEvent): void {
    if (what === 'began') return;
    const outcome = step.outcome === 'done' ? '' : `, ${step.outcome}`;
    const text = `step ${step.step}: ${contentsOf(step)}, ${step.tokens} tokens${outcome}`;
    this.#slice(this.#laneOf({ kind: 'npu', npu: step.npu }), SLICE_KINDS.indexOf('step'), step.began_us, step.ended_us, text);
    for (const { request, choice, kind, start, tokens } of step.parts) {
      this.#parts.request.push(request);
      this.#parts.choice.push(choice);
      this.#parts.kind.push(SLICE_KINDS.indexOf(kind));
      this.#parts.start.push(start);
      this.#parts.tokens.push(tokens);
    }
    this.#slices.parts[this.#slices.parts.length - 1] = step.parts.length;
  }

  #slice(lane: number, kind: number, from_us: number, to_us: number, text: string): void {
    this.#slices.lane.push(lane);
    this.#slices.kind.push(kind);
    this.#slices.from.push(from_us);
    this.#slices.to.push(to_us);
    this.#slices.text.push(this.#text(text));
    this.#slices.part.push(this.#parts.kind.length);
    this.#slices.parts.push(0);
  }

  #laneOf(track: Track): number {
    const name = this.#nameOf(track);
    const known = this.#lanes.get(name);
    if (known !== undefined) return known;
    const lane = this.#lanes.size;
    this.#lanes.set(name, lane);
    this.#lane.group.push(track.kind === 'npu' ? 0 : track.kind === 'choice' ? 1 : 2);
    this.#lane.name.push(this.#text(name));
    this.#lane.order.push(track.kind === 'npu' ? track.npu : track.kind === 'choice' ? taskId(track) : lane);
    return lane;
  }

  #nameOf(track: Track): string {
    if (track.kind === 'npu') return `npu/${track.npu}`;
    if (track.kind === 'control') return track.name;
    const { request, choices } = this.#calls.get(callOf(track.request)) ?? { request: track.request, choices: 1 };
    return choices > 1 ? `request/${request} choice ${track.choice}` : `request/${request}`;
  }

  #text(text: Address | string): number {
    let number = this.#texts.get(text);
    if (number === undefined) {
      number = this.#texts.size;
      this.#texts.set(text, number);
    }
    return number;
  }
}

/** What it carries, a field a line, long ones cut. */
function contentOf(message: Message): string {
  const { type: _, ...fields } = message;
  return Object.entries(fields)
    .map(([name, value]) => {
      const line = `${name}: ${plain(value)}`;
      return line.length > LINE_CHARACTERS ? `${line.slice(0, LINE_CHARACTERS)} …` : line;
    })
    .join('\n');
}

function plain(value: unknown): string {
  if (Array.isArray(value)) {
    const rest = value.length > ITEMS_MAX ? ` … ${value.length} in all` : '';
    return `[${value.slice(0, ITEMS_MAX).map(plain).join(', ')}${rest}]`;
  }
  if (typeof value !== 'object' || value === null) return String(value);
  const fields = Object.entries(value).filter(([, field]) => field !== null);
  return `{${fields.map(([name, field]) => `${name} ${plain(field)}`).join(', ')}}`;
}
