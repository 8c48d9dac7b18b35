/**
 * How much of what differs by chance or by a list is tried. Node tries all; Deno a share of it: what every seed or topology has in
 * common is what the runtime has a say in. A campaign tries more, each time with other seeds:
 * `RUNS=50 npx vitest --run --testTimeout=1000000 test/actors`
 */
const TIMES = Number(process.env['RUNS'] ?? 1);
const SHARE_ON_DENO = 4;

export const isCampaign = TIMES !== 1;

/** What is drawn is drawn from it: the suite is the same run for the same sources, `SEED=7 npm test` another one, and each campaign one of its own. */
export const SEED = Number(process.env['SEED'] ?? (isCampaign ? Date.now() & 0x7fff_ffff : 2508));
const isPart = 'Deno' in globalThis && !isCampaign;

/** How often a property runs. */
export const runs = (count: number): number => Math.ceil((count * TIMES) / (isPart ? SHARE_ON_DENO : 1));

/** Those of a list's cases that are tried: the first on every runtime, and every third one after it. */
export const cases = <Case>(all: readonly Case[]): readonly Case[] => (isPart ? all.filter((_, index) => index % 3 === 0) : all);
