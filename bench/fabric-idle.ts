/**
 * What a pod costs that has nothing to do, in a process of its own: what other benchmarks leave to be collected would count as the pod's.
 * @module
 */
import { execFileSync } from 'node:child_process';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createPod, type Pod } from '../src/index.ts';
import { atMost, digits } from './fabric-report.ts';
import { median, printTable } from './harness.ts';

type Idle = { readonly idle_ms: number; readonly cpu_percent: number; readonly first_token_after_ms: number; readonly first_token_awake_ms: number };

const IDLE_MS = Number(process.env['BENCH_IDLE_MS'] ?? 10_000);
const SETTLE_MS = 2_000;
const IDLE_GOAL_PERCENT = 1;
const POD = { npus: 8, workers: 2 } as const;
const PROMPT = [1, 86, 1461, 613, 265, 531, 460, 315];
const AWAKE_REQUESTS = 9;

async function firstToken_ms(pod: Pod): Promise<number> {
  const start = performance.now();
  let first = Number.NaN;
  for await (const _ of pod.generate(PROMPT, { max_tokens: 2, temperature: 0, ignore_eos: true })) if (Number.isNaN(first)) first = performance.now() - start;
  return first;
}

async function idleOnce(): Promise<Idle> {
  await using pod = await createPod(POD);
  for (let request = 0; request < AWAKE_REQUESTS; request++) await firstToken_ms(pod);
  const awake: number[] = [];
  for (let request = 0; request < AWAKE_REQUESTS; request++) awake.push(await firstToken_ms(pod));
  await setTimeout(SETTLE_MS);
  const before = process.cpuUsage();
  const start = performance.now();
  await setTimeout(IDLE_MS);
  const took_ms = performance.now() - start;
  const { user, system } = process.cpuUsage(before);
  return {
    idle_ms: took_ms,
    cpu_percent: (user + system) / 1000 / (took_ms / 100),
    first_token_after_ms: await firstToken_ms(pod),
    first_token_awake_ms: median(awake),
  };
}

export async function measureIdle(): Promise<unknown> {
  const runtime = 'Deno' in globalThis ? ['run', '-A', '--node-modules-dir=manual'] : [];
  const said = execFileSync(process.execPath, [...runtime, fileURLToPath(import.meta.url), 'once'], { encoding: 'utf8' });
  const row = { ...(JSON.parse(said) as Idle), goal_percent: IDLE_GOAL_PERCENT };
  printTable(
    `A pod of ${POD.npus} NPUs on ${POD.workers} workers with nothing to do for ${(row.idle_ms / 1000).toFixed(0)} s, and its first request then`,
    ['CPU, % of a core', 'goal', 'first token, ms', 'first token while awake, ms'],
    [[digits(row.cpu_percent), atMost(row.goal_percent, row.cpu_percent), digits(row.first_token_after_ms), digits(row.first_token_awake_ms)]],
  );
  return row;
}

if (process.argv[2] === 'once') console.log(JSON.stringify(await idleOnce()));
