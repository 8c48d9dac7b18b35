/**
 * Who was silent, as Prometheus metrics, `minipod:…`: what became of suspicions, and who is silent now and replaced by nobody.
 * @module
 */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { PodStats } from '../stats.ts';

export function suspicionMetrics(registry: Registry): (stats: PodStats) => void {
  const registers = [registry];
  const ended = new Counter({
    name: 'minipod:suspicions_total',
    help: 'Times somebody was silent for too long: its worker was given up; it was over, as was its life; or borne, with why.',
    labelNames: ['verdict'],
    registers,
  });
  const silent = new Gauge({
    name: 'minipod:suspected_silent_seconds',
    help: 'How long who is silent and replaced by nobody had been so when it was suspected last; /health is 503.',
    labelNames: ['member', 'why'],
    registers,
  });
  return ({ suspicions: { counts, standing } }) => {
    for (const metric of [ended, silent]) metric.reset();
    for (const [verdict, count] of Object.entries(counts)) ended.inc({ verdict }, count);
    for (const { member, why, silent_seconds } of standing) silent.set({ member, why }, silent_seconds);
  };
}
