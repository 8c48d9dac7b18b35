/** `minipod trace`: questions to a recorded run. */
import { copyFileSync, linkSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPod } from '../../src/index.ts';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { draws, traceFolder } from '../trace/files.ts';
import { recordVirtual } from '../trace/recorded-runs.ts';
import { allActs } from '../trace/rewritten.ts';
import { jsonLines, minipod } from './command.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());
const [run, other] = [folder.file('run.trace'), folder.file('other.trace')];
let acts: ActRecord[];
/** The first request that was answered whole, and a step of a DP group that has work before and after it. */
let [request, step] = ['', 0];

beforeAll(async () => {
  await recordVirtual(run, { kv_blocks: 12, max_batch_tokens: 32 });
  await recordVirtual(other, { kv_blocks: 12, max_batch_tokens: 32, seed: 8 });
  acts = allActs(run);
  request = acts.find(({ message }) => message?.type === 'JOB_DONE')?.to ?? '';
  step = acts.findIndex(({ to, message, time_us }) => to === 'dp-group/0' && message?.type === 'STEP_DONE' && time_us > 100);
});

const hashOf = (path: string): string | undefined => {
  using reader = TraceReader.open(path);
  return reader.totals?.hash;
};

describe('minipod trace info', () => {
  it('says which run it is of, who acted, and how often', async () => {
    const { code, stdout, stderr } = await minipod(['trace', 'info', run]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/\n {2}run {9}virtual clock, seed 7, hash kernels, by minipod [\d.]+\n {2}model {7}tiny-deepseek-v3, digest \w{16}…\n/);
    expect(stdout).toMatch(/\n {2}options {5}kv_blocks=.*\n( {14}.+\n)+/);
    for (const option of ['kv_fabric=memory', 'kv_transfer=request', 'prefix_sharing=false']) expect(stdout).toContain(` ${option}`);
    expect(stdout).toContain(`\n  hash        ${hashOf(run)}\n`);
    const dispatched = acts.filter(({ message }) => message?.type === 'STEP').length;
    expect(stdout).toMatch(new RegExp(`\n\\| npu +\\| STEP +\\| +${dispatched} \\|\n`));
    expect(stdout).toMatch(/\n {2}unexpected {2}0 messages\n/);
  });
});

describe('minipod trace ls', () => {
  it('lists the steps that are asked for, in words or in JSON', async () => {
    const [life, tokens, states, few] = await Promise.all([
      minipod(['trace', 'ls', run, '--actor', request]),
      minipod(['trace', 'ls', run, '--type', 'step_done,TOKENS', '--sender', 'dp-group', '--from', '300', '--json']),
      minipod(['trace', 'ls', run, '--state', 'gone', '--actor', 'task', '--state', 'decoding', '--json']),
      minipod(['trace', 'ls', run, '--since', '0.1', '--until', '0.2', '--limit', '3', '--json']),
    ]);
    expect(life.code).toBe(0);
    const rows = life.stdout.trimEnd().split('\n');
    expect(rows[0]).toMatch(/^ +STEP +TIME {2}FROM +→ TO +MESSAGE +STATE AFTER CARRIES$/);
    expect(rows.length - 1).toBe(acts.filter(({ to }) => to === request).length);
    expect(rows[1]).toMatch(/ frontend\/0 +→ request\/\d+ +SUBMIT +received +sequences=/);
    const listed = jsonLines(tokens.stdout) as (ActRecord & { step: number })[];
    expect(listed.length).toBeGreaterThan(10);
    expect(listed.map((line) => line.step)).toEqual(
      acts.flatMap(({ message, from }, index) => (index >= 300 && message?.type === 'TOKENS' && from.startsWith('dp-group/') ? [index] : [])),
    );
    const kept = acts.filter(({ to, state }) => to.startsWith('task/') && (state ?? 'gone').match(/^(?:gone|decoding)$/)).length;
    expect(jsonLines(states.stdout)).toHaveLength(kept);
    expect(jsonLines(few.stdout).map((line) => (line as ActRecord).time_us)).toEqual(
      acts.flatMap(({ time_us }) => (time_us >= 100 && time_us <= 200 ? [time_us] : [])).slice(0, 3),
    );
    expect(few.stderr).toBe('minipod: there are more than 3 (--limit)\n');
  });

  it('says what is not possible', async () => {
    const runs = await Promise.all([
      minipod(['trace', 'ls', run, '--actor', 'reqest/7']),
      minipod(['trace', 'ls', run, '--from', '3', '--since', '4']),
      minipod(['trace', 'show', run, '1,000,000']),
      minipod(['trace', 'ls', run, '--from', '10', '--to', '5']),
      minipod(['trace', 'ls', run, '--type', 'TOKENS,TOKEN']),
      minipod(['trace', 'ls', run, '--state', 'preempted,premted']),
    ]);
    expect(runs.map(({ code }) => code)).toEqual([2, 2, 2, 2, 2, 2]);
    expect(runs[3]?.stderr).toContain('no step is from 10 on and up to 5: give the first step as --from');
    expect(runs[4]?.stderr).toMatch(/There is no message called TOKEN, only: .*\bSTEP_DONE\b.*\bTOKENS\b/);
    expect(runs[5]?.stderr).toMatch(/There is no state called premted, only: .*\bgone\b.*\bpreempted\b/);
    expect(runs[2]?.stderr).toMatch(/has no step 1,000,000: it has [\d,]+ records/);
    expect(runs[0]?.stderr).toContain('It names no role of: caller, frontend, request');
  });
});

