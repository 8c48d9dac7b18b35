/** `deno run` from the sources does what Node does, with the same bits. Part of Node's suite: this one starts both. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const DENO = ['run', '-A', '--node-modules-dir=manual'];
const bin = (name: string): string => join(ROOT, 'node_modules', '.bin', name);

async function run(command: string, args: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(bin(command), [...args], { cwd: ROOT });
  return stdout;
}

it('a program over createPod prints the same under Deno as under Node, and both exit by themselves', async () => {
  const [deno, node] = await Promise.all([run('deno', [...DENO, 'test/deno/program.ts']), run('node', ['test/deno/program.ts'])]);
  expect(deno).toBe(node);
  const lines = node.trim().split('\n');
  expect(lines.length).toBe(5);
  expect(lines.slice(2)).toEqual(['5', 'cancelled', '[]']);
});

it.runIf(existsSync(join(ROOT, 'src/cli/main.ts')))('the command generates the same under Deno as under Node', async () => {
  const args = ['src/cli/main.ts', 'generate', 'Once upon a time', '--max-tokens', '16', '--seed', '7'];
  const [deno, node] = await Promise.all([run('deno', [...DENO, ...args]), run('node', args)]);
  expect(node.length).toBeGreaterThan(10);
  expect(deno).toBe(node);
});
