/**
 * A request's life for a person to read. Times are milliseconds with three digits: microseconds, as the trace has them.
 * @module
 */
import {
  type Breakdown,
  type LifeEvent,
  type OthersSteps,
  type PassedOver,
  PHASES,
  type Phase,
  type RequestLife,
  type StepShare,
  type TokenGap,
} from './request-life.ts';

/** Decode steps in a row that are alike become one line from this many on. */
const FOLD_FROM = 4;
const BAR_WIDTH = 30;
const WHAT_WIDTH = 15;
/** A thread that has nothing else to do takes less. */
const DELIVERY_WORTH_SAYING_US = 1_000;

const PHASE_NAMES: Readonly<Record<Phase, string>> = {
  control: 'control plane',
  queued: 'queued',
  prefill: 'prefill',
  transferring: 'transferring',
  deferred: 'no room for KV',
  receiving: 'receiving KV',
  decode: 'decode',
  recompute: 'recompute',
  waiting: 'between steps',
  preempted: 'preempted',
};

const PASSED_OVER: Readonly<Record<PassedOver, string>> = {
  batch_tokens: 'their tokens filled max_batch_tokens',
  batch_requests: 'their requests filled max_batch_requests',
  prefix: 'another computed its prefix at the time',
  kv_blocks: 'KV blocks were short, its own were on their way, or others were before it',
};

export const ms = (us: number): string => `${(us / 1000).toFixed(3)} ms`;
const count = (number: number, noun: string): string => `${number} ${noun}${number === 1 ? '' : 's'}`;
const share = (us: number, total_us: number): string => `${total_us === 0 ? '0.0' : ((100 * us) / total_us).toFixed(1)} %`;

/** `folds`: decode steps that are alike, in one line. */
export function lifeLines(life: RequestLife, folds: boolean): string[] {
  return [...headLines(life), '', ...timelineLines(life, folds), '', ...breakdownLines(life), ...gapLines(life)];
}

function headLines(life: RequestLife): string[] {
  const { request, moved_to, ending, error, total_us, ttft_us, tpot_us, prompt_tokens, max_tokens, choices, tokens } = life;
  const how = ending === 'open' ? `had not ended when the trace did, ${ms(total_us)} after it came` : `${endingText(ending)} after ${ms(total_us)}`;
  const tpot = tpot_us === null ? '' : `, TPOT ${ms(tpot_us.mean)} (p50 ${ms(tpot_us.p50)}, p99 ${ms(tpot_us.p99)}, max ${ms(tpot_us.max)})`;
  return [
    `${[request, ...moved_to].join(', then ')} ${how}${error === null ? '' : `: ${error.message}`}`,
    `${count(prompt_tokens, 'prompt token')}, ${count(choices.length, 'choice')} of at most ${count(max_tokens, 'token')}; ${count(tokens, 'token')} came`,
    `${ttft_us === null ? 'no token came' : `TTFT ${ms(ttft_us)}`}${tpot}`,
  ];
}

function endingText(ending: RequestLife['ending']): string {
  if (ending === 'stop' || ending === 'length') return `finished (${ending})`;
  return ending === 'stop_string' ? 'finished (stop string)' : ending;
}

// ── Timeline ────────────────────────────────────────────────────────────────────────────────────────────────────────

type StepEvent = Extract<LifeEvent, { what: 'step' }>;
type Line = LifeEvent | { readonly what: 'steps'; readonly at_us: number; readonly choice: number | null; readonly steps: readonly StepEvent[] };

function timelineLines(life: RequestLife, folds: boolean): string[] {
  const hasChoices = life.choices.length > 1;
  const lines = folds ? folded(life.events) : life.events;
  return [
    `TIMELINE, from its arrival at ${ms(life.received_us)}`,
    ...lines.map((line) => {
      const [what, text] = line.what === 'steps' ? stepsText(line.steps) : eventText(line);
      const choice = hasChoices && line.choice !== null ? `choice ${line.choice}: ` : '';
      return `  +${ms(line.at_us - life.received_us).padStart(12)}  ${what.padEnd(WHAT_WIDTH)}${choice}${text}`.trimEnd();
    }),
  ];
}

/** Runs of a choice's decode steps that are alike become one. */
function folded(events: readonly LifeEvent[]): readonly Line[] {
  const lines: Line[] = [];
  const runs = new Map<number | null, StepEvent[]>();
  for (const event of events) {
    const run = runs.get(event.choice);
    if (event.what === 'step' && run?.[0] !== undefined && isAlike(event, run[0])) {
      run.push(event);
      continue;
    }
    runs.delete(event.choice);
    if (event.what !== 'step' || event.kind !== 'decode' || event.outcome !== 'done') {
      lines.push(event);
      continue;
    }
    const steps = [event];
    runs.set(event.choice, steps);
    lines.push({ what: 'steps', at_us: event.at_us, choice: event.choice, steps });
  }
  return lines
    .flatMap((line): readonly Line[] => (line.what === 'steps' && line.steps.length < FOLD_FROM ? line.steps : [line]))
    .toSorted((a, b) => a.at_us - b.at_us);
}

