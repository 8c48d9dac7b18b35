import { copyFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { scratchFolder, smallCheckpoint } from '../quantize/small-checkpoint.ts';
import { minipod } from './command.ts';

const folder = scratchFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it('should make a checkpoint, tell what it lost, and not make it twice', async () => {
  const [model, out, text] = [smallCheckpoint(join(folder, 'model'), 'gqa'), join(folder, 'int8'), join(folder, 'text.txt')];
  copyFileSync('README.md', text);
  const made = await minipod(['quantize', model, out, '--text', text, '--max-tokens', '500']);
  expect(made).toMatchObject({ code: 0, stderr: '' });
  expect(made.stdout).toMatch(/calibrated on 500 tokens\nQuantised weights with their scales: .*, 0\.5[34]\d of /);
  expect(made.stdout).toMatch(/\| q, k, v +\| +0 \|/);
  const [again, served] = await Promise.all([
    minipod(['quantize', model, out, '--text', text, '--json']),
    minipod(['generate', 'Once', '--model', out, '--max-tokens', '3', '--min-tokens', '0', '--ignore-eos', '--temperature', '0', '--json']),
  ]);
  expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining('is there already') });
  expect(JSON.parse(again.stdout).error.code).toBe('invalid_request');
  const nowhere = await minipod(['quantize', model, join(text, 'int8', 'new'), '--text', text, '--max-tokens', '500']);
  expect(nowhere).toMatchObject({ code: 1, stderr: expect.stringMatching(/out: .*int8 cannot be made: ENOTDIR/) });
  expect(served.code).toBe(0);
});
