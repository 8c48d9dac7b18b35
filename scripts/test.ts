/**
 * `npm test`: types, lint, kernels as committed, then the suites on Node and on Deno. Goes on after a failure, so that one run shows them all,
 * and ends with what failed, then the line `N passed, N failed`.
 *
 * Node runs all tests, Deno those that a runtime has a say in (test/on-one-runtime.ts says which are left). Of a property's runs and of a list's like cases
 * Deno tries a part (test/property-runs.ts); threads and commands load one file each (test/bundled-threads.ts). What npm packs, and what starts both runtimes
 * itself, is in Node's suite alone.
 *
 * @example
 * node scripts/test.ts               # everything
 * node scripts/test.ts test/api      # only these suites, on Node and Deno
 * @module
 */
import { execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const VITEST = join(ROOT, 'node_modules/vitest/vitest.mjs');

/** Of a check that has much to say. */
const OUTPUT_BYTES_MAX = 2 ** 26;
const DENO = join(ROOT, 'node_modules/.bin/deno');
const DENO_FLAGS = ['run', '-A', '--node-modules-dir=manual'];

type Tally = { readonly passed: number; readonly failures: readonly string[] };
type Report = {
  readonly numPassedTests: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string; readonly failureMessages: readonly string[] }[];
  }[];
};

const say = (title: string): void => console.log(`\n\x1b[1m── ${title}\x1b[0m`);

function run(command: string, args: readonly string[]): boolean {
  const { status, error } = spawnSync(command, args, { cwd: ROOT, stdio: 'inherit' });
  if (error) console.error(error.message);
  return status === 0;
}

/** A check counts as one test. Several run at once, so what one says comes in one piece. */
const check = (title: string, args: readonly string[]): Promise<Tally> =>
  new Promise((resolve) => {
    execFile(process.execPath, args, { cwd: ROOT, maxBuffer: OUTPUT_BYTES_MAX }, (error, stdout, stderr) => {
      say(title);
      process.stdout.write(`${stdout}${stderr}`);
      resolve(error === null ? { passed: 1, failures: [] } : { passed: 0, failures: [title] });
    });
  });

/** Runs vitest in a runtime and counts from its JSON report. */
function suites(title: string, command: string, args: readonly string[], folder: string): Tally {
  say(`suites on ${title}`);
  const file = join(folder, `${title}.json`);
  const succeeded = run(command, [...args, '--run', '--reporter=default', '--reporter=json', `--outputFile.json=${file}`]);
  if (!existsSync(file)) return { passed: 0, failures: [`${title}: vitest ended without a report`] };
  const { numPassedTests, testResults } = JSON.parse(readFileSync(file, 'utf8')) as Report;
  const failures = testResults.flatMap(({ name, status, message, assertionResults }) => {
    const where = `${title}: ${relative(ROOT, name)}`;
    // A file that does not load has no tests that could fail.
    if (status === 'failed' && assertionResults.length === 0) return [`${where}\n${message}`];
    return assertionResults.filter((test) => test.status === 'failed').map((test) => [`${where} > ${test.fullName}`, ...test.failureMessages].join('\n'));
  });
  if (failures.length === 0 && !succeeded) return { passed: numPassedTests, failures: [`${title}: an error outside any test, see above`] };
  return { passed: numPassedTests, failures };
}

const chosen = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), 'minipod-test-'));
const tallies = [
  ...(await Promise.all([
    check('types', ['node_modules/typescript/bin/tsc', '-p', '.']),
    check('lint', ['node_modules/@biomejs/biome/bin/biome', 'check', '.']),
    check('kernels: what their source builds', ['scripts/build-kernels.ts', '--check']),
  ])),
  suites('node', process.execPath, [VITEST, ...chosen], folder),
  suites('deno', DENO, [...DENO_FLAGS, VITEST, ...chosen], folder),
];
rmSync(folder, { recursive: true });

const passed = tallies.reduce((sum, tally) => sum + tally.passed, 0);
const failures = tallies.flatMap((tally) => tally.failures);
for (const failure of failures) console.log(`\n\x1b[31mfailed\x1b[0m ${failure}`);
console.log(`\n${passed} passed, ${failures.length} failed`);
process.exitCode = failures.length === 0 ? 0 : 1;
