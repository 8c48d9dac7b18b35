import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { jsonLines, minipod, type Run, start } from './command.ts';

const sh = async (line: string): Promise<string> => (await promisify(execFile)('sh', ['-c', line])).stdout;

async function listening(flags: readonly string[] = []): Promise<{ running: Run; url: string; model: { name: string } }> {
  const running = start(['serve', '--port', '0', '--json', ...flags]);
  await running.until((stdout) => stdout.includes('\n'));
  return { running, ...(jsonLines(running.stdout)[0] as { url: string; model: { name: string } }) };
}

const tale = (url: string, max_tokens: number): Promise<Response> =>
  fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: 'Once', max_tokens, ignore_eos: true, stream: true, stream_options: { include_usage: true } }),
  });

describe('minipod serve', () => {
  it('should print a curl line that works as it stands, key and quotes included', async () => {
    const running = start(['serve', '--port', '0', '--api-key', "it's-secret", '--npus', '2']);
    await running.until((stdout) => stdout.includes('Ctrl-C stops it.'));
    const curl = running.stdout.split('\n').find((line) => line.trim().startsWith('curl ')) ?? '';
    // It samples: how long the story is nobody knows.
    expect(JSON.parse(await sh(`${curl} --silent`))).toMatchObject({
      ...{ object: 'chat.completion', choices: [{ message: { role: 'assistant', content: expect.any(String) } }] },
      usage: { completion_tokens: expect.toSatisfy((tokens: number) => tokens > 0) },
    });
    running.kill('SIGINT');
    expect((await running.ended).code).toBe(130);
  });

  it('should drain at SIGTERM: not ready, nothing new, and what streams may finish', async () => {
    const { running, url } = await listening();
    // All is read, and as it comes: Node's fetch fails an assertion of its own where a connection ends that it has stopped reading.
    const whole = (await tale(url, 300)).text();
    running.kill('SIGTERM');
    await expect.poll(async () => (await fetch(`${url}/health`)).status).toBe(503);
    const refused = await tale(url, 1);
    expect(refused.status).toBe(503);
    expect(refused.headers.get('connection')).toBe('close');
    expect(await refused.json()).toMatchObject({ error: { code: 'closed', message: expect.stringContaining('takes no new requests') } });
    expect(await (await fetch(`${url}/metrics`)).text()).toContain('vllm:num_requests_running');
    const text = await whole;
    expect(text).toMatch(/"completion_tokens":300/);
    expect(text).toMatch(/data: \[DONE\]\n\n$/);
    expect(await running.ended).toMatchObject({ code: 0, stderr: '' });
  });

  // It runs Node, whatever runs the tests.
  it('should hear the SIGTERM that npm start is sent, which npm passes on to its shell alone', async () => {
    const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: { start: string } };
    const PATH = `node_modules/.bin:${process.env['PATH']}`;
    const shell = spawn('sh', ['-c', `${scripts.start} --port 0 --json`], { env: { ...process.env, PATH }, stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = (await once(shell.stdout, 'data')) as [Buffer];
    const { pid } = JSON.parse(String(line)) as { pid: number };
    try {
      process.kill(shell.pid ?? 0, 'SIGTERM');
      expect(await once(shell, 'exit')).toEqual([0, null]);
      expect(() => process.kill(pid, 0)).toThrow('ESRCH');
    } finally {
      if (shell.exitCode === null) process.kill(pid, 'SIGKILL');
    }
  });

  it('should end what has not finished when the time to drain is over', async () => {
    const { running, url } = await listening(['--drain-ms', '50']);
    const response = await tale(url, 1_500);
    running.kill('SIGTERM');
    expect(await response.text()).toMatch(/"code":"closed"/);
    const { code, stderr } = await running.ended;
    expect(code).toBe(0);
    expect(stderr).toBe('minipod: 1 of 1 had not finished after 0.05 s and were ended with an error\n');
  });

  it('should end at once at a second signal', async () => {
    const { running, url } = await listening();
    const cut = (await tale(url, 1_500)).text();
    cut.catch(() => {});
    running.kill('SIGTERM');
    await expect.poll(async () => (await fetch(`${url}/health`)).status).toBe(503);
    // Signals of one keystroke count as one.
    await new Promise((resolve) => setTimeout(resolve, 350));
    running.kill('SIGTERM');
    expect((await running.ended).code).toBe(143);
    await expect(cut).rejects.toThrow();
  });

  it('should take an empty MINIPOD_API_KEY for none, and say which port is taken', async () => {
    const first = start(['serve', '--port', '0', '--json'], '', { MINIPOD_API_KEY: '' });
    await first.until((stdout) => stdout.includes('\n'));
    const { url, port } = jsonLines(first.stdout)[0] as { url: string; port: number };
    expect((await fetch(`${url}/v1/models`)).status).toBe(200);
    const { code, stderr } = await minipod(['serve', '--port', String(port)]);
    first.kill('SIGINT');
    expect(code).toBe(1);
    expect(stderr).toMatch(new RegExp(`^minipod: port ${port} of 127\\.0\\.0\\.1 is in use; .*\\n$`));
    expect((await first.ended).code).toBe(130);
  });
});
