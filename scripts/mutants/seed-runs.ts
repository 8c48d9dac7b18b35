/**
 * Runs a campaign's seeds in a process of its own, until one does not hold: prints what each passed where places are noted (switch-thread.mjs), else the first that
 * does not hold.
 * @module
 */
import { runSeed } from '../../src/chaos/campaign.ts';
import { Undisturbed } from '../../src/chaos/undisturbed.ts';

export type SeedRun = { readonly seed: number; readonly cpu_s: number; readonly verdict: string; readonly what: string; readonly places: readonly number[] };

const { takeReached } = globalThis as { takeReached?: () => readonly number[] };
const [, , given = '[]', cpu_s_max = 'Infinity'] = process.argv;
const used_s = (): number => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

await using undisturbed = new Undisturbed();
const began_s = used_s();
for (const seed of JSON.parse(given) as readonly number[]) {
  const from_s = used_s();
  if (from_s - began_s > Number(cpu_s_max)) break;
  const { verdict, violations } = await runSeed(seed, {}, undisturbed);
  const run: SeedRun = { seed, cpu_s: used_s() - from_s, verdict, what: violations[0]?.what ?? '', places: takeReached?.() ?? [] };
  if (takeReached !== undefined || verdict !== 'held') console.log(JSON.stringify(run));
  if (verdict !== 'held') break;
}
