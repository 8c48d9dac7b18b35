/**
 * A trace as Chrome's trace events, which Perfetto and chrome://tracing open: a track per NPU and per choice of a request, slices for steps and phases,
 * instants for messages, arrows from where a message was sent to where it came, counters. Written as it is read: what it holds is bounded by what is open.
 * The format: "Trace Event Format" of the Chromium project; times are microseconds.
 * @module
 */
import { type Address, address, idOf } from '../../protocol/address.ts';
import { type Message, taskId } from '../../protocol/messages.ts';
import { callOf } from '../../protocol/request-ids.ts';
import type { TracedAct } from '../acts.ts';
import type { RunHeader } from '../run-header.ts';
import type { PhaseSlice } from './choice-track.ts';
import { DpGroups } from './dp-groups.ts';
import type { NpuStep, StepEvent, StepPart } from './npu-steps.ts';
import { RecentActs } from './recent-acts.ts';
import { RequestLives } from './request-lives.ts';
import { type Track, trackOf } from './tracks.ts';

/** Perfetto shows them in this order. */
const PROCESSES = { npus: 1, requests: 2, control: 3 } as const;

/** Threads of a process count from 1: 0 is the idle task. `until_us`: up to where it has slices that an arrow can end at; null: one is open. */
type Place = { readonly pid: number; readonly tid: number; from_us: number; until_us: number | null; clock_us: number };

type TraceEvent = { readonly ph: string; readonly pid: number; readonly tid?: number; readonly ts?: number; readonly [field: string]: unknown };

export class PerfettoEvents {
  readonly #lives: RequestLives;
  readonly #times = new RecentActs();
  readonly #npus = new Map<number, Place>();
  readonly #groups = new DpGroups();
  /** By call, which a request's id keeps whoever takes it over: its choices. */
  readonly #choices = new Map<number, Place[]>();
  readonly #control = new Map<string, Place>();
  #lines: string[] = [];
  #arrows = 0;
  #requests = 0;
  #last_us = 0;

  constructor({ options, model }: Pick<RunHeader, 'options' | 'model'>) {
    this.#lives = new RequestLives(options, { onPhase: (slice) => this.#phase(slice), onStep: (event) => this.#step(event) });
    this.#name(PROCESSES.npus, 'NPUs', 0);
    this.#name(PROCESSES.requests, `requests · ${model.name}`, 1);
    this.#name(PROCESSES.control, 'control plane', 2);
  }

  /** Acts come in causal order. */
  feed({ act, index }: TracedAct): void {
    const { to, time_us, message, machine } = act;
    this.#last_us = Math.max(this.#last_us, time_us);
    this.#times.note(act, time_us);
    this.#groups.note(act);
    if (machine === 'npu') this.#bearNpu(idOf(to), time_us);
    if (message?.type === 'SUBMIT') this.#bearRequest(idOf(to), message.sequences.length, time_us);
    if (message !== null) {
      const sent_us = this.#times.ofCause(act);
      for (const place of this.#receivers(to, message, time_us)) {
        // Of tokens there are most by far.
        const args = message.type === 'TOKENS' ? { step: index } : { from: act.from, to, state: act.state, step: index };
        this.#emit({ ph: 'i', s: 't', name: message.type, pid: place.pid, tid: place.tid, ts: time_us, args });
        if (sent_us !== null) this.#arrow(message.type, this.#placeOf(trackOf(act.from, this.#groups), sent_us), sent_us, place, time_us);
      }
    }
    this.#lives.feed(act);
    if (message?.type === 'REQUEST_ENDED') this.#endRequest(idOf(message.request), time_us);
  }

  /** What is open ends with the trace. Nothing may be fed afterwards. */
  end(): void {
    this.#lives.unfinished(this.#last_us);
    for (const request of [...this.#choices.keys()]) this.#endRequest(request, this.#last_us);
    for (const place of [...this.#npus.values(), ...this.#control.values()]) this.#close(place, this.#last_us);
  }

  /** Events that wait to be taken. */
  get lines(): number {
    return this.#lines.length;
  }

  /** The events since this was asked last, as JSON. */
  takeLines(): string[] {
    const lines = this.#lines;
    this.#lines = [];
    return lines;
  }

  // ── Slices ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #bearNpu(npu: number, time_us: number): void {
    const earlier = this.#npus.get(npu);
    // Its thread has died, and what runs now is its successor.
    if (earlier !== undefined) this.#close(earlier, time_us);
    else this.#nameThread(PROCESSES.npus, npu + 1, address('npu', npu), npu);
    this.#npus.set(npu, this.#open(PROCESSES.npus, npu + 1, address('npu', npu), time_us));
  }

  #bearRequest(id: number, choices: number, time_us: number): void {
    const places = Array.from({ length: choices }, (_, choice) => {
      const name = choices === 1 ? address('request', id) : `${address('request', id)} choice ${choice}`;
      const tid = taskId({ request: id, choice });
      this.#nameThread(PROCESSES.requests, tid, name, tid);
      return this.#open(PROCESSES.requests, tid, name, time_us);
    });
    this.#choices.set(callOf(id), places);
    this.#countRequests(1, time_us);
  }

  #endRequest(id: number, time_us: number): void {
    const places = this.#choices.get(callOf(id));
    if (places === undefined) return;
    for (const place of places) this.#close(place, time_us);
    this.#choices.delete(callOf(id));
    this.#countRequests(-1, time_us);
  }

  #phase({ request, choice, phase, from_us, to_us, share }: PhaseSlice): void {
    const place = this.#choices.get(callOf(request))?.[choice];
    if (place === undefined || to_us === from_us) return;
    const name = share === null ? phase : `${phase} · ${share.site} step ${share.step}`;
    this.#slice(place, { name, cat: phase, from_us, to_us, args: share ?? {} });
  }

