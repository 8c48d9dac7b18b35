/**
 * How an NPU's experts are: what waits for each, and what its batches took.
 * @module
 */
import type { ExpertReport } from '../../protocol/threads.ts';
import type { ExpertService } from './expert-service.ts';
import type { ServiceClock } from './expert-times.ts';

const NOTHING_TIMED = { batches: 0, tokens: 0, us_sum: 0, counts: [] };

/** `layers`: those that have experts. `clock`: what they are timed by from now on; null: as before. */
export function expertReports(service: ExpertService, layers: readonly number[], clock: ServiceClock | null): ExpertReport[] {
  const { npu, forward, times, exchange } = service;
  if (clock !== null) times.look(clock);
  const { experts } = forward.config.moe;
  const queued = new Map<number, number>();
  exchange.lookAtWaiting((dispatch) =>
    service.lookInto(dispatch, (expert, pairs) => {
      // The shared expert comes after all others.
      const key = dispatch.layer * (experts + 1) + expert;
      queued.set(key, (queued.get(key) ?? 0) + pairs);
    }),
  );
  return layers.flatMap((layer) => {
    return service.expertsHeld(layer).map((expert): ExpertReport => {
      const { batches, tokens, us_sum, counts } = times.of(layer, expert) ?? NOTHING_TIMED;
      return { npu, layer, expert, queued: queued.get(layer * (experts + 1) + expert) ?? 0, batches, tokens, us_sum, counts };
    });
  });
}
