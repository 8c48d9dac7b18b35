import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { stripVTControlCharacters } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, serve } from '../../src/api/index.ts';
import { readMetrics } from '../../src/cli/prometheus-text.ts';
import { enginesOf, lookAt, topLines } from '../../src/cli/top-table.ts';
import { createPod, type Pod } from '../../src/index.ts';
import { entryOf, jsonLines, minipod } from './command.ts';

describe('minipod top', () => {
  const KEY = 'secret';
  let pod: Pod;
  let server: ApiServer;
  let isDone = false;
  let load: Promise<void>[];
  beforeAll(async () => {
    pod = await createPod({ npus: 2 });
    server = await serve({ pod, port: 0, api_key: KEY });
    const ask = async (): Promise<void> => {
      const headers = { 'content-type': 'application/json', authorization: `Bearer ${KEY}` };
      const body = JSON.stringify({ prompt: 'Once upon a time', max_tokens: 16, ignore_eos: true, stream: true });
      while (!isDone) await (await fetch(`${server.url}/v1/completions`, { method: 'POST', headers, body })).text();
    };
    load = [ask(), ask()];
  });
  afterAll(async () => {
    isDone = true;
    await Promise.all(load);
    await server.close();
    await pod.close();
  });

  it('should print in a pipe, once, a row for each engine, and the same as JSON', async () => {
    const flags = ['--url', server.url, '--api-key', KEY, '--interval-seconds', '0.3'];
    const text = await minipod(['top', ...flags]);
    let json = await minipod(['top', '--json', ...flags]);
    // On a crowded machine no request may begin in so short a time.
    while (!json.stdout.includes('"p99_at_most"')) json = await minipod(['top', '--json', ...flags]);
    expect([text.code, text.stderr, json.code, json.stderr]).toEqual([0, '', 0, '']);
    expect(text.stdout).toMatch(/^tiny-deepseek-v3 on http:\S+; \d running, \d waiting; [\d.]+ tokens\/s; rates over \d+\.\d s\n\n\| ENGINE \| TE \| ROLE /);
    const [whole] = jsonLines(json.stdout) as [{ model: string; control_threads_lost: number; engines: ReturnType<typeof enginesOf> }];
    expect([whole.model, whole.control_threads_lost]).toEqual(['tiny-deepseek-v3', 0]);
    expect(whole.engines.map(({ engine, task_executor, role }) => [engine, task_executor, role])).toEqual([
      ['0', '0', 'colocated'],
      ['1', '0', 'colocated'],
    ]);
    const busy = whole.engines.find(({ time_to_first_token_seconds }) => time_to_first_token_seconds !== null);
    expect(busy?.inter_token_latency_seconds?.mean).toBeGreaterThan(0);
    expect(busy?.time_to_first_token_seconds?.p99_at_most).toBeGreaterThan(0);
  });

  it('should paint over and over on a terminal until q is pressed', async () => {
    const command = `stty rows 20 cols 150; exec '${process.execPath}' ${entryOf().join(' ')} top --url ${server.url} --api-key ${KEY} --interval-seconds 0.1`;
    const running = spawn('script', ['-qefc', command, '/dev/null'], { stdio: 'pipe' });
    let painted = '';
    running.stdout.setEncoding('utf8').on('data', (text: string) => {
      painted += text;
      if (painted.split('q leaves').length === 3) running.stdin.write('q');
    });
    const [code] = await once(running, 'close');
    expect(code).toBe(0);
    expect(stripVTControlCharacters(painted)).toMatch(/\| 1 +\| 0 +\| colocated \|/);
  });

  it('should leave no column out on a narrow terminal', async () => {
    const command = `stty rows 20 cols 80; exec '${process.execPath}' ${entryOf().join(' ')} top --url ${server.url} --api-key ${KEY} --interval-seconds 0.1`;
    const running = spawn('script', ['-qefc', command, '/dev/null'], { stdio: 'pipe' });
    let painted = '';
    running.stdout.setEncoding('utf8').on('data', (text: string) => {
      painted += text;
      if (painted.includes('q leaves')) running.stdin.write('q');
    });
    await once(running, 'close');
    expect(stripVTControlCharacters(painted)).toMatch(
      /\| HIT RATE \|\r\n.*\n\| ENGINE \| PROMPT TOKENS\/S \| TOKENS\/S \| TTFT ms \| +P99 \| TPOT ms \| +P99 \|\r\n/s,
    );
  });

  it('should say that nobody answers, and that a key is asked for', async () => {
    const [nobody, stranger, wrong] = await Promise.all([
      minipod(['top', '--url', 'http://127.0.0.1:1']),
      minipod(['top', '--url', server.url]),
      minipod(['top', '--url', 'here']),
    ]);
    expect(nobody).toMatchObject({ code: 1, stdout: '', stderr: 'minipod: http://127.0.0.1:1 does not answer; is `minipod serve` running there?\n' });
    expect(stranger).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining('asks for a key') });
    expect(wrong).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('must be the http or https URL of a server') });
  });
});