const isAlike = (a: StepEvent, b: StepEvent): boolean =>
  a.kind === b.kind &&
  a.outcome === b.outcome &&
  a.site === b.site &&
  a.sequences === b.sequences &&
  a.others_prefill_tokens === 0 &&
  b.others_prefill_tokens === 0;

function stepsText(steps: readonly StepEvent[]): readonly [string, string] {
  const [first, last] = [steps[0] as StepEvent, steps.at(-1) as StepEvent];
  const times = steps.map(({ duration_us }) => duration_us);
  const mean = times.reduce((sum, us) => sum + us, 0) / times.length;
  const range = `${(Math.min(...times) / 1000).toFixed(3)}–${ms(Math.max(...times))}`;
  return [`decode ×${steps.length}`, `steps ${first.step}–${last.step} of ${first.site}${company(first)}: ${ms(mean)} each (${range})`];
}

function eventText(event: LifeEvent): readonly [string, string] {
  switch (event.what) {
    case 'received':
      return ['received', `${count(event.prompt_tokens, 'prompt token')}, max_tokens ${event.max_tokens}`];
    case 'placed': {
      const { waited_us, leader } = event;
      const why = leader === null ? 'in which no NPU served' : `in the queue of all, from which ${leader} chose`;
      return ['placed', `on ${placeText(event)}${waited_us > 0 ? ` after ${ms(waited_us)} ${why}` : ''}`];
    }
    case 'queued':
    case 'deferred': {
      const running = event.running_step === null ? 'where no step runs' : `where step ${event.running_step} runs`;
      const holds = `it holds ${event.ahead === 0 ? 'no other' : count(event.ahead, 'other')}`;
      return event.what === 'queued' ? ['queued', `at ${event.site}, ${running}; ${holds}`] : ['handed over', `to ${event.site}, ${running}; ${holds}`];
    }
    case 'prefilled':
      return ['prefilled', `its first token is out; dp-group/${event.group} lends ${count(event.blocks, 'KV block')} to whoever goes on`];
    case 'decode_chosen':
      return ['decode chosen', event.executor];
    case 'receiving':
      return [
        'receiving',
        `${count(event.blocks, 'KV block')} from dp-group/${event.from} to dp-group/${event.group}, for which there was room ${event.waited_us === 0 ? 'at once' : `after ${ms(event.waited_us)}`}`,
      ];
    case 'kv_received':
      return ['received', `after ${ms(event.waited_us)}; it decodes at ${event.site}`];
    case 'transferred':
      return ['transferred', `dp-group/${event.group} has its KV blocks back`];
    case 'goes_on':
      return [
        'goes on',
        `as ${event.request}, behind ${count(event.tokens, 'token')}: its ${event.lost === 'executor' ? 'executor' : 'job executor'} was lost`,
      ];
    case 'scheduled': {
      const passed = Object.entries(event.passed_over).map(([why, steps]) => `left out of ${count(steps, 'step')}: ${PASSED_OVER[why as PassedOver]}`);
      const others = event.others.steps === 0 ? [] : [othersText(event.others)];
      const cached =
        event.cached_tokens === 0 ? [] : [`${count(event.cached_tokens, 'token')} of its prompt ${event.cached_tokens === 1 ? 'was' : 'were'} cached`];
      return ['scheduled', [`after ${ms(event.waited_us)}`, ...others, ...passed, ...cached].join('; ')];
    }
    case 'step':
      return [event.kind, stepText(event)];
    case 'first_token':
      return ['first token', `${ms(event.delivery_us)} after its step`];
    case 'cancel_asked':
      return ['cancel', 'asked for by the caller'];
    case 'stop_string_found':
      return ['stop string', 'found by its output process'];
    case 'let_go':
      return ['let go', 'by its DP group'];
    case 'refused':
    case 'failed':
      return [event.what, `${event.error.message} (${event.error.code})`];
    case 'choice_ended':
      return ['task ended', endingText(event.ending)];
    case 'ended':
      return ['ended', event.error === null ? 'its caller is told that it has it all' : event.error.message];
    default:
      return [event.what, ''];
  }
}

