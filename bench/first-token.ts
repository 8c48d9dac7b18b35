/** From createPod to the first token of the shipped model, each time in a fresh process, the module graph loaded anew. @module */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { machine, median, printTable, writeResults } from './harness.ts';

const ROUNDS = 9;
const GOAL_MS = 1_000;

if (process.argv[2] === 'once') {
  const imported = performance.now();
  const { createPod } = await import('../src/index.ts');
  const start = performance.now();
  await using pod = await createPod();
  const created = performance.now();
  for await (const _ of pod.generate('Once upon a time', { max_tokens: 1, seed: 1, ignore_eos: true })) break;
  console.log(JSON.stringify({ import_ms: start - imported, create_ms: created - start, first_token_ms: performance.now() - start }));
} else {
  type Round = { import_ms: number; create_ms: number; first_token_ms: number };
  const self = fileURLToPath(import.meta.url);
  const rounds = Array.from({ length: ROUNDS }, () => JSON.parse(execFileSync(process.execPath, [self, 'once'], { encoding: 'utf8' })) as Round);
  const of = (name: keyof Round): number => median(rounds.map((round) => round[name]));
  printTable(
    `createPod to first token, shipped model (medians of ${ROUNDS} fresh processes; ${machine()['cpu']}, ${machine()['cores']} cores)`,
    ['phase', 'ms', 'goal'],
    [
      ['import of minipod', of('import_ms').toFixed(0), ''],
      ['createPod', of('create_ms').toFixed(0), ''],
      ['createPod to first token', of('first_token_ms').toFixed(0), `≤ ${GOAL_MS}`],
    ],
  );
  writeResults('bench/results/first-token.json', rounds);
}