describe('the table of minipod top', () => {
  const metrics = (tokens: number, hits: number, [fast, slow]: readonly [number, number]): string => `# HELP vllm:x y
vllm:num_requests_running{model_name="m",engine="0"} 3
vllm:num_requests_running{model_name="m",engine="10"} 1
vllm:num_requests_running{model_name="m",engine="2"} 0
vllm:num_requests_waiting{model_name="m",engine="0"} 2
vllm:kv_cache_usage_perc{model_name="m",engine="0"} 0.25
vllm:generation_tokens_total{model_name="m",engine="0"} ${tokens}
vllm:prefix_cache_queries_total{model_name="m",engine="0"} ${tokens}
vllm:prefix_cache_hits_total{model_name="m",engine="0"} ${hits}
vllm:time_to_first_token_seconds_bucket{le="0.1",model_name="m",engine="0"} ${fast}
vllm:time_to_first_token_seconds_bucket{le="0.5",model_name="m",engine="0"} ${fast + slow}
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="m",engine="0"} ${fast + slow}
vllm:time_to_first_token_seconds_sum{model_name="m",engine="0"} ${0.05 * fast + 0.3 * slow}
vllm:time_to_first_token_seconds_count{model_name="m",engine="0"} ${fast + slow}
`;
  const before = lookAt(metrics(1_000, 400, [10, 0]), 10_000);

  it('should tell what grew between two looks', () => {
    const [first, second, third] = enginesOf(before, lookAt(metrics(1_200, 450, [12, 2]), 12_000));
    expect([first?.engine, second?.engine, third?.engine]).toEqual(['0', '2', '10']);
    expect(first).toMatchObject({ task_executor: null, requests_running: 3, requests_waiting: 2, kv_cache_usage: 0.25, prefix_cache_hit_rate: 0.25 });
    expect(first).toMatchObject({ generation_tokens_per_second: 100, inter_token_latency_seconds: null });
    expect(first?.time_to_first_token_seconds).toEqual({ mean: expect.closeTo(0.175), p50_at_most: 0.1, p99_at_most: 0.5 });
    expect(second).toMatchObject({ prefix_cache_hit_rate: null, generation_tokens_per_second: 0 });
  });

  it('should count from 0 what began anew meanwhile', () => {
    const [first] = enginesOf(before, lookAt(metrics(50, 10, [1, 0]), 11_000));
    expect(first).toMatchObject({ generation_tokens_per_second: 50, prefix_cache_hit_rate: 0.2 });
    expect(first?.time_to_first_token_seconds).toEqual({ mean: expect.closeTo(0.05), p50_at_most: 0.1, p99_at_most: 0.1 });
  });

  it('should say nothing of what did not happen', () => {
    const lines = topLines('http://here', before, { ...before, at_ms: 11_000 });
    expect(lines[0]).toBe('m on http://here; 4 running, 2 waiting; 0 tokens/s; rates over 1.0 s');
    expect(lines[4]?.split('|').map((cell) => cell.trim())).toEqual(['', '0', '–', '–', '3', '2', '25.0 %', '–', '0', '0', '–', '–', '–', '–', '']);
  });

  it.each([136, 80, 40, 1])('should show all columns on a terminal of %i characters', (wide) => {
    const cellsOf = (line: string): string[] => line.split('|').map((cell) => cell.trim());
    const now = { ...before, at_ms: 11_000 };
    const [heads, , row] = topLines('http://here', before, now).slice(2) as [string, string, string];
    const lines = topLines('http://here', before, now, wide).slice(2);
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(Math.max(wide, '| ENGINE | PROMPT TOKENS/S |'.length));
    const tables = lines
      .join('\n')
      .split('\n\n')
      .map((table) => table.split('\n').map(cellsOf));
    for (const [index, title] of ['ENGINE', '0'].entries()) expect(tables.map((rows) => rows[2 * index]?.[1])).toEqual(tables.map(() => title));
    // Behind the first column, which each table has, all others in their order.
    const joined = (index: number): (string | undefined)[] => tables.flatMap((rows) => rows[index]?.slice(2, -1));
    expect([joined(0), joined(2)]).toEqual([cellsOf(heads).slice(2, -1), cellsOf(row).slice(2, -1)]);
  });

  it('should read labels and numbers as Prometheus writes them', () => {
    expect(readMetrics('# TYPE a counter\na{x="1, \\"2\\"\\n}",y="\\\\"} +Inf 1700000000\nb 0.5\n\nno sample here?\n')).toEqual([
      { name: 'a', labels: { x: '1, "2"\n}', y: '\\' }, value: Number.POSITIVE_INFINITY },
      { name: 'b', labels: {}, value: 0.5 },
    ]);
  });
});
