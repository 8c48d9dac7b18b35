import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { jsonLines, minipod, start } from './command.ts';

const sh = async (line: string): Promise<string> => (await promisify(execFile)('sh', ['-c', line])).stdout;

describe('minipod serve', () => {
  it('should print a curl line that works as it stands, key and quotes included', async () => {
    const running = start(['serve', '--port', '0', '--api-key', "it's-secret", '--npus', '2']);
    await running.until((stdout) => stdout.includes('Ctrl-C stops it.'));
    const curl = running.stdout.split('\n').find((line) => line.trim().startsWith('curl ')) ?? '';
    const answer = JSON.parse(await sh(`${curl} --silent`)) as { choices: { message: { content: string } }[] };
    expect(answer.choices[0]?.message.content.length).toBeGreaterThan(20);
    running.kill('SIGINT');
    expect((await running.ended).code).toBe(130);
  });

  it('should let a stream finish when it is told to stop', async () => {
    const running = start(['serve', '--port', '0', '--json']);
    await running.until((stdout) => stdout.includes('\n'));
    const { url, model } = jsonLines(running.stdout)[0] as { url: string; model: { name: string } };
    expect(model.name).toBe('tiny-deepseek-v3');
    const response = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: 'Once', max_tokens: 300, ignore_eos: true, stream: true, stream_options: { include_usage: true } }),
    });
    running.kill('SIGTERM');
    const text = await response.text();
    expect(text).toMatch(/"completion_tokens":300/);
    expect(text).toMatch(/data: \[DONE\]\n\n$/);
    expect((await running.ended).code).toBe(143);
  });

  it('should take an empty MINIPOD_API_KEY for none', async () => {
    const running = start(['serve', '--port', '0', '--json'], '', { MINIPOD_API_KEY: '' });
    await running.until((stdout) => stdout.includes('\n'));
    const { url } = jsonLines(running.stdout)[0] as { url: string };
    expect((await fetch(`${url}/v1/models`)).status).toBe(200);
    running.kill('SIGINT');
    expect((await running.ended).code).toBe(130);
  });

  it('should say which port is taken', async () => {
    const first = start(['serve', '--port', '0', '--json']);
    await first.until((stdout) => stdout.includes('\n'));
    const { port } = jsonLines(first.stdout)[0] as { port: number };
    const { code, stderr } = await minipod(['serve', '--port', String(port)]);
    first.kill('SIGINT');
    expect(code).toBe(1);
    expect(stderr).toMatch(new RegExp(`^minipod: port ${port} of 127\\.0\\.0\\.1 is in use; .*\\n$`));
    await first.ended;
  });
});
