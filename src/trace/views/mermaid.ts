/**
 * One request as a Mermaid sequence diagram: the messages of its actors, and its steps, decode steps that are alike in one loop.
 * @module
 */
import { type Address, address, idOf, roleOf } from '../../protocol/address.ts';
import { isDecodeTask, type KvOffer, type Message } from '../../protocol/messages.ts';
import { callOf, requestOfTask } from '../../protocol/request-ids.ts';
import type { ActRecord } from '../act-record.ts';
import { ms } from './life-text.ts';
import type { LifeEvent, RequestLife } from './request-life.ts';

/** Messages of a request that are kept; a request of 128 choices has about 2,500. */
const MESSAGES_MAX = 4096;
/** Alike steps in a row become a loop from this many on. */
const FOLD_FROM = 3;

type Sent = { readonly at_us: number; readonly from: Address; readonly to: Address; readonly text: string };
type Step = Extract<LifeEvent, { what: 'step' }>;
type Wait = Extract<LifeEvent, { what: 'scheduled' }>;
type Receiving = Extract<LifeEvent, { what: 'receiving' }>;
type Entry =
  | ({ readonly what: 'message' } & Sent)
  | { readonly what: 'wait'; readonly at_us: number; readonly wait: Wait }
  | { readonly what: 'kv'; readonly at_us: number; readonly kv: Receiving; readonly took_us: number }
  | { readonly what: 'steps'; readonly at_us: number; readonly steps: readonly Step[] };

/** Those that tell of a request by name, whoever sends them. */
const NAMING = new Set<Message['type']>(['ADMIT', 'LEAVE', 'REQUEST_ENDED', 'REQUEST_RUNNING', 'PLACE', 'RELEASE', 'WITHDRAW', 'ENQUEUE', 'ABANDON']);

/** The messages that a request's actors sent and got; its steps come from its life. */
export class RequestMessages {
  readonly #request: number;
  readonly #sent: Sent[] = [];
  /** The last of each place for an offer, whoever's it is. */
  readonly #offered = new Map<string, Sent & { readonly serial: number }>();
  left_out = 0;

  constructor(request: number) {
    this.#request = request;
  }

