/** Threads of a live pod, its memory and its rings break under load: all of it is found or heals, and no token is another. */
import { expect, it } from 'vitest';
import { LIVE_KINDS, type LiveReport } from '../../src/chaos/index.ts';
import { minipod } from '../cli/command.ts';

/**
 * Three torn frames: with this seed one of what the struck worker reads, one that the caller reads, and one that another thread does. On Deno who spins does so for as
 * long as the pod lives, so it comes last. A control thread that hangs is found after ten seconds: control-lost.test.ts has one that is given up sooner.
 */
const KINDS = [...LIVE_KINDS.filter((kind) => kind !== 'worker-spins' && kind !== 'control-spins'), 'frame-torn', 'frame-torn', 'worker-spins'];
/** Whose stall has a bound, since nobody finds them. */
const BOUNDED = ['ring-full', 'bell-lost', 'acknowledgement-stale', 'field-stale'];
const SEED = 6;
/** Under a load of seventeen it took 52 s. */
const TIMEOUT_MS = 150_000;

it('each kind of strike takes effect, and is survived', { timeout: TIMEOUT_MS }, async () => {
  const flags = ['--strikes', `${KINDS.length}`, '--seed', `${SEED}`, '--kinds', KINDS.join(',')];
  const { code, stdout, stderr } = await minipod(['chaos', 'live', ...flags, '--json']);
  const { strikes, calls, violations } = JSON.parse(stdout) as LiveReport;
  expect([violations, code, stderr]).toEqual([[], 0, '']);
  expect(strikes.map(({ kind, struck }) => [kind, struck])).toEqual(KINDS.map((kind) => [kind, true]));
  expect(strikes.flatMap(({ guard, parts }) => (guard === 'frame' && parts !== null ? [guard] : [])).length).toBe(3);
  expect(strikes.flatMap(({ kind, bound_ms }) => (bound_ms === null ? [] : [kind])).toSorted()).toEqual(process.platform === 'linux' ? BOUNDED.toSorted() : []);
  expect(calls).toBeGreaterThanOrEqual(4 * KINDS.length);
});
