import { execFile } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { readmeExample } from './readme-example.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const RUN = 'Deno' in globalThis ? ['run', '-A'] : [];

/** Rejects where it exits with an error; what it prints is the result. */
const run = async (file: string): Promise<string> => (await promisify(execFile)(process.execPath, [...RUN, file], { cwd: ROOT })).stdout;

describe('examples/', () => {
  it.each(readdirSync(`${ROOT}examples`))('should run: %s', async (file) => {
    expect((await run(`examples/${file}`)).length).toBeGreaterThan(100);
  });
});

describe('README.md', () => {
  it('should have an embedding example of ten lines that runs', async () => {
    const example = readmeExample();
    expect(example.trimEnd().split('\n').length).toBeLessThanOrEqual(10);
    // On Node test/packaging runs it as it stands, on the installed package; on Deno it runs beside this file, on the sources.
    if (RUN.length === 0) return;
    const file = `${ROOT}test/examples/readme-${process.pid}.tmp.ts`;
    writeFileSync(file, example.replace("'minipod'", "'../../src/index.ts'"));
    try {
      expect((await run(file)).length).toBeGreaterThan(50);
    } finally {
      rmSync(file);
    }
  });

  it('should begin with the two commands, the second of which is what CI runs', () => {
    const commands = /```sh\n([^`]*)```/.exec(readFileSync(`${ROOT}README.md`, 'utf8'))?.[1] ?? '';
    expect(commands).toMatch(/^npm ci && npm start\b.*\nnpm ci && npm test\b/);
    expect(readFileSync(`${ROOT}.ci/run`, 'utf8')).toContain('\nnpm ci && npm test\n');
  });
});
