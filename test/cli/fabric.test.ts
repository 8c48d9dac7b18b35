import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from 'vitest';
import { fabricLines, latencyBound } from '../../src/cli/fabric-tables.ts';
import type { PodStats } from '../../src/index.ts';
import { FakePod } from '../api/fake-pod.ts';
import { type Ended, entryOf, jsonLines, minipod } from './command.ts';

/** The rows of a Markdown table, found by the title of its first column, as records of its titles. */
function tableOf(stdout: string, first: string): Record<string, string>[] {
  const lines = stdout.split('\n');
  const cellsOf = (line: string): string[] =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim());
  const at = lines.findIndex((line) => line.startsWith(`| ${first} `));
  if (at < 0) throw new Error(`no table of ${first} in ${stdout}`);
  const titles = cellsOf(lines[at] as string);
  const below = lines.slice(at + 2);
  const rows = below.slice(
    0,
    below.findIndex((line) => !line.startsWith('|')),
  );
  return rows.map((row) => Object.fromEntries(cellsOf(row).map((cell, index) => [titles[index] ?? '', cell])));
}

/** Looks for longer where too little came: on a crowded machine a pod has hardly begun after half a second. */
async function looked(isEnough: (stdout: string) => boolean, ...args: string[]): Promise<Ended> {
  let ended = await minipod(['fabric', ...args, '--seconds', '0.7']);
  for (const seconds of ['5', '20']) if (!isEnough(ended.stdout)) ended = await minipod(['fabric', ...args, '--seconds', seconds]);
  return ended;
}

const RATES = ['FIELDS/S', 'DISPATCHES/S', 'SERVED/S'];

describe('minipod fabric', () => {
  it('should show in a pipe, once, links and NPUs at work and whose memory is where', async () => {
    const tokensOf = (text: string) => tableOf(text, 'LINK').find(({ LINK, LANE }) => LINK === 'worker/1 → caller' && LANE === 'data');
    const areAtWork = (text: string): boolean =>
      tableOf(text, 'NPU').every((npu) => RATES.every((rate) => Number(npu[rate]) > 0)) && Number(tokensOf(text)?.['FRAMES/S']) > 0;
    const { code, stdout, stderr } = await looked(areAtWork, '--memory-bytes', '1GiB');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/^tiny-deepseek-v3 on 2 NPUs, up [\d.]+ s; requests: \d running, \d waiting, 0 failed; \d+ tokens\/s; rates over \d+\.\d s\n/);

    const tokens = tokensOf(stdout);
    expect(Number(tokens?.['FRAMES/S'])).toBeGreaterThan(0);
    expect(tokens).toMatchObject({ 'BYTES/S': expect.stringMatching(/^[\d.]+ [KM]?i?B$/), 'P99 µs': expect.stringMatching(/^([<≥] \d+|–)$/), STALE: '0' });
    expect(tokens?.['CREDITS']).toMatch(/^[\d.]+ [KM]iB \+ 256 KiB$/);

    expect(tableOf(stdout, 'NPU').map(({ NPU, WORKER }) => [NPU, WORKER])).toEqual([
      ['0', '0'],
      ['1', '1'],
    ]);
    for (const npu of tableOf(stdout, 'NPU')) {
      for (const rate of RATES) expect([rate, Number(npu[rate]) > 0]).toEqual([rate, true]);
      expect(npu).toMatchObject({ 'PULLED/S': expect.stringMatching(/^[\d.]+ [KM]?i?B$/), REFUSED: '0', 'FIELDS STALE': '0' });
    }
    expect(tableOf(stdout, 'THREAD').map(({ THREAD, STATE }) => [THREAD, STATE])).toEqual(
      ['caller', 'control', 'worker/0', 'worker/1'].map((name) => [name, 'held']),
    );

    const regions = tableOf(stdout, 'REGION');
    const ofPod = ['pod records', 'pod vocabulary'];
    expect(regions.map(({ REGION, KIND }) => `${REGION} ${KIND}`.trim())).toEqual(['pod control', 'pod rings', 'npu/0 hbm', 'npu/1 hbm', ...ofPod, 'sum']);
    expect(regions[0]).toMatchObject({ AT: '0:0x10000', STATE: 'held', EPOCH: '1', BYTES: '64 KiB' });
    expect(stdout).toMatch(/\nRegions: held [\d.]+ MiB\. Segments: 1, [\d.]+ MiB in all\. Free: [\d.]+ MiB of 1 GiB granted\.\n$/);
  });

  it('should print with --json what pod.stats() gives and nothing else', async () => {
    const hasTokens = (text: string): boolean => (jsonLines(text)[0] as PodStats).generation_tokens > 0;
    const { code, stdout, stderr } = await looked(hasTokens, '--json', '--requests', '1', '--npus', '1');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const [stats, ...more] = jsonLines(stdout) as [PodStats];
    expect(more).toEqual([]);
    expect(stats.generation_tokens).toBeGreaterThan(0);
    expect(stats.npus.map(({ worker, die }) => [worker, die])).toEqual([[0, 0]]);
    const kinds = ['control', 'rings', 'hbm', 'records', 'vocabulary'];
    expect(stats.memory.regions.map(({ kind, state }) => [kind, state])).toEqual(kinds.map((kind) => [kind, 'held']));
    const written = stats.fabric.links.filter(({ frames }) => frames > 0).map(({ from, to }) => `${from} → ${to}`);
    expect(written).toEqual(expect.arrayContaining(['caller → control', 'control → caller', 'control → worker/0', 'worker/0 → control', 'worker/0 → caller']));
  });

  it('should leave a pod alone for which no requests are asked, and fail when they are refused', async () => {
    const [idle, refused] = await Promise.all([
      minipod(['fabric', '--json', '--requests', '0', '--seconds', '0.1']),
      minipod(['fabric', '--requests', '3', '--max-queued', '1']),
    ]);
    expect(idle.code).toBe(0);
    expect(jsonLines(idle.stdout)).toMatchObject([{ requests_running: 0, prompt_tokens: 0, requests_finished: { length: 0, cancelled: 0 } }]);
    expect(refused).toMatchObject({ code: 1, stdout: '', stderr: expect.stringMatching(/^minipod: .*max_queued.*\n$/) });
  });

  it('should paint over the same lines of a terminal until Ctrl-C, then show all, with the code that shells expect', async () => {
    const command = `stty rows 20 cols 60; exec '${process.execPath}' ${entryOf().join(' ')} fabric`;
    // That of util-linux, which gives a command a terminal.
    const running = spawn('script', ['-qefc', command, '/dev/null'], { stdio: 'pipe' });
    let [painted, isStopped] = ['', false];
    running.stdout.setEncoding('utf8').on('data', (text: string) => {
      painted += text;
      if (isStopped || painted.split('more lines, shown at the end').length < 3) return;
      isStopped = true;
      running.stdin.write('\x03');
    });
    const [code] = await once(running, 'close');
    expect(code).toBe(130);
    const [first = '', second = '', last = ''] = painted.slice(painted.indexOf('tiny-deepseek-v3 on')).split('\x1b[19A');
    for (const screen of [first, second]) {
      expect(screen.split('\n')).toHaveLength(20);
      for (const line of screen.split('\r\n')) expect(stripVTControlCharacters(line).length).toBeLessThanOrEqual(60);
    }
    expect(last).toMatch(/\| sum +\|[\s\S]*\nRegions: held [\d.]+ MiB\. Segments: 1, [\d.]+ MiB in all\.\r\n/);
  });

  it('should say with exit code 2 what is wrong', async () => {
    const wrong = [
      [['--requests', '-1'], /'--requests <N>' argument '-1' is invalid/],
      [['--seconds', 'soon'], /It is not a number/],
      [['--temperature', '1'], /unknown option '--temperature'/],
    ] as const;
    const ended = await Promise.all(wrong.map(([args]) => minipod(['fabric', ...args])));
    expect(ended).toEqual(wrong.map(([, message]) => ({ code: 2, stdout: '', stderr: expect.stringMatching(message) })));
  });
});

