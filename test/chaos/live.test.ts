/** Threads of live pods, their memory and their rings break under load: all of it is found or heals, and no token is another. */
import { stripVTControlCharacters } from 'node:util';
import { expect, it } from 'vitest';
import { LIVE_KINDS, type LiveKind, type LiveReport } from '../../src/chaos/index.ts';
import { minipodAlone } from '../cli/command.ts';

/**
 * A run rests after each loss, as long as a pod's restart intensity wants it: two do so side by side. On Deno who spins does so for as long as the pod lives, so it
 * comes last. A control thread that hangs is found after ten seconds: control-lost.test.ts has one that is given up sooner.
 */
const ENDS: readonly LiveKind[] = ['worker-dies', 'worker-blocks', 'zombie-writes', 'control-lost', 'worker-spins'];
/** Three torn frames: with this seed one of what the struck worker reads, one that the caller reads, and one that another thread does. */
const OTHERS: readonly LiveKind[] = [...LIVE_KINDS.filter((kind) => !ENDS.includes(kind) && kind !== 'control-spins'), 'frame-torn', 'frame-torn'];
/** Whose stall has a bound, since nobody finds them. */
const BOUNDED = ['ring-full', 'bell-lost', 'acknowledgement-stale', 'field-stale'];
const SEED = 17;
/** On a crowded machine it took 32 s. */
const TIMEOUT_MS = 150_000;

/** Of a process; Deno itself tells there of each thread that ended with an error: a line, the source and the stack. */
const saidBesides = (stderr: string): string => stripVTControlCharacters(stderr).replaceAll(/^error: Uncaught \(in worker.*\n(?:\s.*\n)*/gm, '');

it('each kind of strike takes effect, and is survived', { timeout: TIMEOUT_MS }, async () => {
  const plans = [ENDS, OTHERS];
  const flagsOf = (kinds: readonly LiveKind[]): string[] => ['--strikes', `${kinds.length}`, '--seed', `${SEED}`, '--kinds', kinds.join(','), '--json'];
  const ended = await Promise.all(plans.map((kinds) => minipodAlone(['chaos', 'live', ...flagsOf(kinds)])));
  const strikes = ended.flatMap(({ code, stdout, stderr }, run) => {
    const kinds = plans[run] as readonly LiveKind[];
    const { strikes, calls, violations } = JSON.parse(stdout) as LiveReport;
    expect([violations, code, 'Deno' in globalThis ? saidBesides(stderr) : stderr]).toEqual([[], 0, '']);
    expect(strikes.map(({ kind, struck }) => [kind, struck])).toEqual(kinds.map((kind) => [kind, true]));
    expect(calls).toBeGreaterThanOrEqual(4 * kinds.length);
    return strikes;
  });
  expect(strikes.flatMap(({ guard, parts }) => (guard === 'frame' && parts !== null ? [guard] : [])).length).toBe(3);
  expect(strikes.flatMap(({ kind, bound_ms }) => (bound_ms === null ? [] : [kind])).toSorted()).toEqual(process.platform === 'linux' ? BOUNDED.toSorted() : []);
});
