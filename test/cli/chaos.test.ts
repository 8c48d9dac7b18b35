/** `minipod chaos`: plans and seeds from the command line, with an exit code for each class of failure. */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { readTrace, traceFolder } from '../trace/files.ts';
import { minipod } from './command.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

describe('minipod chaos', () => {
  it('should sum up a campaign, and leave a report for whoever shows test results', async () => {
    const xml = folder.file('chaos.xml');
    const { code, stdout, stderr } = await minipod(['chaos', 'campaign', '--seeds', '1..3', '--topology', 'colocated', '--faults', 'npu-slow', '--junit', xml]);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/\| npu-slow +\| /);
    expect(readFileSync(xml, 'utf8')).toMatch(
      /<testsuite name="minipod chaos" tests="3" failures="0">\n(?: {2}<testcase [^>]*name="seed [123]"\/>\n){3}<\/testsuite>/,
    );
    expect(stdout).toMatch(/3 runs, \d+ calls, \d+ events in .* s, .* a second: 3 held\./);
  });

  it('should tell what broke by its exit code, and shrink it', async () => {
    const path = folder.file('plan.yaml');
    const faults = ['{ kind: npu-slow, npu: 0, factor: 2, for_ms: 5 }', '{ kind: message-dropped, type: STEP_DONE, within_threads: true, for_ms: 500 }'];
    writeFileSync(path, ["pod: { topology: 'colocated:dp=2' }", 'calls: [{}, {}]', 'faults:', ...faults.map((fault) => `  - ${fault}`)].join('\n'));
    const { code, stdout } = await minipod(['chaos', 'shrink', path, '--json']);
    expect(code).toBe(3);
    expect(JSON.parse(stdout)).toMatchObject({ verdict: 'lost progress', plan: { calls: [{}], faults: [{ kind: 'message-dropped' }] } });
  });

  it('should print one command that repeats what is left, and take it', async () => {
    const plan = "{ calls: [{ max_tokens: 2 }], faults: [{ kind: message-dropped, type: 'STEP_DONE', within_threads: true, for_ms: 500 }] }";
    const { code, stdout } = await minipod(['chaos', 'shrink', plan]);
    expect(code).toBe(3);
    const [, smallest = ''] = /^This repeats it:\n {2}minipod chaos run '(\{.*\})'$/m.exec(stdout) ?? [];
    expect(await minipod(['chaos', 'run', smallest])).toMatchObject({ code: 3 });
  });

  it('should name the trace of each pod that there was, where one begins in the place of another', async () => {
    const plan = '{ calls: [{}], faults: [{ kind: control-lost, at: { phase: decode } }] }';
    const [first, second] = [folder.file('lost.trace'), folder.file('lost.2.trace')];
    const { code, stdout } = await minipod(['chaos', 'run', plan, '--record', first]);
    expect(code).toBe(0);
    expect(stdout).toContain(`Recorded in ${first}, and, whenever the control thread was lost, on in ${second}.\n`);
    for (const path of [first, second]) expect(readTrace(path).damage).toBeNull();
  });

  it.each([
    ['calls: [{}]\nfaults: [{ kind: fire }]', /faults\.0\.kind: must be one of "worker-lost", /],
    ['calls: [{ data_parallel_rank: 9 }]', /calls: 0: data_parallel_rank: /],
  ])('should refuse a plan as wrong usage: %j', async (text, why) => {
    const path = folder.file('refused.yaml');
    writeFileSync(path, text);
    const { code, stderr } = await minipod(['chaos', 'run', path]);
    expect([code, stderr]).toEqual([2, expect.stringMatching(why)]);
  });

  it('should refuse what there is not', async () => {
    const { code, stderr } = await minipod(['chaos', 'campaign', '--seeds', '1..3', '--faults', 'fire']);
    expect(code).toBe(2);
    expect(stderr).toMatch(/There is no fire; there are worker-lost, /);
  });
});
