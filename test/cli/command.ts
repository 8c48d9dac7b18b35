/**
 * Runs the `minipod` command, on the runtime that runs the tests: `start` and what goes by it as a person would, in a process of its own, for what is about
 * processes, signals, pipes and exit codes; `minipod` on the test's own thread, which saves the start of a runtime each time.
 * @module
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { bundleOf } from '../../scripts/bundle-names.ts';
import { run } from '../../src/cli/program.ts';

const isDeno = 'Deno' in globalThis;
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const bundles = process.env['MINIPOD_BUNDLES'];
/** What the runtime runs: the sources' bundle, where the root is this clone and there is one (bundled-threads.ts). */
export function entryOf(root: string = ROOT): readonly string[] {
  if (!isDeno) return [join(root, 'bin/minipod.js')];
  return ['run', '-A', bundles !== undefined && root === ROOT ? fileURLToPath(new URL(bundleOf('src/cli/main'), bundles)) : join(root, 'src/cli/main.ts')];
}

export type Ended = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

export class Run {
  readonly process: ChildProcess;
  readonly ended: Promise<Ended>;
  stdout = '';
  stderr = '';

  constructor(args: readonly string[], stdin: string, env: NodeJS.ProcessEnv, root: string, shell?: string) {
    const command = [process.execPath, ...entryOf(root), ...args];
    const [file = '', ...rest] = shell === undefined ? command : ['bash', '-c', shell, 'bash', ...command];
    this.process = spawn(file, rest, { cwd: root, stdio: 'pipe', env: { ...process.env, ...env } });
    this.process.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
    });
    this.process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.process.stdin?.on('error', () => {});
    this.process.stdin?.end(stdin);
    this.ended = new Promise((resolve, reject) => {
      this.process.once('error', reject);
      this.process.once('close', (code) => resolve({ code, stdout: this.stdout, stderr: this.stderr }));
    });
  }

  /** Not by the handle's own kill: Deno then reports the signal instead of the exit code that the process gave. */
  kill(signal: 'SIGINT' | 'SIGTERM' | 'SIGKILL'): void {
    if (this.process.pid !== undefined) process.kill(this.process.pid, signal);
  }

  /** Waits until standard output is as it should be. */
  async until(isSo: (stdout: string) => boolean): Promise<void> {
    while (!isSo(this.stdout)) {
      if (this.process.exitCode !== null) throw new Error(`minipod ended with ${this.process.exitCode}: ${this.stdout}${this.stderr}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

/** `root`: where the sources are. */
export const start = (args: readonly string[], stdin = '', env: NodeJS.ProcessEnv = {}, root = ROOT): Run => new Run(args, stdin, env, root);

/** Under a line of bash that ends in `exec "$@"`: with limits, or with a signal ignored. */
export const minipodUnder = (shell: string, args: readonly string[]): Promise<Ended> => new Run(args, '', {}, ROOT, shell).ended;

/** In a process of its own. */
export const minipodAlone = (args: readonly string[], stdin = ''): Promise<Ended> => start(args, stdin).ended;

/** Those that began before: a thread has one standard output. */
let before: Promise<unknown> = Promise.resolve();

/** On this thread, after those that began before. */
export function minipod(args: readonly string[], stdin = ''): Promise<Ended> {
  const ended = before.then(() => runHere(args, stdin));
  before = ended.catch(() => {});
  return ended;
}

/** Its streams are no terminals, as a process has them whose caller reads them. */
async function runHere(args: readonly string[], input: string): Promise<Ended> {
  const folder = mkdtempSync(join(tmpdir(), 'minipod-stderr-'));
  const path = join(folder, 'stderr');
  // A file: some is written by descriptor, so that it is out before the process ends.
  const fd = openSync(path, 'w');
  let stdout = '';
  const streams = {
    stdin: Readable.from(input === '' ? [] : [Buffer.from(input)]),
    stdout: new Writable({
      decodeStrings: false,
      write(text, _encoding, done) {
        stdout += text;
        done();
      },
    }),
    stderr: Object.assign(new Writable({ write: (text, _encoding, done) => done(writeSync(fd, text) < 0 ? new Error('it cannot be written') : null) }), { fd }),
  };
  const own = Object.keys(streams).map((name) => [name, Object.getOwnPropertyDescriptor(process, name)] as const);
  for (const [name, value] of Object.entries(streams)) Object.defineProperty(process, name, { value, configurable: true });
  try {
    const code = await run(args);
    return { code, stdout, stderr: readFileSync(path, 'utf8') };
  } finally {
    for (const [name, property] of own) if (property !== undefined) Object.defineProperty(process, name, property);
    closeSync(fd);
    rmSync(folder, { recursive: true });
  }
}

export const jsonLines = (text: string): unknown[] =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
