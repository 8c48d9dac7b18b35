/**
 * Runs a campaign's seeds with one mutant after the other, each until a seed does not hold, in one process that stays warm. Prints a line as each begins and as it
 * ends; a process that dies in between has died of that one. Of mutant 0 it prints a line a seed, with the places passed (switch-thread.mjs).
 * @module
 */
import { runSeed } from '../../src/chaos/campaign.ts';
import { Undisturbed } from '../../src/chaos/undisturbed.ts';

export type SeedOrder = { readonly mutant: number; readonly seeds: readonly number[] };
export type SeedRun = { readonly seed: number; readonly cpu_s: number; readonly verdict: string; readonly what: string; readonly places: readonly number[] };
export type SeedLine = ({ readonly begin: number } | { readonly mutant: number; readonly killer: string | null }) & Partial<SeedRun>;

const { takeReached, switchTo } = globalThis as { takeReached?: () => readonly number[]; switchTo?: (mutant: number) => void };
const [, , orders = '[]', cpu_s_max = 'Infinity'] = process.argv;
const used_s = (): number => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};
const say = (line: object): void => console.log(JSON.stringify(line));

let failure: unknown = null;
for (const event of ['uncaughtException', 'unhandledRejection'] as const)
  process.on(event, (error) => {
    failure ??= error;
  });

async function killerOf(seeds: readonly number[]): Promise<string | null> {
  failure = null;
  const began_s = used_s();
  try {
    await using undisturbed = new Undisturbed();
    for (const seed of seeds) {
      const from_s = used_s();
      if (from_s - began_s > Number(cpu_s_max)) return null;
      const { verdict, violations } = await runSeed(seed, {}, undisturbed);
      if (takeReached !== undefined) say({ seed, cpu_s: used_s() - from_s, verdict, what: violations[0]?.what ?? '', places: takeReached() });
      if (verdict !== 'held') return `seed ${seed}: ${verdict}: ${violations[0]?.what.slice(0, 160)}`;
    }
  } catch (error) {
    failure ??= error;
  }
  return failure === null ? null : `seeds: ${String(failure).split('\n')[0]?.slice(0, 160)}`;
}

// What modules pass as they load is no seed's.
if (takeReached !== undefined) say({ seed: -1, cpu_s: 0, verdict: 'held', what: '', places: takeReached() });
for (const { mutant, seeds } of JSON.parse(orders) as readonly SeedOrder[]) {
  say({ begin: mutant });
  switchTo?.(mutant);
  say({ mutant, killer: await killerOf(seeds) });
}
process.exit();