  #step({ what, step }: StepEvent): void {
    const place = this.#npus.get(step.npu);
    if (place === undefined) return;
    if (what === 'began') {
      this.#counter(PROCESSES.npus, `npu/${step.npu} batch`, step.began_us, { sequences: step.parts.length, tokens: step.tokens });
      return;
    }
    this.#counter(PROCESSES.npus, `npu/${step.npu} batch`, step.ended_us, { sequences: 0, tokens: 0 });
    const args = { step: step.step, tokens: step.tokens, outcome: step.outcome, sequences: step.parts.map(partText) };
    this.#slice(place, { name: `step ${step.step}: ${contentsOf(step)}`, cat: 'step', from_us: step.began_us, to_us: step.ended_us, args });
  }

  #open(pid: number, tid: number, name: string, time_us: number): Place {
    this.#emit({ ph: 'B', name, cat: 'life', pid, tid, ts: time_us });
    return { pid, tid, from_us: time_us, until_us: null, clock_us: time_us };
  }

  #close(place: Place, time_us: number): void {
    if (place.until_us !== null) return;
    place.until_us = Math.max(time_us, place.clock_us);
    this.#emit({ ph: 'E', pid: place.pid, tid: place.tid, ts: place.until_us });
  }

  /** On a track slices follow each other, though clocks of threads may differ by a little. */
  #slice(place: Place, slice: { name: string; cat: string; from_us: number; to_us: number; args: object }): void {
    const { pid, tid } = place;
    const ts = Math.max(slice.from_us, place.clock_us);
    place.clock_us = Math.max(slice.to_us, ts);
    this.#emit({ ph: 'B', name: slice.name, cat: slice.cat, pid, tid, ts, args: slice.args });
    this.#emit({ ph: 'E', pid, tid, ts: place.clock_us });
  }

  // ── Messages ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** What is for several requests comes to each of them. */
  #receivers(to: Address, message: Message, time_us: number): readonly Place[] {
    const tracks: Track[] = [];
    if (message.type === 'TOKENS') tracks.push(...message.tokens.map(({ request, choice }): Track => ({ kind: 'choice', request, choice })));
    else if (message.type === 'REQUEST_ENDED' || message.type === 'REQUEST_RUNNING') tracks.push(trackOf(message.request, this.#groups));
    else tracks.push(trackOf(to, this.#groups));
    return tracks.flatMap((track) => this.#placeOf(track, time_us) ?? []);
  }

  #placeOf(track: Track, time_us: number): Place | null {
    if (track.kind === 'npu') return this.#npus.get(track.npu) ?? null;
    if (track.kind === 'choice') return this.#choices.get(callOf(track.request))?.[track.choice] ?? null;
    let place = this.#control.get(track.name);
    if (place === undefined) {
      const tid = this.#control.size + 1;
      this.#nameThread(PROCESSES.control, tid, track.name, tid);
      place = this.#open(PROCESSES.control, tid, track.name, time_us);
      this.#control.set(track.name, place);
    }
    return place;
  }

  /** Only from one track to another, and where both have a slice that it can be tied to. */
  #arrow(name: string, source: Place | null, sent_us: number, target: Place, came_us: number): void {
    if (source === null || source === target || sent_us < source.from_us || came_us < target.from_us || came_us < sent_us) return;
    const id = ++this.#arrows;
    this.#emit({ ph: 's', name, cat: 'message', id, pid: source.pid, tid: source.tid, ts: sent_us });
    this.#emit({ ph: 'f', bp: 'e', name, cat: 'message', id, pid: target.pid, tid: target.tid, ts: came_us });
  }

  // ── Counters and names ──────────────────────────────────────────────────────────────────────────────────────────────

  #countRequests(change: number, ts: number): void {
    this.#requests += change;
    this.#counter(PROCESSES.requests, 'open requests', ts, { requests: this.#requests });
  }

  #counter(pid: number, name: string, ts: number, args: object): void {
    this.#emit({ ph: 'C', name, pid, ts, args });
  }

  #name(pid: number, name: string, order: number): void {
    this.#emit({ ph: 'M', pid, name: 'process_name', args: { name } });
    this.#emit({ ph: 'M', pid, name: 'process_sort_index', args: { sort_index: order } });
  }

  #nameThread(pid: number, tid: number, name: string, order: number): void {
    this.#emit({ ph: 'M', pid, tid, name: 'thread_name', args: { name } });
    this.#emit({ ph: 'M', pid, tid, name: 'thread_sort_index', args: { sort_index: order } });
  }

  #emit(event: TraceEvent): void {
    this.#lines.push(JSON.stringify(event));
  }
}

/** `2 prefill, 5 decode`. */
export function contentsOf({ parts }: Pick<NpuStep, 'parts'>): string {
  const counts = new Map<string, number>();
  for (const { kind } of parts) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return [...counts].map(([kind, count]) => `${count} ${kind}`).join(', ');
}

const partText = ({ request, choice, kind, start, tokens }: StepPart): string =>
  `request/${request}${choice === 0 ? '' : ` choice ${choice}`} ${kind} ${tokens === 1 ? start : `${start}–${start + tokens - 1}`}`;
