/**
 * A request that is open, and what is told of it when it has ended.
 * @module
 */
import type { ErrorRecord } from '../../protocol/errors.ts';
import type { Sequence } from '../../protocol/messages.ts';
import { type ChoiceTrack, keepLongest, requestAddress } from './choice-track.ts';
import { type Ending, type LifeEvent, noTime, type RequestLife, tokenTimes } from './request-life.ts';

export type RequestTrack = {
  /** As it came. */
  readonly first_id: number;
  /** As it is called now: who takes it over gives it another. */
  id: number;
  readonly moved_to: number[];
  readonly received_us: number;
  readonly prompt_tokens: number;
  readonly max_tokens: number;
  readonly sequences: readonly Sequence[];
  readonly choices: readonly ChoiceTrack[];
  readonly events: LifeEvent[] | null;
};

/** Gaps of a request that are kept. */
const GAPS_SHOWN = 5;

export function lifeOfTrack(track: RequestTrack, ended_us: number, ending: Ending, error: ErrorRecord | null): RequestLife {
  const choices = track.choices.map((choice) => choice.life());
  const critical = choices.reduce((last, choice) => (choice.ended_us > last.ended_us ? choice : last), choices[0] as (typeof choices)[number]);
  const breakdown_us = { ...noTime(), ...critical.breakdown_us };
  breakdown_us.control += ended_us - critical.ended_us;
  const slowest_gaps = track.choices.flatMap(({ slowest }) => slowest);
  keepLongest(slowest_gaps, GAPS_SHOWN);
  const first = choices.flatMap(({ ttft_us }) => ttft_us ?? []);
  const endings = new Set(choices.map((choice) => choice.ending));
  return {
    request: requestAddress(track.first_id),
    moved_to: track.moved_to.map(requestAddress),
    received_us: track.received_us,
    ended_us,
    total_us: ended_us - track.received_us,
    ending: ending === 'finished' && endings.size === 1 ? critical.ending : ending,
    error,
    prompt_tokens: track.prompt_tokens,
    max_tokens: track.max_tokens,
    tokens: choices.reduce((sum, { tokens }) => sum + tokens, 0),
    ttft_us: first.length === 0 ? null : Math.min(...first),
    tpot_us: tokenTimes(track.choices.flatMap(({ gaps_us }) => gaps_us)),
    delivery_us: tokenTimes(track.choices.flatMap(({ deliveries_us }) => deliveries_us)),
    critical_choice: critical.choice,
    breakdown_us,
    choices,
    slowest_gaps,
    events: (track.events ?? []).toSorted((a, b) => a.at_us - b.at_us),
  };
}

/** Of a task, as its choice's. */
export function endOf(type: 'TASK_DONE' | 'TASK_FAILED' | 'TASK_CANCELLED', choice: ChoiceTrack): Ending {
  if (type === 'TASK_FAILED') return 'failed';
  // A stop string, or an end at the first token, may find a decode task that has not begun.
  return type === 'TASK_DONE' || choice.ending !== 'open' ? finishOf(choice) : 'cancelled';
}

export const finishOf = ({ ending, finish }: ChoiceTrack): Ending => (ending === 'open' ? (finish ?? 'finished') : ending);
