/** `minipod experts plan`, on the test's own thread. */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { addExpertsCommands } from '../../src/cli/experts.ts';
import { LOADS_FILE, WORKED_EXAMPLE } from '../actors/expert-placement/loads.ts';
import { traceFolder } from '../trace/files.ts';

const LOADS = fileURLToPath(LOADS_FILE);
const EP32 = ['--ranks', '32', '--slots', '96'];
const EXAMPLE = ['--ranks', '8', '--slots', '16', '--nodes', '2', '--groups', '4', '--table', 'eplb_worked_example/weight'];

type Plan = { policy: string; imbalance: number; weights_moved: number; install: number[]; physical_to_logical_map: number[][] };
type Answer = { planned_on: string; scored_on: string; windows: number; present: number; plans: Plan[] };

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());
const fileOf = (name: string, content: unknown): string => {
  const file = folder.file(name);
  writeFileSync(file, JSON.stringify(content));
  return file;
};

async function plan(...args: readonly string[]): Promise<string> {
  const program = new Command('minipod').exitOverride().configureOutput({ outputError: () => {} });
  let stdout = '';
  addExpertsCommands(program, () => {});
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    stdout += String(text);
    return true;
  });
  try {
    await program.parseAsync(['experts', 'plan', ...args], { from: 'user' });
  } finally {
    write.mockRestore();
  }
  return stdout;
}

const planned = async (...args: readonly string[]): Promise<Answer> => JSON.parse(await plan(...args, '--json')) as Answer;

describe('minipod experts plan', () => {
  it('should print a row for each policy, and say what it planned on', async () => {
    const lines = (await plan(LOADS, ...EP32, '--table', 'olmoe/c4')).trimEnd().split('\n');
    expect(lines[0]).toBe('olmoe-1b-7b (64 experts, top-8)/c4: 3 layers × 64 experts over 1 window → 96 slots on 32 ranks; now 2.027');
    expect(
      lines.slice(4).map((line) =>
        line
          .split('|')
          .slice(1, 5)
          .map((cell) => cell.trim()),
      ),
    ).toEqual([
      ['native', '2.027', '0: 2.266', '0 of 3'],
      ['fixed_primaries', '1.155', '2: 1.195', '3 of 3'],
      ['hierarchical', '1.024', '2: 1.034', '3 of 3'],
      ['global', '1.024', '2: 1.034', '3 of 3'],
      ['mirrored', '1.710', '0: 2.078', '3 of 3'],
    ]);
  });

  it('should give DeepSeek’s worked example its answer, as a map that is read back as the present one', async () => {
    const { plans } = await planned(LOADS, ...EXAMPLE, '--policy', 'hierarchical');
    expect(plans.map(({ physical_to_logical_map }) => physical_to_logical_map)).toEqual([WORKED_EXAMPLE.physical_to_logical]);
    const { physical_to_logical_map } = plans[0] as Plan;
    const again = await planned(LOADS, ...EXAMPLE, '--policy', 'hierarchical', '--present', fileOf('map.json', { physical_to_logical_map }));
    expect(again.plans).toMatchObject([{ physical_to_logical_map, install: [], weights_moved: 0 }]);
    expect(again.present).toBe(again.plans[0]?.imbalance);
  });

  it('should score on other loads than it planned on', async () => {
    const { planned_on, scored_on, plans } = await planned(LOADS, ...EP32, '--table', 'olmoe/tulu', '--score', 'olmoe/github', '--policy', 'global');
    expect([planned_on, scored_on]).toEqual(['olmoe-1b-7b (64 experts, top-8)/tulu', 'olmoe-1b-7b (64 experts, top-8)/github']);
    expect(plans[0]?.imbalance).toBeGreaterThan(1.5);
  });

  it('should read SGLang’s counts, over windows or without, and arrays alone', async () => {
    const counts = [[5, 1, 1, 1]];
    const flags = ['--ranks', '2', '--slots', '6', '--policy', 'global'];
    const files = { 'sum.json': { logical_count: counts }, 'windows.json': { logical_count: [counts, counts] }, 'bare.json': counts };
    const answers = await Promise.all(Object.entries(files).map(([name, content]) => planned(fileOf(name, content), ...flags)));
    expect(answers.map(({ windows }) => windows)).toEqual([1, 2, 1]);
    expect(answers.map(({ plans }) => plans[0]?.physical_to_logical_map)).toEqual(new Array(3).fill(answers[0]?.plans[0]?.physical_to_logical_map));
  });

  it.each([
    { args: [LOADS, ...EP32], says: /it has several tables, name one with --table:\n {2}olmoe-1b-7b/ },
    {
      args: [LOADS, ...EP32, '--table', 'c4'],
      says: /"c4" names several of its tables:\n {2}olmoe-1b-7b \(64 experts, top-8\)\/c4\n {2}mixtral-8x7b \(8 experts, top-2\)\/c4$/,
    },
    { args: [LOADS, ...EP32, '--table', 'nope'], says: /"nope" names none of its tables:\n {2}olmoe/ },
    { args: [LOADS, '--ranks', '32', '--slots', '95', '--table', 'olmoe/c4'], says: /95 slots cannot be spread evenly over 32 ranks/ },
    { args: [LOADS, ...EP32, '--nodes', '4', '--table', 'olmoe/c4', '--policy', 'hierarchical'], says: /1 groups cannot be dealt out evenly to 4 nodes/ },
    { args: ['nope.json', ...EP32], says: /nope\.json: it cannot be read: ENOENT/ },
    { args: [fileOf('empty.json', { a: 'b', c: [] }), ...EP32], says: /there are no loads in it/ },
    { args: [fileOf('less.json', [[1, -1]]), '--ranks', '1', '--slots', '2'], says: /expert 1 of layer 0, window 0, has -1 tokens/ },
    { args: [LOADS, ...EXAMPLE, '--present', LOADS], says: /it is no expert map/ },
    { args: [LOADS, ...EXAMPLE, '--present', fileOf('short.json', { physical_to_logical_map: [[0]] })], says: /layer 0 has 1 slots, not 16/ },
  ])('should say what is wrong: $says', async ({ args, says }) => {
    await expect(plan(...args)).rejects.toThrow(says);
  });
});
