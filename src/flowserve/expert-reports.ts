/**
 * How an NPU's experts are: what waits for each, and what its batches took.
 * @module
 */
import type { ExpertReport } from '../protocol/threads.ts';
import type { Arithmetic } from './arithmetic.ts';
import type { ServiceClock } from './expert-times.ts';
import type { StepProgram } from './step-program.ts';

const NOTHING_TIMED = { batches: 0, tokens: 0, us_sum: 0, counts: [] };

/** `layers`: those that have experts. `clock`: what they are timed by from now on; null: as before. */
export function expertReports(program: StepProgram<Arithmetic>, layers: readonly number[], clock: ServiceClock | null): ExpertReport[] {
  const { npu, forward, batches, exchange } = program;
  if (clock !== null) batches.times.look(clock);
  const { experts } = forward.config.moe;
  const queued = new Map<number, number>();
  exchange.lookAtWaiting((dispatch) =>
    batches.lookInto(dispatch, (expert, pairs) => {
      const key = dispatch.layer * experts + expert;
      queued.set(key, (queued.get(key) ?? 0) + pairs);
    }),
  );
  return layers.flatMap((layer) => {
    const own = Array.from({ length: experts }, (_, expert) => expert).filter((expert) => forward.placeOfExpert(layer, expert) !== null);
    return own.map((expert): ExpertReport => {
      const { batches: timed, tokens, us_sum, counts } = batches.times.of(layer, expert) ?? NOTHING_TIMED;
      return { npu, layer, expert, queued: queued.get(layer * experts + expert) ?? 0, batches: timed, tokens, us_sum, counts };
    });
  });
}
