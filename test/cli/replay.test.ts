/** `minipod replay`, as a person runs it. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { traceFolder } from '../trace/files.ts';
import { recordPreemptions, recordVirtual } from '../trace/recorded-runs.ts';
import { allActs, rewrite } from '../trace/rewritten.ts';
import { minipod } from './command.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());
const real = folder.file('real.trace');

beforeAll(() => recordVirtual(real, { npus: 2, workers: 2, kernels: 'real' }, 6));

/** The same run, with another first token. */
function withOtherToken(path: string, out: string): { readonly step: number; readonly actor: string } {
  const step = allActs(path).findIndex(({ message }) => message?.type === 'LAUNCH_DONE' && message.outcomes.some(({ token }) => token >= 0));
  const other = (act: ActRecord): ActRecord => {
    if (act.message?.type !== 'LAUNCH_DONE') throw new Error('not a launch');
    const outcomes = act.message.outcomes.map((outcome) => ({ ...outcome, token: outcome.token + 1 }));
    return { ...act, message: { ...act.message, outcomes } };
  };
  rewrite(path, out, { act: (act, index) => (index === step ? other(act) : act) });
  return { step, actor: allActs(path)[step]?.to ?? '' };
}

describe('minipod replay', () => {
  it('says that runs are the same, with kernels computed again, also where sequences were preempted', async () => {
    const preemptions = folder.file('preemptions.trace');
    await recordPreemptions(preemptions);
    const [text, json] = await Promise.all([minipod(['replay', preemptions]), minipod(['replay', real, '--json'])]);
    expect({ code: text.code, stderr: text.stderr }).toEqual({ code: 0, stderr: '' });
    expect(text.stdout).toMatch(/^\/.+\.trace: the same: [\d,]+ acts over [\d.]+ ms, [1-9][\d,]* launches computed again\n$/);
    const said = JSON.parse(json.stdout);
    expect(said).toMatchObject({ file: real, outcome: 'reproduced', acts: allActs(real).length, divergence: null, damage: null, differences: [] });
    expect(said.launches).toBeGreaterThan(10);
  });

  it('names the step where something is not as it was: the actor, its state, the message, what it does instead, and what led to it', async () => {
    const path = folder.file('other-token.trace');
    const { step, actor } = withOtherToken(real, path);
    const [computed, taken] = await Promise.all([minipod(['replay', path]), minipod(['replay', path, '--no-compute'])]);
    expect(computed.code).toBe(1);
    expect(computed.stdout).toMatch(/: diverged: /);
    expect(computed.stdout).toContain(`${actor}: its kernels find something else now`);
    expect(computed.stdout).toMatch(/found then\n[\s\S]*found now\n/);
    // Told the wrong token, it passes that on, and did not.
    expect(taken.code).toBe(1);
    expect(taken.stdout).toContain(`DIVERGES at step ${step}, `);
    expect(taken.stdout).toMatch(/ {2}state before {3}busy\n {2}message {8}LAUNCH_DONE step=\d+/);
    expect(taken.stdout).toMatch(/ {2}expected {7}send to dp-group\/\d: STEP_DONE [\s\S]* {2}actual {9}send to dp-group\/\d: STEP_DONE /);
    expect(taken.stdout).toMatch(/WHAT LED TO IT, THE NEAREST FIRST\n +[\d,]+ +[\d.]+ ms {2}dp-group\/\d → npu\/\d +STEP +busy\n/);
  });

  it('replays what another version recorded, and says what is not the same', async () => {
    const path = rewrite(real, folder.file('older.trace'), { header: (header) => ({ ...header, code_version: '0.0.7', protocol: 1 }) });
    const { code, stdout } = await minipod(['replay', path, '--no-compute']);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /: the same: [\s\S]*\nrecorded by minipod 0\.0\.7, and this is [\d.]+\nits messages have other shapes: protocol 00000001, and here it is /,
    );
  });

  it('computes nothing with another model, and says so', async () => {
    const other = (header: Readonly<Record<string, unknown>>): object => ({ ...header, model: { name: 'tiny-deepseek-v3', digest: 'abc' } });
    const path = rewrite(real, folder.file('other-model.trace'), { header: other });
    const [computed, absent] = await Promise.all([minipod(['replay', path]), minipod(['replay', path, '--model', '/nowhere', '--json'])]);
    expect(computed.code).toBe(2);
    expect(computed.stderr).toMatch(/is not the model of the run: its digest is \w{12}…, in the trace it is abc/);
    expect(absent.code).toBe(2);
    expect(JSON.parse(absent.stdout)).toMatchObject({ error: { code: 'invalid_request', param: 'model' } });
  });

  it('replays what there is of a file that is cut off or spoilt, and says where it ends', async () => {
    const whole = readFileSync(real);
    const [short, spoilt] = [folder.file('short.trace'), folder.file('spoilt.trace')];
    writeFileSync(short, whole);
    truncateSync(short, whole.length - 1_000);
    const bytes = Buffer.from(whole);
    bytes[whole.length - 3_000] = (bytes[whole.length - 3_000] ?? 0) ^ 0x10;
    writeFileSync(spoilt, bytes);
    const [ofShort, ofSpoilt] = await Promise.all([minipod(['replay', short, '--no-compute']), minipod(['replay', spoilt, '--no-compute', '--json'])]);
    expect(ofShort.code).toBe(3);
    expect(ofShort.stdout).toMatch(
      /: the same as far as it can be replayed: [\d,]+ acts [\s\S]*\nthe trace ends inside [\s\S]*: the run was killed, or still runs\n$/,
    );
    expect(ofSpoilt.code).toBe(3);
    expect(JSON.parse(ofSpoilt.stdout)).toMatchObject({ outcome: 'incomplete', damage: { kind: 'damaged', message: expect.stringMatching(/byte [\d,]+/) } });
  });

  it('refuses with exit code 2 what is no trace', async () => {
    const runs = await Promise.all([minipod(['replay', 'README.md']), minipod(['replay', folder.file('absent.trace'), '--json'])]);
    expect(runs.map(({ code }) => code)).toEqual([2, 2]);
    expect(runs[0]?.stderr).toMatch(/README\.md: is not a trace/);
    expect(JSON.parse(runs[1]?.stdout ?? '')).toMatchObject({ error: { code: 'invalid_trace' } });
  });
});
