import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { minipod } from './command.ts';

const folder = mkdtempSync(join(tmpdir(), 'minipod-eval-'));
const TALE = join(folder, 'tale.txt');
writeFileSync(TALE, 'Once upon a time there was a king who had three sons. The eldest went out into the wide world.');
afterAll(() => rmSync(folder, { recursive: true }));

it('should print the same perplexity from a pod as beside another model, with layers and worst tokens', async () => {
  const [alone, beside] = await Promise.all([
    minipod(['eval', '--text', TALE, '--window', '20', '--json', '--npus', '2']),
    minipod(['eval', '--text', TALE, '--window', '20', '--against', 'test/models/tiny-qwen3-moe', '--worst', '2']),
  ]);
  const { perplexity, bits_per_byte, tokens, window, stride } = JSON.parse(alone.stdout);
  expect({ window, stride, code: alone.code }).toEqual({ window: 20, stride: 10, code: 0 });
  expect(beside.code).toBe(0);
  expect(beside.stdout).toContain(`${tokens} tokens, 94 bytes`);
  expect(beside.stdout).toMatch(new RegExp(`tiny-deepseek-v3 +\\| +${perplexity.toFixed(4)} +\\| +${bits_per_byte.toFixed(4)}`));
  expect(beside.stdout).toMatch(/the same likeliest token at \d+\.\d\d % of positions; KL/);
  expect(beside.stdout.split('\n').filter((line) => line.startsWith('| "'))).toHaveLength(2);
});

const REFUSALS = [
  { args: ['--text', TALE, '--layers'], code: 2, says: '--layers and --worst need --against' },
  { args: ['--text', TALE, '--against', 'tiny-deepseek-v3', '--npus', '2'], code: 2, says: 'leave out --npus' },
  { args: ['--text', join(folder, 'none.txt')], code: 1, says: 'none.txt cannot be read' },
];

it('should refuse what does nothing or is not there, with the reason', async () => {
  const ends = await Promise.all(REFUSALS.map(({ args }) => minipod(['eval', ...args])));
  for (const [index, { code, says }] of REFUSALS.entries()) expect(ends[index]).toMatchObject({ code, stderr: expect.stringContaining(says) });
});
