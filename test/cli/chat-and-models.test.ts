import { describe, expect, it } from 'vitest';
import type { Prompt } from '../../src/index.ts';
import { withPod } from '../system/pods.ts';
import { jsonLines, minipod } from './command.ts';

describe('minipod chat', () => {
  it('should keep the conversation until /reset', async () => {
    const { code, stdout } = await minipod(
      ['chat', '--json', '--seed', '5', '--max-tokens', '12'],
      'Tell me a story.\nAnd then?\n/reset\nTell me a story.\n/exit\nnever asked\n',
    );
    const answers = jsonLines(stdout) as { content: string; usage: { prompt_tokens: number } }[];
    expect(code).toBe(0);
    expect(answers).toHaveLength(3);
    expect(answers[2]).toEqual(answers[0]);

    const messages: Prompt = [
      { role: 'user', content: 'Tell me a story.' },
      { role: 'assistant', content: answers[0]?.content ?? '' },
      { role: 'user', content: 'And then?' },
    ];
    const { choices } = await withPod({ clock: 'virtual' }, (pod) => pod.complete(messages, { seed: 5, max_tokens: 12, temperature: 0.7 }));
    expect(answers[1]?.content).toBe(choices[0]?.text);
  });
});

describe('minipod models', () => {
  it('should list what is shipped, and describe a folder', async () => {
    const [shipped, folder] = await Promise.all([minipod(['models']), minipod(['models', 'test/models/tiny-qwen3-moe', '--json'])]);
    expect(shipped.stdout).toMatch(/^NAME +ARCHITECTURE +PARAMETERS +CONTEXT\ntiny-deepseek-v3 +deepseek_v3 +8\.0 M +2048 tokens\n$/);
    expect(JSON.parse(folder.stdout)).toMatchObject([{ name: 'tiny-qwen3-moe', architecture: 'qwen3_moe', context_length: 2048 }]);
  });

  it('should list the models that a folder holds', async () => {
    const { code, stdout } = await minipod(['models', 'test/models', '--json']);
    expect(code).toBe(0);
    expect((JSON.parse(stdout) as { name: string }[]).map(({ name }) => name)).toEqual(expect.arrayContaining(['tiny-kimi-k2', 'tiny-qwen3-moe']));
  });

  it('should print what can be read before it says what cannot', async () => {
    const args = ['models', 'no-such-model', 'tiny-deepseek-v3', 'nor-this'];
    const [text, json] = await Promise.all([minipod(args), minipod([...args, '--json'])]);
    expect([text.code, json.code]).toEqual([1, 1]);
    expect(text.stdout).toMatch(/^NAME.*\ntiny-deepseek-v3 .*\n$/);
    expect(text.stderr).toMatch(/^minipod: .*found "no-such-model".*\n.*found "nor-this".*\n$/);
    expect(jsonLines(json.stdout)).toMatchObject([[{ name: 'tiny-deepseek-v3' }], { error: { code: 'invalid_request' } }]);
  });
});

describe('minipod --help', () => {
  it('should show a newcomer what to type', async () => {
    const [help, version] = await Promise.all([minipod(['--help']), minipod(['--version'])]);
    expect(help).toMatchObject({ code: 0, stderr: '' });
    expect(help.stdout).toContain('$ minipod generate "Once upon a time"');
    expect(version.stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it('should be what the help command shows', async () => {
    const [flag, command, all, unknown] = await Promise.all([
      minipod(['generate', '--help']),
      minipod(['help', 'generate']),
      minipod(['help']),
      minipod(['help', 'generte']),
    ]);
    expect(command).toEqual(flag);
    expect(all).toMatchObject({ code: 0, stderr: '' });
    expect(unknown.code).toBe(2);
  });
});
