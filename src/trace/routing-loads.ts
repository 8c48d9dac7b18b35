/**
 * A routing trace in figures: how many tokens went to each expert, in all and by phase, and in the run's two halves.
 * @module
 */
import type { RoutedStep } from './routing-record.ts';
import type { RoutingTraceReader } from './routing-trace.ts';

/** [layer][expert], layers in the order of the trace's header. */
export type Loads = readonly number[][];

export type RoutingLoads = {
  readonly steps: number;
  /** Tokens whose experts were chosen, by phase. */
  readonly tokens: { readonly prefill: number; readonly decode: number };
  /** Of the run: from its first step to its last. */
  readonly duration_us: number;
  readonly all: Loads;
  readonly prefill: Loads;
  readonly decode: Loads;
  /** Of as many tokens each, but for one step. */
  readonly first_half: Loads;
  readonly second_half: Loads;
  /** Why there is no more: the trace is damaged or unfinished, or recording stopped. */
  readonly incomplete: string | null;
};

/** Reads the trace twice: where its middle is shows at its end. */
export function readLoads(reader: RoutingTraceReader): RoutingLoads {
  const { layers, experts } = reader.header;
  const table = (): number[][] => layers.map(() => new Array<number>(experts).fill(0));
  const [all, prefill, decode, first_half] = [table(), table(), table(), table()];
  const tokens = { prefill: 0, decode: 0 };
  const times: number[] = [];
  let count = 0;
  const steps = reader.steps();
  for (const step of steps) {
    count++;
    times[0] = Math.min(times[0] ?? step.time_us, step.time_us);
    times[1] = Math.max(times[1] ?? step.time_us, step.time_us);
    for (const { phase, rows } of step.spans) tokens[phase] += rows;
    addStep(step, layers.length, (phase) => [all, phase === 'prefill' ? prefill : decode]);
  }
  const incomplete = steps.damage?.message ?? steps.stopped;
  const half = (tokens.prefill + tokens.decode) / 2;
  let seen = 0;
  for (const step of steps) {
    if (seen >= half) break;
    addStep(step, layers.length, () => [first_half]);
    seen += step.spans.reduce((sum, { rows }) => sum + rows, 0);
  }
  const second_half = all.map((row, layer) => row.map((load, expert) => load - (first_half[layer]?.[expert] ?? 0)));
  return { steps: count, tokens, duration_us: (times[1] ?? 0) - (times[0] ?? 0), all, prefill, decode, first_half, second_half, incomplete };
}

function addStep({ spans, experts }: RoutedStep, layers: number, tablesOf: (phase: RoutedStep['spans'][number]['phase']) => readonly number[][][]): void {
  const rows = spans.reduce((sum, span) => sum + span.rows, 0);
  const top_k = experts.length / (layers * rows);
  let row = 0;
  for (const span of spans) {
    const tables = tablesOf(span.phase);
    for (let layer = 0; layer < layers; layer++) {
      const from = (layer * rows + row) * top_k;
      for (let pair = from; pair < from + span.rows * top_k; pair++) {
        const expert = experts[pair] as number;
        for (const loads of tables) (loads[layer] as number[])[expert] = ((loads[layer] as number[])[expert] as number) + 1;
      }
    }
    row += span.rows;
  }
}