describe('the tables of minipod fabric', () => {
  it('should give a latency as the bound of its bucket', () => {
    expect(latencyBound([0, 0, 0], 0.5)).toBe('–');
    expect(latencyBound([1, 0, 0], 0.99)).toBe('< 1');
    expect(latencyBound([0, 0, 50, 49, 1, 0], 0.5)).toBe('< 4');
    expect(latencyBound([0, 0, 50, 49, 1, 0], 0.99)).toBe('< 8');
    expect(latencyBound([0, 0, 0, 3], 0.5)).toBe('≥ 4');
  });

  it('should give rates since the earlier look, and count from 0 what began anew meanwhile', async () => {
    const now = { ...(await new FakePod().stats()), uptime_seconds: 12 };
    const framesBefore = (frames: number): PodStats => {
      const links = now.fabric.links.map((link) => ({ ...link, frames }));
      return { ...now, uptime_seconds: 10, fabric: { ...now.fabric, links } };
    };
    const framesPerSecond = (earlier: PodStats) => tableOf(fabricLines({ earlier, now, memory_bytes: undefined }).join('\n'), 'LINK')[0]?.['FRAMES/S'];
    expect(framesPerSecond(framesBefore(3))).toBe('2.0');
    expect(framesPerSecond(framesBefore(1_000))).toBe('3.5');
  });

  it('should go on showing an NPU that is lost, and count from 0 what its successor counts', async () => {
    const now = { ...(await new FakePod().stats()), uptime_seconds: 12 };
    const npuOf = (state: string, dispatches_written: number) =>
      tableOf(
        fabricLines({
          earlier: { ...now, uptime_seconds: 10 },
          now: { ...now, npus: now.npus.map((npu) => ({ ...npu, state, dispatches_written })) },
          memory_bytes: undefined,
        }).join('\n'),
        'NPU',
      )[0];
    expect(npuOf('lost', 21)).toMatchObject({ STATE: 'lost', 'DISPATCHES/S': '0' });
    expect(npuOf('busy', 9)).toMatchObject({ STATE: 'busy', 'DISPATCHES/S': '4.5' });
  });

  it('should name links that wait, and memory in quarantine', async () => {
    const now = await new FakePod().stats();
    const shown = fabricLines({ earlier: now, now, memory_bytes: 4_000 }).join('\n');
    expect(tableOf(shown, 'LINK')).toMatchObject([{ LINK: 'caller → control', LANE: 'data', WAITING: '1', FULL: '2', STALE: '3', STALLED: '1500 ms' }]);
    expect(shown).toContain('Links that have carried nothing: 1.');
    expect(tableOf(shown, 'REGION')[2]).toMatchObject({ REGION: 'die/1', STATE: 'quarantined', BYTES: '300 B' });
    expect(tableOf(shown, 'THREAD')[1]).toMatchObject({ THREAD: 'thread/3', STATE: 'quarantined' });
    expect(shown).toMatch(/Regions: held 700 B, quarantined 300 B\. Segments: 1, 1000 B in all\. Free: 2\.93 KiB of 3\.91 KiB granted\.$/);
  });
});
