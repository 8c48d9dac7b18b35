/** Runs the `minipod` command as a person would, on the runtime that runs the tests. @module */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundleOf } from '../../scripts/bundle-names.ts';

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

export const minipod = (args: readonly string[], stdin = ''): Promise<Ended> => start(args, stdin).ended;

export const jsonLines = (text: string): unknown[] =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
