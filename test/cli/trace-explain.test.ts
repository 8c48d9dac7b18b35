/** `minipod trace explain`: a request's life in words and in JSON, and the slowest requests of a run. */
import { copyFileSync, truncateSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RequestLife } from '../../src/trace/views/request-life.ts';
import { traceFolder } from '../trace/files.ts';
import { recordPreemptions } from '../trace/recorded-runs.ts';
import { minipod } from './command.ts';
import { ask } from './trace-command.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());
const run = folder.file('run.trace');
let slowest: readonly RequestLife[];

beforeAll(async () => {
  await recordPreemptions(run);
  slowest = JSON.parse((await ask('explain', run, '--slowest', '50', '--json')).stdout);
});

describe('minipod trace explain', () => {
  it('lists the slowest requests first, each with where its time went', async () => {
    expect(slowest.length).toBe(14);
    expect(slowest.map(({ total_us }) => total_us)).toEqual(slowest.map(({ total_us }) => total_us).toSorted((a, b) => b - a));
    for (const { total_us, breakdown_us } of slowest) expect(Object.values(breakdown_us).reduce((sum, us) => sum + us, 0)).toBe(total_us);
    const { code, stdout, stderr } = await minipod(['trace', 'explain', run, '--slowest', '3']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const lines = stdout.trimEnd().split('\n');
    expect(lines[0]).toMatch(/^REQUEST +ENDED +TOTAL +TTFT +TPOT +LONGEST GAP +TOKENS +PREEMPTED +WHERE IT WENT$/);
    expect(lines.slice(1).map((line) => line.split(' ')[0])).toEqual(slowest.slice(0, 3).map(({ request }) => request));
  });

  it('tells a request’s life as a timeline: waits, steps and preemptions, then where its time went', async () => {
    const preempted = slowest.find(({ choices }) => choices.some(({ preemptions }) => preemptions > 0)) as RequestLife;
    const words = await ask('explain', run, preempted.request);
    const object = await ask('explain', run, preempted.request, '--json');
    expect([words.code, words.error]).toEqual([0, '']);
    for (const part of [
      'TIMELINE',
      'received',
      'admitted',
      'queued',
      'scheduled',
      'prefill',
      'preempted',
      'recompute',
      'first token',
      'task ended',
      'left out of',
    ])
      expect(words.stdout).toContain(part);
    const [, ms = ''] = /\nWHERE ([\d.]+) ms WENT/.exec(words.stdout) ?? [];
    expect(Math.round(Number(ms) * 1000)).toBe(preempted.total_us);
    const life = JSON.parse(object.stdout) as RequestLife;
    expect({ ...life, events: [] }).toEqual(preempted);
    expect(life.events.map(({ at_us }) => at_us)).toEqual(life.events.map(({ at_us }) => at_us).toSorted((a, b) => a - b));
  });

  it('folds decode steps that are alike, but for --steps', async () => {
    const longest = slowest.toSorted((a, b) => b.tokens - a.tokens)[0] as RequestLife;
    const folded = await ask('explain', run, longest.request.slice('request/'.length));
    const whole = await ask('explain', run, longest.request, '--steps');
    expect(folded.stdout).toMatch(/ decode ×\d+ /);
    expect(whole.stdout).not.toContain('×');
    const decoded = longest.choices.reduce((sum, { steps }) => sum + steps.decode, 0);
    expect(whole.stdout.match(/\n {2}\+ +[\d.]+ ms {2}decode /g)).toHaveLength(decoded);
  });

  it('says what is wrong with a question, and which requests there are', async () => {
    const [nothing, both] = [await ask('explain', run), await ask('explain', run, 'request/1', '--slowest')];
    for (const { error } of [nothing, both]) expect(error).toContain('name a request, such as request/7, or ask for --slowest');
    const unknown = await ask('explain', run, 'request/99');
    expect([unknown.stdout, unknown.error]).toEqual(['', `request/99 is not in ${run}; it holds requests from 1 to 14`]);
    expect((await ask('explain', run, 'npu/0')).error).toContain('npu/0 is no request; they are called request/1');
  });

  it('tells of a run that was killed what there is, and exits with 3', async () => {
    const short = folder.file('short.trace');
    copyFileSync(run, short);
    truncateSync(short, 9_000);
    const { code, stdout, stderr } = await minipod(['trace', 'explain', short, '--slowest', '--json']);
    expect(code).toBe(3);
    expect(stderr).toMatch(/^minipod: .*short\.trace: the trace ends .*; what is before was read\n$/);
    expect((JSON.parse(stdout) as RequestLife[]).some(({ ending }) => ending === 'open')).toBe(true);
  });
});
