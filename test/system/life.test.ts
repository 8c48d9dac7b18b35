/** How requests end other than by finishing, how pods end, and that neither leaves anything behind (sharedPod looks after each test). */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { type Chunk, createPod, type GenerateOptions, type Generation, MinipodError, type Pod, type PodOptions, type Prompt } from '../../src/index.ts';
import { expectNothingLeft, sharedPod, sleep, withPod } from './pods.ts';

const LONG = Array.from({ length: 1_500 }, (_, index) => 100 + ((index * 13) % 1_900));
const ENDLESS: GenerateOptions = { temperature: 0, ignore_eos: true, max_tokens: 400 };

const failure = async (promise: PromiseLike<unknown>): Promise<MinipodError> => {
  const error = await Promise.resolve(promise).then(
    () => expect.fail('it must fail'),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(MinipodError);
  return error as MinipodError;
};

async function drain(generation: Generation): Promise<Chunk[]> {
  const chunks: Chunk[] = [];
  for await (const chunk of generation) chunks.push(chunk);
  return chunks;
}

describe('AbortSignal', () => {
  const pod = sharedPod({ npus: 2, workers: 2, max_batch_tokens: 16, max_queued: 16 });

  it('aborted before: nothing runs', async () => {
    const error = await failure(pod().complete('Once', { ...ENDLESS, signal: AbortSignal.abort() }));
    expect(error.code).toBe('cancelled');
  });

  it('during prefill: the prompt is not computed to its end', async () => {
    const before = (await pod().stats()).npus.reduce((sum, { tokens_prefilled }) => sum + tokens_prefilled, 0);
    const controller = new AbortController();
    const generation = pod().generate(LONG, { ...ENDLESS, signal: controller.signal });
    const ended = failure(drain(generation));
    while (generation.times().scheduled === null) await sleep(1);
    controller.abort();
    expect((await ended).code).toBe('cancelled');
    await expectNothingLeft(pod());
    const after = (await pod().stats()).npus.reduce((sum, { tokens_prefilled }) => sum + tokens_prefilled, 0);
    expect(after - before).toBeLessThan(LONG.length);
    expect(generation.usage().completion_tokens).toBe(0);
  });

  it('during decode: what came until then was delivered', async () => {
    const controller = new AbortController();
    const chunks: Chunk[] = [];
    const error = await failure(
      (async () => {
        for await (const chunk of pod().generate('Once upon a time', { ...ENDLESS, n: 2, signal: controller.signal })) {
          chunks.push(chunk);
          if (chunks.length === 10) controller.abort();
        }
      })(),
    );
    expect(error.code).toBe('cancelled');
    expect(chunks.length).toBeGreaterThanOrEqual(10);
    expect(chunks.length).toBeLessThan(800);
  });

  it('after the end: nothing happens, and the signal keeps nothing alive', async () => {
    const controller = new AbortController();
    const { choices } = await pod().complete('Once', { ...ENDLESS, max_tokens: 3, signal: controller.signal });
    controller.abort();
    expect(choices[0]?.finish_reason).toBe('length');
  });

  it('at any moment, again and again', async () => {
    for (let round = 0; round < 20; round++) {
      const controller = new AbortController();
      const calls = Array.from({ length: 4 }, (_, index) =>
        drain(pod().generate(`Number ${index}`, { seed: round, max_tokens: 4 + index, n: 2, stop: 'e', signal: controller.signal })),
      );
      setTimeout(() => controller.abort(), (round % 10) * 3);
      for (const call of await Promise.allSettled(calls)) if (call.status === 'rejected') expect(call.reason).toMatchObject({ code: 'cancelled' });
    }
    await expectNothingLeft(pod());
    // Had one of them kept its place, these would not be let in.
    expect((await pod().complete('a', { ...ENDLESS, max_tokens: 2, n: 16 })).choices.length).toBe(16);
  });

  it('leaving the loop early cancels', async () => {
    for await (const _ of pod().generate('Once upon a time', { ...ENDLESS, n: 3 })) break;
    await expectNothingLeft(pod());
    expect((await pod().complete('a', { ...ENDLESS, max_tokens: 2, n: 16 })).choices.length).toBe(16);
  });
});

describe('refusals', () => {
  const pod = sharedPod({ npus: 1, kv_blocks: 40, max_queued: 4 });

  it('more choices than max_queued are refused as overloaded, and those that were taken in go on', async () => {
    const held = [1, 2, 3].map((seed) => pod().complete('Once', { ...ENDLESS, max_tokens: 60, seed }));
    const error = await failure(pod().complete('Once', { ...ENDLESS, n: 2 }));
    expect(error).toMatchObject({ code: 'overloaded' });
    expect(error.message).toContain('max_queued');
    expect((await Promise.all(held)).map(({ choices }) => choices[0]?.token_ids.length)).toEqual([60, 60, 60]);
    expect((await pod().complete('Once', { ...ENDLESS, max_tokens: 1, n: 4 })).choices.length).toBe(4);
  });

  it.each<[string, Prompt, GenerateOptions, string]>([
    ['the prompt alone is too long', Array.from({ length: 2_049 }, () => 5), {}, 'prompt'],
    ['prompt and max_tokens together are', LONG, { max_tokens: 600 }, 'max_tokens'],
    ['a text too long for any ring', 'hello '.repeat(150_000), { max_tokens: 4 }, 'prompt'],
  ])('context length: %s', async (_, prompt, options, param) => {
    expect(await failure(pod().complete(prompt, options))).toMatchObject({ code: 'context_length_exceeded', param });
  });

  it('a request that could never fit the KV blocks says what it needs', async () => {
    const error = await failure(pod().complete(LONG, { max_tokens: 10 }));
    expect(error).toMatchObject({ code: 'out_of_memory', param: 'prompt' });
    expect(error.message).toMatch(/1500 tokens and one to generate need 94 KV blocks of 16 positions, the NPU has 40: use at most 639 tokens/);
    const long = await failure(pod().complete(LONG.slice(0, 600), { max_tokens: 41 }));
    expect(long).toMatchObject({ code: 'out_of_memory', param: 'max_tokens' });
    expect(long.message).toMatch(/need 41 KV blocks of 16 positions, the NPU has 40: use max_tokens of at most 40 with these 600 tokens/);
  });

  it.each<[Record<string, unknown>, string]>([
    [{ temperature: -1 }, 'temperature'],
    [{ temperature: Number.NaN }, 'temperature'],
    [{ top_p: 0 }, 'top_p'],
    [{ max_tokens: 0 }, 'max_tokens'],
    [{ max_tokens: 1.5 }, 'max_tokens'],
    [{ max_tokens: 4, min_tokens: 5 }, 'min_tokens'],
    [{ n: 129 }, 'n'],
    [{ stop: [''] }, 'stop.0'],
    [{ logprobs: 21 }, 'logprobs'],
    [{ logit_bias: { x: 1 } }, 'logit_bias.x'],
    [{ logit_bias: { '4000': 1 } }, 'logit_bias'],
    [{ stop_token_ids: [5_000] }, 'stop_token_ids'],
    [{ seed: 0.5 }, 'seed'],
    [{ temprature: 1 }, 'temprature'],
  ])('options that cannot be served name the one at fault: %o', async (options, param) => {
    expect(await failure(pod().complete('Once', options as GenerateOptions))).toMatchObject({ code: 'invalid_request', param });
  });

  it.each<[unknown, string]>([
    [[], 'prompt'],
    [[2_048], 'prompt'],
    [[-1], 'prompt'],
    [[1.5], 'prompt'],
    [7, 'prompt'],
    [null, 'prompt'],
    [[{ role: 'user' }], 'messages.0'],
    [[1, 'a'], 'messages.0'],
    [{ messages: [], tools: [null] }, 'tools'],
    [{ messages: [], tools: [['a']] }, 'tools'],
    [{ messages: [], tools: 'abc' }, 'tools'],
    [{ messages: [], chat_template_kwargs: { tools: 5 } }, 'chat_template_kwargs.tools'],
    [{ messages: [], chat_template_kwargs: { tools: [null] } }, 'chat_template_kwargs.tools'],
  ])('prompts that are none: %o', async (prompt, param) => {
    expect(await failure(pod().complete(prompt as Prompt))).toMatchObject({ code: 'invalid_request', param });
  });

  it('a generation is iterated once', async () => {
    const generation = pod().generate('Once', { ...ENDLESS, max_tokens: 2 });
    await drain(generation);
    expect(await failure(drain(generation))).toMatchObject({ code: 'invalid_request' });
  });
});

describe('close', () => {
  it('with work in flight fails it with closed; what comes later fails at once; twice is once', async () => {
    const pod = await createPod({ npus: 2, workers: 2, max_batch_tokens: 16 });
    // Longer than any pause of this thread between the first token and what follows.
    const long = { ...ENDLESS, max_tokens: 2_000 };
    const streamed = pod.generate('Twice', long);
    const calls = [pod.complete('Once', long), pod.complete(LONG, ENDLESS), drain(streamed)].map(failure);
    while (streamed.times().first_token === null) await sleep(1);
    await Promise.all([pod.close(), pod.close()]);
    for (const error of await Promise.all(calls)) expect(error.code).toBe('closed');
    expect(await failure(pod.complete('Once'))).toMatchObject({ code: 'closed' });
    expect(await failure(pod.stats())).toMatchObject({ code: 'closed' });
    await pod.close();
  });

  it.each(['closed', 'left open by a crash'])('a process whose pod was %s exits', async (how) => {
    const program = `
      import { createPod } from ${JSON.stringify(new URL('../../src/index.ts', import.meta.url).href)};
      const pod = await createPod({ npus: 2, workers: 2 });
      const call = pod.complete('Once', { max_tokens: 400, ignore_eos: true }).catch((error) => console.log(error.code));
      ${how === 'closed' ? "await pod.close(); await call; console.log('done');" : "setTimeout(() => { throw new Error('crash'); }, 20);"}`;
    const deno = 'Deno' in globalThis;
    const args = deno ? ['eval', '--ext=ts', program] : ['--input-type=module-typescript', '-e', program];
    const child = spawn(process.execPath, args, { cwd: fileURLToPath(new URL('../..', import.meta.url)), stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    child.stdout.on('data', (data) => {
      output += data;
    });
    const code = await new Promise((resolve) => child.on('exit', resolve));
    if (how === 'closed') expect([code, output.trim().split('\n')]).toEqual([0, ['closed', 'done']]);
    else expect(code).toBe(1);
  });
});

describe('createPod refuses', () => {
  it.each<[PodOptions & Record<string, unknown>, string, RegExp]>([
    [{ model: '/nowhere/at/all' }, 'invalid_request', /nowhere/],
    [{ model: fileURLToPath(new URL('.', import.meta.url)) }, 'invalid_request', /has no config\.json/],
    [{ npus: 1, workers: 2 }, 'invalid_request', /workers: 2 threads for 1 NPUs/],
    [{ npus: 33 }, 'invalid_request', /33 NPUs for 32 experts/],
    [{ npus: 0 }, 'invalid_request', /npus/],
    [{ kv_block_size: 20 }, 'invalid_request', /kv_block_size/],
    [
      { memory_bytes: 2 ** 21 },
      'out_of_memory',
      /memory_bytes grants 2\.0 MiB: use fewer NPUs, fewer kv_blocks or larger memory_bytes \(in all: rings \d.* MiB \+ weights \d.* MiB \+ KV blocks \d.* MiB \+ activations \d.* MiB \+ XCCL areas \d.* MiB \+ control and guard pages \d.* MiB\)$/,
    ],
    [{ memory_bytes: 2 ** 26, dram_blocks: 10_000 }, 'out_of_memory', /memory_bytes grants 64\.0 MiB: use fewer dram_blocks or larger memory_bytes \(/],
    [{ segment_bytes: 2 ** 20 }, 'out_of_memory', /a segment holds 0\.9 MiB/],
    [{ nonsense: 1 }, 'invalid_request', /nonsense/],
  ])('%o', async (options, code, message) => {
    const error = await failure(createPod(options));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  it('and a failed creation leaves nothing that hinders the next', async () => {
    await failure(createPod({ memory_bytes: 2 ** 21 }));
    const progress: number[] = [];
    const options = { onProgress: ({ loaded_bytes, total_bytes }: { loaded_bytes: number; total_bytes: number }) => progress.push(loaded_bytes / total_bytes) };
    await withPod(options, async (pod: Pod) => {
      expect((await pod.complete('a', { ...ENDLESS, max_tokens: 1 })).choices.length).toBe(1);
    });
    expect(progress.at(-1)).toBe(1);
    expect(progress).toEqual([...progress].sort((a, b) => a - b));
  });
});
