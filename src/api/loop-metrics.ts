/**
 * How the loops do that nobody asks for, as Prometheus metrics, `minipod:…`.
 * @module
 */
import { Gauge, type Registry } from 'prom-client';
import type { PodStats } from '../stats.ts';

export function loopMetrics(registry: Registry): (stats: PodStats) => void {
  const labelNames = ['loop', 'owner'] as const;
  const gauge = (name: string, help: string) => new Gauge({ name: `minipod:control_loop_${name}`, help, labelNames, registers: [registry] });
  const still = gauge('still_seconds', 'Since when the loop has made no progress, though it had something to do.');
  const stalled = gauge('stalled', '1: no progress for two periods, nor for twice as long as it may wait for others: /health is 503.');
  return ({ loops }) => {
    for (const metric of [still, stalled]) metric.reset();
    for (const { loop, owner, still_seconds, stalled: isStalled } of loops) {
      still.set({ loop, owner }, still_seconds);
      stalled.set({ loop, owner }, Number(isStalled));
    }
  };
}
