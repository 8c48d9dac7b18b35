/**
 * How often properties run: as their tests say, or RUNS times as often in a campaign, each time with other seeds:
 * `RUNS=50 npx vitest --run --testTimeout=1000000 test/actors`
 */
const TIMES = Number(process.env['RUNS'] ?? 1);

export const isCampaign = TIMES !== 1;

export const runs = (count: number): number => Math.ceil(count * TIMES);
