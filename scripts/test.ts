/**
 * `npm test`: types, lint, kernels as committed, then the suites on Node and on Deno. Goes on after a failure, so that one run shows them all,
 * and ends with the line `N passed, N failed`.
 *
 * @example
 * node scripts/test.ts               # everything
 * node scripts/test.ts test/api      # only these suites, on Node and Deno
 * @module
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const VITEST = join(ROOT, 'node_modules/vitest/vitest.mjs');

const DENO = join(ROOT, 'node_modules/.bin/deno');
const DENO_FLAGS = ['run', '-A', '--node-modules-dir=manual'];
/** About npm, what it packs and the tools around it: on Node only. */
const NODE_ONLY = ['test/packaging'];

type Tally = { passed: number; failed: number };
type Report = {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly testResults: readonly { readonly status: string; readonly assertionResults: readonly unknown[] }[];
};

const say = (title: string): void => console.log(`\n\x1b[1m── ${title}\x1b[0m`);

function run(command: string, args: readonly string[]): boolean {
  const { status, error } = spawnSync(command, args, { cwd: ROOT, stdio: 'inherit' });
  if (error) console.error(error.message);
  return status === 0;
}

/** A check counts as one test. */
function check(title: string, args: readonly string[]): Tally {
  say(title);
  return run(process.execPath, args) ? { passed: 1, failed: 0 } : { passed: 0, failed: 1 };
}

/** Runs vitest in a runtime and counts from its JSON report. */
function suites(title: string, command: string, args: readonly string[], folder: string): Tally {
  say(`suites on ${title}`);
  const file = join(folder, `${title}.json`);
  const succeeded = run(command, [...args, '--run', '--reporter=default', '--reporter=json', `--outputFile.json=${file}`]);
  if (!existsSync(file)) return { passed: 0, failed: 1 };
  const { numPassedTests, numFailedTests, testResults } = JSON.parse(readFileSync(file, 'utf8')) as Report;
  // A file that does not load has no tests that could fail.
  const broken = testResults.filter(({ status, assertionResults }) => status === 'failed' && assertionResults.length === 0).length;
  const failed = numFailedTests + broken;
  // An error outside any test fails the run as well.
  return { passed: numPassedTests, failed: failed === 0 && !succeeded ? 1 : failed };
}

const chosen = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), 'minipod-test-'));
const tallies = [
  check('types', ['node_modules/typescript/bin/tsc', '-p', '.']),
  check('lint', ['node_modules/@biomejs/biome/bin/biome', 'check', '.']),
  check('kernels: what their source builds', ['scripts/build-kernels.ts', '--check']),
  suites('node', process.execPath, [VITEST, ...chosen], folder),
  suites('deno', DENO, [...DENO_FLAGS, VITEST, ...chosen, ...NODE_ONLY.flatMap((path) => ['--exclude', `${path}/**`])], folder),
];
rmSync(folder, { recursive: true });

const passed = tallies.reduce((sum, tally) => sum + tally.passed, 0);
const failed = tallies.reduce((sum, tally) => sum + tally.failed, 0);
console.log(`\n${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