/** `npu/3`, or `dp-group/1, npu/2 and npu/3`. */
function placeText({ group, npus }: Extract<LifeEvent, { what: 'placed' }>): string {
  const names = npus.map((npu) => `npu/${npu}`);
  return names.length === 1 ? (names[0] as string) : `dp-group/${group}: ${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;
}

function stepText(step: StepShare): string {
  const positions = step.kind === 'decode' ? '' : ` positions ${step.start}–${step.start + step.tokens - 1}${step.samples ? '' : ', more to come'}`;
  const outcome = step.outcome === 'done' ? '' : ` (${step.outcome})`;
  return `step ${step.step} of ${step.site}${positions}${company(step)}: ${ms(step.duration_us)}${outcome}`;
}

function company({ sequences, others_prefill_tokens }: StepShare): string {
  if (sequences === 1) return ', alone';
  const prefill = others_prefill_tokens === 0 ? '' : ` and ${count(others_prefill_tokens, 'token')} of their prompts`;
  return `, with ${count(sequences - 1, 'other')}${prefill}`;
}

// ── Where it went ───────────────────────────────────────────────────────────────────────────────────────────────────

function breakdownLines(life: RequestLife): string[] {
  const { total_us, breakdown_us, choices, critical_choice } = life;
  const along = choices.length === 1 ? '' : ` (along choice ${critical_choice}, which ended last)`;
  const parts = PHASES.filter((phase) => breakdown_us[phase] > 0);
  const bar = (us: number): string => '█'.repeat(Math.max(1, Math.round((BAR_WIDTH * us) / total_us)));
  return [
    `WHERE ${ms(total_us)} WENT${along}`,
    ...parts.map((phase) => {
      const us = breakdown_us[phase];
      return `  ${PHASE_NAMES[phase].padEnd(WHAT_WIDTH)}${ms(us).padStart(12)}  ${share(us, total_us).padStart(7)}  ${bar(us)}`;
    }),
    ...deliveryLines(life),
  ];
}

/** Beside the parts, since the next step is computed meanwhile. */
function deliveryLines({ delivery_us }: RequestLife): string[] {
  if (delivery_us === null || delivery_us.max < DELIVERY_WORTH_SAYING_US) return [];
  const { mean, p50, max } = delivery_us;
  return [`  beside that, tokens were on their way to their output process, or waited for its thread, ${ms(mean)} each (p50 ${ms(p50)}, max ${ms(max)})`];
}

function gapLines({ slowest_gaps, tpot_us, choices }: RequestLife): string[] {
  const p50 = tpot_us?.p50 ?? 0;
  const slow = slowest_gaps.filter(({ duration_us }) => duration_us > p50);
  if (slow.length === 0) return [];
  return ['', `SLOWEST GAPS BETWEEN TOKENS (half are at most ${ms(p50)})`, ...slow.map((gap) => `  ${gapText(gap, choices.length > 1)}`)];
}

function gapText({ choice, token, duration_us, breakdown_us, step, others }: TokenGap, hasChoices: boolean): string {
  const of = hasChoices ? ` of choice ${choice}` : '';
  const parts = PHASES.filter((phase) => breakdown_us[phase] > 0).map((phase) => `${PHASE_NAMES[phase]} ${ms(breakdown_us[phase])}`);
  const reasons = [others.steps === 0 ? null : othersText(others), step === null ? null : `its longest step was ${step.kind}, ${stepText(step)}`];
  return [`token ${token}${of}, ${ms(duration_us)}: ${parts.join(', ')}`, ...reasons.filter((reason) => reason !== null)].join('; ');
}

function othersText({ steps, us, prefill_tokens, requests }: OthersSteps): string {
  const prompts = prefill_tokens === 0 ? '' : `, ${count(prefill_tokens, 'token')} of prompts`;
  return `the NPU computed ${count(steps, 'step')} without it (${ms(us)}${prompts}: ${requests.map((id) => `request/${id}`).join(', ')})`;
}

// ── The slowest of a run ────────────────────────────────────────────────────────────────────────────────────────────

export function slowestLines(lives: readonly RequestLife[]): string[] {
  const rows = [
    ['REQUEST', 'ENDED', 'TOTAL', 'TTFT', 'TPOT', 'LONGEST GAP', 'TOKENS', 'PREEMPTED', 'WHERE IT WENT'],
    ...lives.map((life) => [
      life.request,
      life.ending,
      ms(life.total_us),
      life.ttft_us === null ? '–' : ms(life.ttft_us),
      life.tpot_us === null ? '–' : ms(life.tpot_us.mean),
      life.tpot_us === null ? '–' : ms(life.tpot_us.max),
      String(life.tokens),
      String(life.choices.reduce((sum, { preemptions }) => sum + preemptions, 0)),
      largest(life.breakdown_us, life.total_us),
    ]),
  ];
  const widths = (rows[0] as string[]).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) => (column < 2 || column === row.length - 1 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
}

function largest(breakdown_us: Readonly<Breakdown>, total_us: number): string {
  return PHASES.toSorted((a, b) => breakdown_us[b] - breakdown_us[a])
    .slice(0, 3)
    .filter((phase) => breakdown_us[phase] > 0)
    .map((phase) => `${PHASE_NAMES[phase]} ${share(breakdown_us[phase], total_us)}`)
    .join(', ');
}
