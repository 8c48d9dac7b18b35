import { describe, expect, it } from 'vitest';
import { cases } from '../property-runs.ts';
import { withPod } from '../system/pods.ts';
import { jsonLines, minipod, minipodAlone, start } from './command.ts';

describe('minipod generate', () => {
  it('should print what the embedded API generates with the same options', async () => {
    const { code, stdout, stderr } = await minipodAlone([
      'generate',
      'Once upon a time',
      '--seed',
      '7',
      '--max-tokens',
      '40',
      '--temperature',
      '0.9',
      '--top-k',
      '50',
      '--npus',
      '2',
    ]);
    const options = { seed: 7, max_tokens: 40, min_tokens: 32, temperature: 0.9, top_k: 50 };
    const { choices } = await withPod({ clock: 'virtual' }, (pod) => pod.complete('Once upon a time', options));
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toBe(`${choices[0]?.text}\n`);
  });

  it('should read the prompt from a pipe, without the newline that ends it', async () => {
    const [piped, given] = await Promise.all([
      minipodAlone(['generate', '--echo', '--seed', '1', '--max-tokens', '8'], 'In a deep forest\n'),
      minipod(['generate', 'In', 'a', 'deep', 'forest', '--echo', '--seed', '1', '--max-tokens', '8']),
    ]);
    expect(piped).toEqual(given);
    expect(piped.stdout).toMatch(/^In a deep forest/);
  });

  it('should print with --json a line for each chunk and one with usage at the end', async () => {
    const { code, stdout } = await minipod(['generate', 'The wolf', '--json', '--max-tokens', '5', '--logprobs', '2', '--n', '2', '--seed', '3']);
    const lines = jsonLines(stdout) as { choice?: number; token_ids?: number[]; logprobs?: unknown[]; usage?: unknown; seed?: number; model?: string }[];
    const last = lines.at(-1);
    expect(code).toBe(0);
    expect(last).toMatchObject({ model: 'tiny-deepseek-v3', seed: 3, usage: { completion_tokens: 10 } });
    for (const choice of [0, 1]) {
      const chunks = lines.filter((line) => line.choice === choice);
      expect(chunks.flatMap(({ token_ids }) => token_ids ?? [])).toHaveLength(5);
      expect(chunks.flatMap(({ logprobs }) => logprobs ?? [])).toHaveLength(5);
    }
  });

  it('should end cleanly on Ctrl-C with work in flight, with the code that shells expect', async () => {
    const running = start(['generate', 'Once', '--ignore-eos', '--max-tokens', '2000', '--npus', '8']);
    await running.until((stdout) => stdout.length > 100);
    running.kill('SIGINT');
    const { code, stdout, stderr } = await running.ended;
    expect({ code, stderr }).toEqual({ code: 130, stderr: '' });
    expect(stdout.length).toBeLessThan(6_000);
  });

  it('should end quietly when its reader has had enough', async () => {
    const running = start(['generate', 'Once', '--ignore-eos', '--max-tokens', '2000', '--npus', '8']);
    await running.until((stdout) => stdout.length > 100);
    running.process.stdout?.destroy();
    const { code, stderr } = await running.ended;
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  });
});

describe('wrong usage', () => {
  it.each(
    cases<[string[], RegExp]>([
      [['generate', 'x', '--modle', 'y'], /unknown option '--modle'\n\(Did you mean --model\?\)/],
      [['generte', 'x'], /unknown command 'generte'\n\(Did you mean generate\?\)/],
      [['generate', 'x', '--npus', '0'], /'--npus <N>' argument '0' is invalid\. It must be at least 1, not 0/],
      [['generate', 'x', '--eplb-config', '{}'], /argument '\{\}' is invalid\. num_redundant_experts: is required, an integer\./],
      [['generate', 'x', '--temperature', 'hot'], /'hot' is invalid\. It is not a number/],
      [['generate', 'x', '--logprobs', '2'], /need --json/],
      [['generate', 'x', '--workers', '5', '--npus', '2'], /workers: 5 threads for 2 NPUs/],
      [['generate', 'x', '--min-tokens', '5', '--max-tokens', '3'], /min_tokens: 5 is more than max_tokens, 3/],
      [['generate', 'x', '--logit-bias', '99999=100'], /logit_bias: token id 99999 is not in the vocabulary/],
      [['generate', ''], /the prompt given as an argument is empty/],
      [['generate'], /the prompt on standard input is empty/],
    ]),
  )('should be told with exit code 2: %j', async (args, message) => {
    const { code, stdout, stderr } = await minipod(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^minipod: /);
  });

  it('should name what is wrong with the model in one line, with exit code 1', async () => {
    const { code, stderr } = await minipodAlone(['generate', 'x', '--model', 'no-such-model']);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^minipod: model: expected the name of a shipped model \(tiny-deepseek-v3\) .* found "no-such-model".*\n$/);
  });

  it('should give errors as JSON too where JSON was asked for', async () => {
    const { code, stdout } = await minipod(['generate', 'x', '--json', '--memory-bytes', '1MiB']);
    expect(code).toBe(1);
    expect(jsonLines(stdout)).toMatchObject([{ error: { code: 'out_of_memory' } }]);
  });
});
