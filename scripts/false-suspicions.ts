/**
 * Whether a live pod that is well is ever taken for one that hangs while others want its processors: so many busy loops run beside it, and calls come one after
 * another, with times in between when there is nothing to do. Exits with 1 if anybody was suspected, or a thread was lost, or a token was another.
 *
 * @example
 * node scripts/false-suspicions.ts --minutes 10 --loops 2
 * @module
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { playClient } from '../src/chaos/client.ts';
import type { ChaosCall } from '../src/chaos/index.ts';
import { Undisturbed } from '../src/chaos/undisturbed.ts';
import { createPod } from '../src/index.ts';
import { draws } from '../test/trace/files.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    loops: { type: 'string', default: '2' },
    topology: { type: 'string', default: 'colocated:dp=2' },
    workers: { type: 'string', default: '2' },
    seed: { type: 'string', default: '1' },
  },
});
const STAYS = { leaves: -1, turns: 0 } as const;
const CALLS_AT_ONCE_MAX = 4;
/** Longer than it takes to be suspected. */
const IDLE_MS_MAX = 1_500;

const spin = `while (process.ppid === ${process.pid}) for (let turn = 0; turn < 1e7; turn++);`;
// Each in a session of its own: Linux shares processors among those first, so they would take nothing but the pod's own share.
const loops = Array.from({ length: Number(values.loops) }, () => spawn(process.execPath, ['-e', spin], { stdio: 'ignore', detached: true }));
const below = draws(Number(values.seed));
const began_ms = performance.now();
const limit_ms = Number(values.minutes) * 60_000;
const wrong: string[] = [];
let [calls, tokens] = [0, 0];
{
  await using undisturbed = new Undisturbed();
  await using pod = await createPod({ topology: values.topology, workers: Number(values.workers) });
  while (performance.now() - began_ms < limit_ms) {
    // Prompts that are long are steps that answer nothing for as long.
    const asked = Array.from(
      { length: 1 + below(CALLS_AT_ONCE_MAX) },
      (): ChaosCall => ({ ms: 0, key: below(12), prompt_tokens: [24, 400][below(2)] as number, stem_tokens: 0, max_tokens: 48, n: 1 }),
    );
    const answers = await Promise.all(asked.map((call) => undisturbed.answerOf({ pod: { kernels: 'real' } }, call)));
    const reports = await Promise.all(asked.map((call, index) => playClient(pod, call, answers[index] ?? [], STAYS)));
    for (const { code, message, wrong: told } of reports) if (code !== 'finished' || told.length > 0) wrong.push(`${code} ${message} ${told[0] ?? ''}`);
    calls += reports.length;
    tokens += reports.reduce((sum, report) => sum + report.tokens, 0);
    await new Promise((resolve) => setTimeout(resolve, below(4) === 0 ? below(IDLE_MS_MAX) : 0));
  }
  const {
    suspicions: { counts, standing },
    fabric: { threads },
    recoveries,
  } = await pod.stats();
  const suspected = Object.values(counts).reduce((sum, count) => sum + count, 0) + standing.length;
  const lost = threads.filter(({ epoch }) => epoch > 1).length;
  const minutes = ((performance.now() - began_ms) / 60_000).toFixed(1);
  const [load] = readFileSync('/proc/loadavg', 'utf8').split(' ');
  console.log(
    `${minutes} minutes beside ${loops.length} busy loops: ${calls} calls, ${tokens} tokens, ${suspected} suspicions (${JSON.stringify(counts)}), ${lost} threads lost, ${recoveries.length} recoveries, ${wrong.length} calls wrong; load of the machine at the end ${load}`,
  );
  for (const { worker, reason } of recoveries) console.log(`worker ${worker}: ${reason}`);
  for (const what of wrong.slice(0, 5)) console.log(what);
  process.exitCode = suspected + lost + recoveries.length + wrong.length > 0 ? 1 : 0;
}
for (const loop of loops) loop.kill();
