/**
 * Cuts a part out of a trace that still replays. What an actor does depends on all that it was ever given, so a part keeps whole lives: of each actor
 * that acts within the window, every act from its birth to the window's end. Acts keep their numbers, so a cause that was cut away is known to be missing.
 * @module
 */
import { type Address, address, idOf, roleOf } from '../protocol/address.ts';
import { MinipodError } from '../protocol/errors.ts';
import { requestOfTask } from '../protocol/request-ids.ts';
import { type Deployment, deploy, parseTopology } from '../protocol/topology.ts';
import { type ActRecord, lifeOf } from './act-record.ts';
import { actsOf, type Pause, type TracedAct } from './acts.ts';
import type { TraceDamage } from './damage.ts';
import { HANDS } from './hands.ts';
import { isSameFile } from './same-file.ts';
import type { TraceReader } from './trace-reader.ts';
import { TraceWriter } from './trace-writer.ts';

/** A place in a trace: a record's number, or a time of the pod's clock. */
export type Moment = { readonly record: number } | { readonly time_us: number };

export type Cut = {
  /** Both are within; missing: the trace's beginning and end. */
  readonly from: Moment | null;
  readonly to: Moment | null;
  /** Only these requests, what works for them and where; none: all that acts within the window. */
  readonly requests: readonly Address[];
};

export type CutReport = {
  readonly acts: number;
  readonly acts_before: number;
  readonly actors: number;
  readonly hash: string;
  /** Of the trace that was cut: what is behind it is not in the part. */
  readonly damage: TraceDamage | null;
};

export const isBefore = ({ index, act }: TracedAct, moment: Moment): boolean => ('record' in moment ? index < moment.record : act.time_us < moment.time_us);
export const isAfter = ({ index, act }: TracedAct, moment: Moment): boolean => ('record' in moment ? index > moment.record : act.time_us > moment.time_us);

/**
 * Reads the trace twice; holds the names of the actors that are kept.
 * @throws `invalid_request` when nothing would be left, or `path` is the trace itself; `trace_not_written` as `TraceWriter`
 */
export async function cutTrace(
  reader: TraceReader,
  path: string,
  cut: Cut,
  options: { readonly overwrite?: boolean; readonly pause?: Pause },
): Promise<CutReport> {
  const { pause, overwrite = false } = options;
  // Replacing a file empties it, and the reader is not done with it.
  if (isSameFile(path, reader.path)) throw new MinipodError('invalid_request', `${path} is the trace itself; name another file`, { param: 'out' });
  const kept = await actorsIn(reader, cut, pause);
  if (kept.size === 0) throw new MinipodError('invalid_request', `${reader.path}: nothing acts there, so there is nothing to cut out`, { param: 'from' });
  const { from, to, requests } = cut;
  const { hash = null } = reader.totals ?? {};
  using writer = TraceWriter.create(path, { ...reader.header, cut: { of: hash, from, to, requests } }, { overwrite });
  const acts = actsOf(reader);
  let acts_before = 0;
  for (const traced of acts) {
    const waiting = pause?.(traced.offset);
    if (waiting) await waiting;
    acts_before++;
    if (isKept(traced, cut, kept)) writer.append(traced.bytes);
  }
  const { records, hash: identity } = writer.close();
  return { acts: records, acts_before, actors: kept.size, hash: identity, damage: acts.damage };
}

/** What a hand keeps is not replayed, so of its acts only those are kept that somebody who is kept led to. */
function isKept(traced: TracedAct, { to: end }: Cut, kept: ReadonlySet<string>): boolean {
  if (end !== null && isAfter(traced, end)) return false;
  const { act } = traced;
  return HANDS.has(roleOf(act.to)) ? kept.has(nameOf(act, act.from)) || kept.has(act.from) : kept.has(nameOf(act, act.to));
}

const nameOf = (act: ActRecord, actor: Address): string => `${lifeOf(act)} ${actor}`;

async function actorsIn(reader: TraceReader, cut: Cut, pause: Pause | undefined): Promise<Set<string>> {
  const { from, to, requests } = cut;
  const deployment = deploy(parseTopology(String(reader.header['topology'])));
  const party = requests.length === 0 ? null : await partyOf(reader, cut, deployment, pause);
  const kept = new Set<string>();
  const received = new ReceivedKv(deployment);
  for (const traced of actsOf(reader)) {
    const waiting = pause?.(traced.offset);
    if (waiting) await waiting;
    const { act } = traced;
    if (to === null || !isAfter(traced, to)) received.note(act);
    if ((from !== null && isBefore(traced, from)) || (to !== null && isAfter(traced, to))) continue;
    if (HANDS.has(roleOf(act.to)) || (party !== null && !party.has(act.to))) continue;
    kept.add(nameOf(act, act.to));
    // Whoever tells the frontend something may live on another thread.
    kept.add(act.to);
  }
  return received.withSources(kept);
}

/** What a DP group goes on with may have been computed by another: without that one nothing could be computed again. */
class ReceivedKv {
  readonly #deployment: Deployment;
  /** By DP group, each of its lives apart: the groups that lent it something. */
  readonly #sources = new Map<string, Set<number>>();
  /** By actor: its lives. */
  readonly #lives = new Map<Address, string[]>();

  constructor(deployment: Deployment) {
    this.#deployment = deployment;
  }

  note(act: ActRecord): void {
    const { to, machine, message } = act;
    const name = nameOf(act, to);
    if (machine === 'dp-group' || machine === 'npu') this.#lives.set(to, [...(this.#lives.get(to) ?? []), name]);
    if (message?.type !== 'ENQUEUE' || message.handoff === null) return;
    const source = this.#deployment.npus[message.handoff.offer.npu];
    if (source?.kind === 'attention') this.#sources.set(name, (this.#sources.get(name) ?? new Set()).add(source.group));
  }

  withSources(kept: Set<string>): Set<string> {
    for (const name of [...kept])
      for (const source of this.#sources.get(name) ?? [])
        for (const actor of withNpus(address('dp-group', source), this.#deployment))
          for (const life of [actor, ...(this.#lives.get(actor) ?? [])]) kept.add(life);
    return kept;
  }
}

const withNpus = (group: Address, { groups }: Deployment): Address[] => [group, ...(groups[idOf(group)]?.npus ?? []).map((npu) => address('npu', npu))];

/** The requests, their jobs and tasks, whoever these speak with, and the NPUs of the DP groups that they were placed on. */
async function partyOf(reader: TraceReader, { requests, to }: Cut, deployment: Deployment, pause: Pause | undefined): Promise<Set<Address>> {
  const ids = new Set(requests.map(idOf));
  const isOwn = (actor: Address): boolean => {
    const role = roleOf(actor);
    return role === 'task' ? ids.has(requestOfTask(actor)) : (role === 'request' || role === 'job') && ids.has(idOf(actor));
  };
  const party = new Set<Address>();
  for (const traced of actsOf(reader)) {
    const waiting = pause?.(traced.offset);
    if (waiting) await waiting;
    const { act } = traced;
    if ((to !== null && isAfter(traced, to)) || !(isOwn(act.to) || isOwn(act.from))) continue;
    for (const actor of [act.to, act.from]) {
      party.add(actor);
      if (roleOf(actor) === 'dp-group') for (const other of withNpus(actor, deployment)) party.add(other);
    }
  }
  return party;
}
