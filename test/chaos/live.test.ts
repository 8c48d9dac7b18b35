/** Worker threads of a live pod, its memory and its rings break under load: all of it is found or heals, and no token is another. */
import { expect, it } from 'vitest';
import { LIVE_KINDS, type LiveReport } from '../../src/chaos/index.ts';
import { minipod } from '../cli/command.ts';

/** Two more of these: with this seed one of what the struck worker reads, one that the caller reads, and one that another thread does. */
const KINDS = [...LIVE_KINDS, 'frame-torn', 'frame-torn'];
const SEED = 5;

it('each kind of strike takes effect, and is survived', async () => {
  const flags = ['--strikes', `${KINDS.length}`, '--seed', `${SEED}`, '--kinds', KINDS.join(',')];
  const { code, stdout, stderr } = await minipod(['chaos', 'live', ...flags, '--json']);
  const { strikes, calls, violations } = JSON.parse(stdout) as LiveReport;
  expect([violations, code, stderr]).toEqual([[], 0, '']);
  expect(strikes.map(({ kind, struck }) => [kind, struck])).toEqual(KINDS.map((kind) => [kind, true]));
  expect(strikes.flatMap(({ guard, parts }) => (guard === 'frame' && parts !== null ? [guard] : [])).length).toBe(3);
  expect(calls).toBeGreaterThanOrEqual(4 * KINDS.length);
});
