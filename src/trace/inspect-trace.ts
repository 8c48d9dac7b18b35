/**
 * Looks at a recorded run with XState's tools: replays it, and tells what its actors do as they would have told it themselves.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import { ActNumbers, isWholeRun } from './act-numbers.ts';
import type { ActRecord } from './act-record.ts';
import { actsOf } from './acts.ts';
import { inCausalOrder } from './causal-order.ts';
import { type Inspect, type InspectionEvent, InspectionEvents } from './inspection-events.ts';
import type { Prompts } from './redaction.ts';
import { type Divergence, Replay } from './replay.ts';
import { parseRunHeader, promptsOf } from './run-header.ts';
import { TraceReader } from './trace-reader.ts';

/** Turns recorded acts into what an inspector takes. Acts come in an order in which each comes after its cause. */
export class ReplayedInspection {
  readonly #replay: Replay;
  readonly #events: InspectionEvents;
  /** Acts are numbered anew in each life of a pod. */
  readonly #prefix: string;

  constructor(tell: Inspect, { origin_ms = 0, prompts = 'recorded', life = 1 }: { origin_ms?: number; prompts?: Prompts; life?: number } = {}) {
    this.#prefix = life === 1 ? '' : `${life}:`;
    this.#replay = new Replay(null, prompts);
    this.#events = new InspectionEvents(tell, origin_ms);
  }

  /** The first thing that is not as it was: nothing is told of that act, and of later ones nothing should be. */
  feed(record: ActRecord, index: number): Divergence | null {
    const divergence = this.#replay.feed(record, index);
    const { act } = this.#replay;
    if (divergence === null && act !== null) this.#events.tell(act, `${this.#prefix}${record.thread}/${record.number}`, record.time_us);
    return divergence;
  }
}

/**
 * A recorded run's events, as they are asked for: a trace may be larger than memory.
 * @throws `invalid_trace`: at once, when it is no trace of a run; where an actor does not do what it did, or an act is missing; and at the end of what can be
 * read, when that is not all
 */
export function* inspectTrace(path: string): Generator<InspectionEvent, void, undefined> {
  using reader = TraceReader.open(path);
  const events: InspectionEvent[] = [];
  const inspection = new ReplayedInspection((event) => events.push(event), { prompts: promptsOf(parseRunHeader(reader.header, path)) });
  const acts = actsOf(reader);
  const numbers = isWholeRun(reader.header) ? new ActNumbers() : null;
  for (const { act, index } of inCausalOrder(acts)) {
    const gap = numbers?.next(act) ?? null;
    if (gap !== null) throw new MinipodError('invalid_trace', `${path}: record ${index}: ${gap}`);
    const divergence = inspection.feed(act, index);
    if (divergence !== null) throw new MinipodError('invalid_trace', `${path}: record ${index}: ${act.to} does not do what it did: ${divergence.difference}`);
    yield* events.splice(0);
  }
  if (acts.damage !== null) throw new MinipodError('invalid_trace', `${path}: ${acts.damage.message}`);
  if (acts.stopped !== null) throw new MinipodError('invalid_trace', `${path}: recording ended before the run did: ${acts.stopped}`);
  const missing = numbers?.end() ?? null;
  if (missing !== null) throw new MinipodError('invalid_trace', `${path}: ${missing}`);
}