  /** Acts come in causal order. */
  feed({ from, to, message, time_us }: ActRecord): void {
    if (message?.type === 'OFFERED') this.#offered.set(placeOf(message.offer), { at_us: time_us, from, to, text: message.type, serial: message.offer.serial });
    if (message === null || !(this.#isOf(to) || this.#isOf(from) || (NAMING.has(message.type) && this.#isOf(named(message))))) return;
    if (message.type === 'PREFILLED') this.#addOffered(message.handoff.offer);
    this.#add({ at_us: time_us, from, to, text: message.type });
  }

  #addOffered(offer: KvOffer): void {
    const sent = this.#offered.get(placeOf(offer));
    if (sent?.serial === offer.serial) this.#add(sent);
  }

  #add({ at_us, from, to, text }: Sent): void {
    if (this.#sent.length === MESSAGES_MAX) this.left_out++;
    else this.#sent.push({ at_us, from, to, text });
  }

  get sent(): readonly Sent[] {
    return this.#sent;
  }

  #isOf(actor: Address | null): boolean {
    const request = actor === null ? null : requestOf(actor);
    return request !== null && callOf(request) === callOf(this.#request);
  }
}

const placeOf = ({ npu, slot }: KvOffer): string => `${npu} ${slot}`;

function requestOf(actor: Address): number | null {
  const role = roleOf(actor);
  if (role === 'task') return requestOfTask(actor);
  return role === 'request' || role === 'job' ? idOf(actor) : null;
}

const named = (message: Message): Address | null =>
  'task' in message ? message.task : 'request' in message && typeof message.request === 'string' ? message.request : null;

/** The lines of the diagram. */
export function mermaidLines(life: RequestLife, messages: RequestMessages): string[] {
  const entries = inOrder(life, messages.sent);
  const alias = new Map(participantsOf(entries).map((actor, index) => [actor, `p${index}`]));
  const of = (actor: Address): string => alias.get(actor) ?? actor;
  const body = entries.flatMap((entry) => {
    if (entry.what === 'message') return [arrow(of(entry.from), of(entry.to), entry.text)];
    if (entry.what === 'kv') return [kvLine(entry, of, life)];
    return entry.what === 'wait' ? [waitLine(entry.wait, of, life)] : stepLines(entry.steps, of, life);
  });
  const last = participantsOf(entries).at(-1) ?? 'frontend/0';
  return [
    'sequenceDiagram',
    '  autonumber',
    ...[...alias].map(([actor, name]) => `  participant ${name} as ${plain(actor)}${stageText(actor, life)}`),
    ...body,
    ...(messages.left_out > 0 ? [`  Note over ${of(last)}: ${messages.left_out} more messages are left out`] : []),
    `  Note over ${of(address('request', idOf(life.request)))}: ${plain(`${life.ending} after ${ms(life.total_us)}`)}`,
  ];
}

/** Where prefill and decode are apart. */
function stageText(actor: Address, { events }: RequestLife): string {
  if (roleOf(actor) !== 'task' || !events.some(({ what }) => what === 'prefilled')) return '';
  return isDecodeTask(idOf(actor)) ? ' (decode)' : ' (prefill)';
}

/** In columns as work flows: outside first, NPUs last. */
function participantsOf(entries: readonly Entry[]): Address[] {
  const ORDER = ['caller', 'control', 'frontend', 'request', 'job', 'job-executor', 'task', 'task-executor', 'output', 'dp-group', 'npu'];
  const actors = new Set<Address>();
  for (const entry of entries) {
    if (entry.what === 'message') actors.add(entry.from).add(entry.to);
    else if (entry.what === 'steps')
      for (const { npu, group } of entry.steps) actors.add(address('output', group)).add(address('dp-group', group)).add(address('npu', npu));
    else if (entry.what === 'kv') actors.add(address('dp-group', entry.kv.from)).add(address('dp-group', entry.kv.group));
    else actors.add(address('dp-group', entry.wait.group));
  }
  return [...actors].sort((a, b) => ORDER.indexOf(roleOf(a)) - ORDER.indexOf(roleOf(b)) || idOf(a) - idOf(b));
}

function inOrder({ events }: RequestLife, sent: readonly Sent[]): Entry[] {
  const messages = sent.map((message): Entry => ({ what: 'message', ...message }));
  const entries: Entry[] = [];
  for (const event of events) {
    if (event.what === 'scheduled') entries.push({ what: 'wait', at_us: event.at_us, wait: event });
    const kv = event.what === 'kv_received' ? events.findLast((other) => other.what === 'receiving' && other.choice === event.choice) : undefined;
    if (event.what === 'kv_received' && kv?.what === 'receiving') entries.push({ what: 'kv', at_us: kv.at_us, kv, took_us: event.waited_us });
    if (event.what !== 'step') continue;
    const last = entries.findLast((entry) => entry.what === 'steps' && entry.steps[0]?.choice === event.choice);
    if (last?.what === 'steps' && isAlike(last.steps[0] as Step, event)) (last.steps as Step[]).push(event);
    else entries.push({ what: 'steps', at_us: event.at_us, steps: [event] });
  }
  return [...messages, ...entries.flatMap(unfolded)].sort((a, b) => a.at_us - b.at_us);
}

const unfolded = (entry: Entry): Entry[] =>
  entry.what === 'steps' && entry.steps.length < FOLD_FROM ? entry.steps.map((step) => ({ what: 'steps', at_us: step.at_us, steps: [step] })) : [entry];

const isAlike = (a: Step, b: Step): boolean => a.kind === 'decode' && b.kind === 'decode' && a.npu === b.npu && a.outcome === b.outcome;

function waitLine({ group, choice, waited_us, others }: Wait, of: (actor: Address) => string, { choices }: RequestLife): string {
  const whose = choices.length === 1 || choice === null ? '' : `choice ${choice} `;
  const meanwhile = others.steps === 0 ? '' : `, ${others.steps} ${others.steps === 1 ? 'step' : 'steps'} without it`;
  return `  Note over ${of(address('dp-group', group))}: ${plain(`${whose}waited ${ms(waited_us)}${meanwhile}`)}`;
}

function kvLine({ kv, took_us }: Extract<Entry, { what: 'kv' }>, of: (actor: Address) => string, { choices }: RequestLife): string {
  const whose = choices.length === 1 || kv.choice === null ? '' : ` of choice ${kv.choice}`;
  const text = `KV${whose}: ${kv.blocks} ${kv.blocks === 1 ? 'block' : 'blocks'} pulled${took_us === 0 ? '' : `, ${ms(took_us)}`}`;
  return `  ${of(address('dp-group', kv.from))}-->>${of(address('dp-group', kv.group))}: ${plain(text)}`;
}

function stepLines(steps: readonly Step[], of: (actor: Address) => string, { choices }: RequestLife): string[] {
  const [first, last] = [steps[0] as Step, steps.at(-1) as Step];
  const [npu, group] = [of(address('npu', first.npu)), of(address('dp-group', first.group))];
  const whose = choices.length === 1 || first.choice === null ? '' : ` of choice ${first.choice}`;
  const [fewest, most] = [Math.min(...steps.map(({ sequences }) => sequences)) - 1, Math.max(...steps.map(({ sequences }) => sequences)) - 1];
  const others = most === 0 ? '' : `, with ${fewest === most ? most : `${fewest} to ${most}`} others`;
  const token = first.samples && first.outcome === 'done' ? [arrow(group, of(address('output', first.group)), `TOKENS${whose}`)] : [];
  const name = steps.length === 1 ? `STEP ${first.step}` : `STEP ${first.step} … ${last.step}`;
  const ranks = first.site.startsWith('npu/') ? '' : ', on each of its ranks';
  const positions = positionsText(first.start, last.start + last.tokens - 1);
  const answer = { done: ['STEP_DONE'], failed: ['STEP_FAILED'], lost: [], dropped: [], running: [] }[first.outcome];
  const lines = [
    arrow(group, npu, `${name}: ${first.kind}${whose}, ${positions}${others}${ranks}`),
    ...answer.map((type) => arrow(npu, group, type)),
    ...token,
  ];
  const end = answer.length === 0 ? `, ${first.outcome}` : '';
  if (steps.length === 1) return [...lines, `  Note right of ${npu}: ${plain(`${first.kind} ${ms(first.duration_us)}${end}`)}`];
  const mean_us = steps.reduce((sum, { duration_us }) => sum + duration_us, 0) / steps.length;
  return [`  loop ${plain(`${steps.length} decode steps${whose}, ${ms(mean_us)} each`)}`, ...lines.map((line) => `  ${line}`), '  end'];
}

const arrow = (from: string, to: string, text: string): string => `  ${from}->>${to}: ${plain(text)}`;

/** `#` and `;` mean something to Mermaid. */
const plain = (text: string): string => text.replaceAll(/[#;\n]/g, (mark) => (mark === '#' ? '#35;' : mark === ';' ? '#59;' : ' '));

const positionsText = (first: number, last: number): string => (first === last ? `position ${first}` : `positions ${first}–${last}`);
