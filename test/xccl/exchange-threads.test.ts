/** Dispatch and combine, A2E and E2A across real threads: ranks of one thread or of several look the same. */
import { expect, it } from 'vitest';
import { cases, SEED } from '../property-runs.ts';
import { split } from './a2e-rig.ts';
import { colocated } from './all-to-all-rig.ts';
import type { ExchangeArgs, ExchangeResult } from './exchange-program.ts';
import { areaBytes } from './exchange-rig.ts';
import { onThreads } from './rig-threads.ts';

const ROUNDS = 100;

const FORMS = [
  ['all-to-all', 4, 5],
  ['all-to-all', 2, 1],
  ['naive', 3, 2],
  ['trampoline', 4, 5],
] as const;

it.each(cases(FORMS))('%s over %i threads and %i segments: every rank gets the bits of the plain sum in every round', async (form, threads, segments) => {
  const shape = form === 'all-to-all' ? colocated(7, 24, 3, 5, 16, SEED) : split(3, 5, 24, 3, 8, 16, SEED);
  const dies = form === 'all-to-all' ? 7 : 8;
  const { app_bytes, ...sizes } = areaBytes(shape);
  const program = new URL('exchange-program.ts', import.meta.url);
  const results = await onThreads<ExchangeArgs, ExchangeResult>(dies, { threads, segments, sizes, app_bytes }, program, () => ({
    ...{ form, shape, seed: SEED, rounds: ROUNDS },
    timeout_ms: 20_000,
  }));
  expect(results, `seed ${SEED}`).toEqual(Array.from({ length: threads }, () => ({ errors: [], stale: 0 })));
});
