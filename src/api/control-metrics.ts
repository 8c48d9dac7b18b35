/**
 * Control threads that were lost, as a Prometheus metric: no caller notices more than the time that it took, and whoever runs the server must.
 * @module
 */
import { Counter, type Registry } from 'prom-client';
import type { PodStats } from '../stats.ts';

export function controlMetrics(registry: Registry): (stats: PodStats) => void {
  const lost = new Counter({
    name: 'minipod:control_threads_lost_total',
    help: 'Times the control thread was lost, with all others: what ran went on with its successor, by the threads of another pod.',
    registers: [registry],
  });
  return ({ control_threads_lost }) => {
    lost.reset();
    lost.inc(control_threads_lost);
  };
}
