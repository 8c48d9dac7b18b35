/** `minipod experts routing`, and routing traces as loads of `minipod experts plan`, on the test's own thread. */
import { copyFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { Command } from 'commander';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { addExpertsCommands } from '../../src/cli/experts.ts';
import { createPod } from '../../src/index.ts';
import { traceFolder } from '../trace/files.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());
const FILE = folder.file('run.routing');
const MAX_TOKENS = 9;
let loads: readonly (readonly number[])[] = [];
let prompts = 0;

beforeAll(async () => {
  await using pod = await createPod({ clock: 'virtual', kernels: 'hash', npus: 2, seed: 5, record_routing: FILE });
  const calls = ['Once upon a time', 'The wolf', 'A king'].map((prompt) => pod.complete(prompt, { max_tokens: MAX_TOKENS, ignore_eos: true }));
  prompts = (await Promise.all(calls)).reduce((sum, { usage }) => sum + usage.prompt_tokens, 0);
  loads = (await pod.stats()).expert_loads;
});

async function experts(...args: readonly string[]): Promise<{ stdout: string; code: number }> {
  const program = new Command('minipod').exitOverride().configureOutput({ outputError: () => {} });
  let stdout = '';
  let code = -1;
  addExpertsCommands(program, (exit) => {
    code = exit;
  });
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    stdout += String(text);
    return true;
  });
  try {
    await program.parseAsync(['experts', ...args], { from: 'user' });
  } finally {
    write.mockRestore();
  }
  return { stdout, code };
}

type Summary = { tokens: { prefill: number; decode: number }; steps: number; logical_count: number[][]; incomplete: string | null };

describe('minipod experts routing', () => {
  it('should sum a run up as the pod has counted it', async () => {
    const { stdout, code } = await experts('routing', FILE, '--json');
    const summary = JSON.parse(stdout) as Summary;
    expect(code).toBe(0);
    expect(summary).toMatchObject({ logical_count: loads, incomplete: null, tokens: { prefill: prompts, decode: 3 * (MAX_TOKENS - 1) } });
    const { stdout: text } = await experts('routing', FILE);
    expect(text).toContain(`${prompts + 3 * (MAX_TOKENS - 1)} routed: ${prompts} in prefill, ${3 * (MAX_TOKENS - 1)} in decode; ${summary.steps} steps`);
    expect(text).toMatch(/\n {4}1 [▁▂▃▄▅▆▇█·]{32,} /);
  });

  it('should print each step, and draw the map', async () => {
    const { stdout } = await experts('routing', FILE, '--steps');
    const steps = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { spans: { rows: number }[]; experts: number[]; weights: number[] });
    expect(steps.reduce((sum, { spans }) => sum + spans.reduce((rows, span) => rows + span.rows, 0), 0)).toBe(prompts + 3 * (MAX_TOKENS - 1));
    expect(steps.every(({ experts, weights }) => experts.length === weights.length)).toBe(true);
    const svg = folder.file('map.svg');
    expect((await experts('routing', FILE, '--svg', svg)).code).toBe(0);
    expect(readFileSync(svg, 'utf8')).toContain(`layer 1, expert 0: ${loads[0]?.[0]} tokens`);
  });

  it('should say what is missing of one that was cut off, and exit with 3', async () => {
    const cut = folder.file('cut.routing');
    copyFileSync(FILE, cut);
    truncateSync(cut, readFileSync(FILE).length - 10);
    const { stdout, code } = await experts('routing', cut, '--json');
    expect(code).toBe(3);
    expect((JSON.parse(stdout) as Summary).incomplete).toMatch(/end/);
    expect((await experts('plan', cut, '--ranks', '2', '--slots', '34')).code).toBe(3);
    await expect(experts('routing', folder.file('nope'))).rejects.toThrow(/no such file/);
  });
});

describe('minipod experts plan on a routing trace', () => {
  const planned = async (...flags: readonly string[]) => JSON.parse((await experts('plan', FILE, '--ranks', '2', '--slots', '34', '--json', ...flags)).stdout);

  it('should plan on all of it, or on a phase or a half, and score on another', async () => {
    const all = await planned();
    expect(all).toMatchObject({ planned_on: FILE, windows: 1, shape: { layers: loads.length, experts: loads[0]?.length } });
    expect(await planned('--table', 'prefill')).toMatchObject({ planned_on: 'prefill', scored_on: 'prefill' });
    const split = await planned('--table', 'first_half', '--score', 'second_half', '--policy', 'global');
    expect(split).toMatchObject({ planned_on: 'first_half', scored_on: 'second_half' });
    expect(split.plans[0].imbalance).toBeGreaterThanOrEqual(1);
  });

  it('should find the same from its summary', async () => {
    const { stdout } = await experts('routing', FILE, '--json');
    const json = folder.file('summary.json');
    writeFileSync(json, stdout);
    const { plans } = JSON.parse((await experts('plan', json, '--ranks', '2', '--slots', '34', '--json')).stdout);
    expect(plans).toEqual((await planned()).plans);
  });
});