describe('minipod trace show', () => {
  it('shows state and context before and after, the message, the commands and what they led to', async () => {
    const [{ code, stdout }, json] = await Promise.all([
      minipod(['trace', 'show', run, String(step)]),
      minipod(['trace', 'show', run, String(step), '--json']),
    ]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^STEP [\d,]+, [\d.]+ ms: npu\/0 → dp-group\/0: STEP_DONE \(act [\d,]+ of thread 0\)\n\nSTATE {4}stepping → stepping\n/);
    expect(stdout).toMatch(/\nMESSAGE\n {2}type: STEP_DONE\n/);
    expect(stdout).toMatch(/\nCONTEXT, what changed\n {2}scheduler\.step: \d+ → \d+\n/);
    expect(stdout).toMatch(/\nCOMMANDS\n {2}1: send to output\/\d+: TOKENS tokens=\d+×\{…\} begun=\S+ → step [\d,]+\n/);
    expect(stdout).toMatch(/\nWHAT LED TO IT, THE NEAREST FIRST\n +[\d,]+ +[\d.]+ ms {2}npu\/0 → npu\/0 +LAUNCH_DONE +(?:idle|busy)\n/);
    const look = JSON.parse(json.stdout);
    expect(look).toMatchObject({ record: step, act: { to: 'dp-group/0' }, state_before: 'stepping', divergence: null });
    expect(look.context_after.scheduler.step).toBe(look.context_before.scheduler.step + 1);
    expect(look.commands.every(({ command }: { command: unknown }) => command !== null)).toBe(true);
    for (const { command, record } of look.commands) if (record !== null) expect(acts[record]).toMatchObject({ to: command.to, message: command.message });
  });
});

describe('what led to a step', () => {
  it('is told back to the request that came, and what went round is counted', async () => {
    const path = folder.file('long.trace');
    {
      await using pod = await createPod({ clock: 'virtual', kernels: 'hash', seed: 1, npus: 1, workers: 1, record: path });
      await pod.complete([1, 2, 3], { max_tokens: 30, ignore_eos: true });
    }
    const last = allActs(path).findLastIndex(({ message }) => message?.type === 'STEP_DONE');
    const [text, json] = await Promise.all([minipod(['trace', 'show', path, String(last)]), minipod(['trace', 'show', path, String(last), '--json'])]);
    const { chain, is_chain_whole } = JSON.parse(json.stdout);
    expect(is_chain_whole).toBe(true);
    expect(chain.at(-1)).toMatchObject({ from: 'frontend/0', type: 'SUBMIT' });
    const [, led = ''] = /WHAT LED TO IT, THE NEAREST FIRST\n([\s\S]*?)\n\n/.exec(text.stdout) ?? [];
    expect(led).toMatch(
      /^.* LAUNCH_DONE .*\n.* STEP .*\n.* STEP_DONE .*\n.* LAUNCH_DONE .*\n {2}… and those 3 13 times more, back to step \d+\n[\s\S]* SUBMIT +received$/,
    );
    expect(led).not.toContain('it goes on');
  });
});

describe('minipod trace open', () => {
  it('steps forth and back, stops at breaks either way, and looks at any actor there', async () => {
    const cancels = acts.flatMap(({ message, to }, index) => (message?.type === 'CANCEL' && to.startsWith('request/') ? [index] : []));
    const [first = 0, second = 0] = cancels;
    const born = acts.findIndex(({ to }) => to === 'task-executor/0');
    const orders = [
      'n 2',
      '',
      'b',
      'break actor request type CANCEL',
      'c',
      'c',
      'r',
      `g ${born}`,
      'actor task-executor/0',
      'nonsense',
      'clear',
      'g 99999999',
      's',
      'q',
      'n',
    ];
    const { code, stdout, stderr } = await minipod(['trace', 'open', run], `${orders.join('\n')}\n`);
    expect(code).toBe(0);
    const visited = [...stdout.matchAll(/^ +([\d,]+) +[\d.]+ ms /gm)].map((match) => Number(match[1]?.replaceAll(',', '')));
    expect(visited).toEqual([0, 1, 2, 3, 2, first, second, first, born]);
    expect(stdout).toContain('\ntask-executor/0 is loading\n  self: task-executor/0\n');
    expect(stdout).toContain('\n  placement:\n');
    expect(stdout).toContain(`STEP ${born}, `);
    expect(stderr).toBe('nonsense is no command; help says which there are.\nthe trace ends before step 99,999,999\n');
  });
});

