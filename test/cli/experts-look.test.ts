/** `minipod experts` against a server. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { stripVTControlCharacters } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, serve } from '../../src/api/index.ts';
import { FakePod } from '../api/fake-pod.ts';
import { traceFolder } from '../trace/files.ts';
import { entryOf, jsonLines, minipod } from './command.ts';

describe('minipod experts', () => {
  const KEY = 'secret';
  const folder = traceFolder();
  const pod = new FakePod();
  let server: ApiServer;
  let flags: string[];
  beforeAll(async () => {
    server = await serve({ pod, port: 0, api_key: KEY });
    flags = ['--url', server.url, '--api-key', KEY, '--interval-seconds', '0.05'];
  });
  afterAll(async () => {
    await server.close();
    folder[Symbol.dispose]();
  });

  it('should print in a pipe, once, a map and a table; the same as JSON; and a map as SVG', async () => {
    const svg = folder.file('experts.svg');
    const [text, json, drawn] = await Promise.all([
      minipod(['experts', ...flags, '--layer', '1']),
      minipod(['experts', '--json', ...flags]),
      minipod(['experts', '--svg', svg, ...flags]),
    ]);
    expect([text.code, text.stderr, json.code, json.stderr, drawn.code]).toEqual([0, '', 0, '', 0]);
    const lines = text.stdout.split('\n');
    expect(lines[0]).toBe(`fake on ${server.url}; top 2 of 4 experts a layer; tokens of 1 s since the pod’s start`);
    expect(lines[4]).toBe('    1 ▆▆▆▂▂▂···▄▄▄ 100 tokens, 0: 2.40 ×; NPUs 1.20');
    expect(lines.filter((line) => line.startsWith('| 0 '))).toHaveLength(4);
    expect(jsonLines(json.stdout)).toEqual([{ url: server.url, seconds: expect.any(Number), recent: false, ...(await pod.experts()) }]);
    expect(readFileSync(svg, 'utf8')).toMatch(/^<svg [\s\S]*layer 1, expert 0: 60 tokens, 2\.40 of an even share[\s\S]*<\/svg>\n$/);
  });

  it('should have experts moved, and say what was planned and what became of it', async () => {
    const server = flags.slice(0, 4);
    const [moved, json, failed] = await Promise.all([
      minipod(['experts', 'rebalance', '--force', ...server]),
      minipod(['experts', 'rebalance', '--force', '--json', ...server]),
      minipod(['experts', 'rebalance', ...server]),
    ]);
    expect([moved.code, moved.stderr, json.code, failed.code]).toEqual([0, '', 0, 1]);
    const lines = moved.stdout.split('\n');
    expect(lines.slice(0, 2)).toEqual([
      'TE 0: installed, 2 slots changed; asked for; map 8',
      'busiest NPU over mean, a mean over layers: 1.500, then 1.200 predicted, 20.0 % less to wait for',
    ]);
    expect(lines.filter((line) => line.startsWith('|')).map((line) => line.replaceAll(/ +/g, ' '))).toEqual([
      '| LAYER | EXPERT | ONTO NPU | FROM NPU | IN PLACE OF |',
      expect.any(String),
      '| 1 | 0 | 1 | 0 | nothing |',
      '| 1 | none | 0 | – | 3 |',
    ]);
    expect(jsonLines(json.stdout)).toEqual([{ outcomes: await pod.rebalance({ force: true }) }]);
    expect(failed.stdout).toBe(
      'TE 0: rolled back, nothing moved; npu/1 was lost; map 8\nbusiest NPU over mean, a mean over layers: 1.500, then 1.500 predicted\n',
    );
  });

  it('should paint over and over on a terminal, in colour, until q is pressed', async () => {
    const command = `stty rows 30 cols 110; exec '${process.execPath}' ${entryOf().join(' ')} experts ${flags.join(' ')}`;
    // Not the caller's environment: CI, NO_COLOR and others like them would take the colours away.
    const env = { PATH: process.env['PATH'], HOME: process.env['HOME'], TERM: 'xterm-256color' };
    const running = spawn('script', ['-qefc', command, '/dev/null'], { stdio: 'pipe', env });
    let painted = '';
    let hasLeft = false;
    running.stdout.setEncoding('utf8').on('data', (text: string) => {
      painted += text;
      if (painted.split('q leaves').length >= 3 && !hasLeft) running.stdin.write('q');
      hasLeft = painted.split('q leaves').length >= 3;
    });
    const [code] = await once(running, 'close');
    expect(code).toBe(0);
    expect(stripVTControlCharacters(painted)).toMatch(/\| 0 +\| 1 +\| 0 +\| 0 +\| +60 \|/);
    expect(painted).toContain('\x1b[48;5;');
  });

  it('should say what is wrong', async () => {
    const [layer, file] = await Promise.all([minipod(['experts', ...flags, '--layer', '7']), minipod(['experts', ...flags, '--svg', '/nowhere/x.svg'])]);
    expect(layer).toMatchObject({ code: 2, stderr: 'minipod: --layer 7 has no experts; these have: 1\n' });
    expect(file).toMatchObject({ code: 1, stderr: expect.stringContaining('/nowhere/x.svg: it cannot be written') });
  });
});