describe('minipod trace diff', () => {
  it('says that a trace is the same as itself, and where two runs part', async () => {
    const [same, different] = await Promise.all([minipod(['trace', 'diff', run, run]), minipod(['trace', 'diff', run, other])]);
    expect({ code: same.code, stdout: same.stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/ are the same: [\d,]+ acts\n$/) });
    expect(different.code).toBe(1);
    const theirs = allActs(other);
    const first = acts.findIndex((act, index) => JSON.stringify(act) !== JSON.stringify(theirs[index]));
    expect(different.stdout).toMatch(new RegExp(`^HEADERS\n  seed: a has 7, b has 8\n\nFIRST DIFFERENCE, at step ${first}, in `));
    expect(different.stdout).toMatch(/\na: .*run\.trace: [\d,]+ acts over [\d.]+ ms\nb: /);
  });
});

describe('minipod trace cut', () => {
  it('leaves a part that replays, of a request or of a time', async () => {
    const [ofRequest, ofTime] = [folder.file('request.trace'), folder.file('time.trace')];
    const cuts = await Promise.all([
      minipod(['trace', 'cut', run, ofRequest, '--request', request, '--json']),
      minipod(['trace', 'cut', run, ofTime, '--since', '0.1', '--until', '0.2']),
    ]);
    expect(cuts.map(({ code }) => code)).toEqual([0, 0]);
    expect(JSON.parse(cuts[0]?.stdout ?? '')).toMatchObject({ acts: allActs(ofRequest).length, acts_before: acts.length });
    expect(allActs(ofRequest).length).toBeLessThan(acts.length / 2);
    expect(allActs(ofRequest).filter(({ to }) => to === request)).toEqual(acts.filter(({ to }) => to === request));
    const again = await Promise.all([minipod(['replay', ofRequest]), minipod(['replay', ofTime]), minipod(['trace', 'cut', run, ofTime, '--until', '0.2'])]);
    expect(again.map(({ code }) => code)).toEqual([0, 0, 2]);
    expect(again[2]?.stderr).toContain('time.trace');
  });

  it('never writes over the trace that it reads, by whatever name it is called', async () => {
    const [own, link, twin] = [folder.file('own.trace'), folder.file('link.trace'), folder.file('twin.trace')];
    copyFileSync(run, own);
    symlinkSync(own, link);
    linkSync(own, twin);
    const names = [own, `${dirname(own)}/./own.trace`, `${dirname(own)}/../${basename(dirname(own))}/own.trace`, link, twin];
    const runs = await Promise.all(names.map((out) => minipod(['trace', 'cut', own, out, '--since', '0.1', '--overwrite'])));
    for (const { code, stderr } of runs) expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining('is the trace itself') });
    expect(readFileSync(own)).toEqual(readFileSync(run));
  });
});

describe('a damaged trace', () => {
  it('is told of as far as it can be read, with the place of the damage and exit code 3, by every command', async () => {
    const whole = readFileSync(run);
    const below = draws(11);
    // Behind the first block, so that something can be read, and before the last.
    const at = Math.floor(whole.length * 0.6) + below(Math.floor(whole.length * 0.2));
    const spoilt = Buffer.from(whole);
    spoilt[at] = (spoilt[at] ?? 0) ^ (1 << below(8));
    const path = folder.file('damaged.trace');
    writeFileSync(path, spoilt);
    const [info, ls, show, diff] = await Promise.all([
      minipod(['trace', 'info', path, '--json']),
      minipod(['trace', 'ls', path, '--json']),
      minipod(['trace', 'show', path, String(acts.length - 1)]),
      minipod(['trace', 'diff', path, run]),
    ]);
    expect(
      [info, ls, show, diff].map(({ code }) => code),
      `byte ${at}`,
    ).toEqual([3, 3, 3, 3]);
    for (const { stderr } of [info, ls, show, diff]) expect(stderr).toMatch(/damaged\.trace: block \d+ at byte [\d,]+: .+; what is before /);
    const readable = JSON.parse(info.stdout).acts;
    expect(jsonLines(ls.stdout)).toEqual(acts.slice(0, readable).map((act, index) => ({ step: index, ...act })));
    expect(readable).toBeGreaterThan(0);
  });
});
