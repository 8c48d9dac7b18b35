/** Prompts that are kept under an id: what goes on from them has the bits of the whole prompt, and is computed sooner. */
import { describe, expect, it } from 'vitest';
import type { Completion, GenerateOptions, PodOptions } from '../../src/index.ts';
import { withPod } from './pods.ts';

const STORY = [1, 86, 1461, 613, 265, 531, 460, 315];
/** Three blocks of 16, and a little more. */
const BOOK = Array.from({ length: 50 }, (_, at) => STORY[at % STORY.length] as number);
const OPTIONS = { max_tokens: 12, temperature: 1, seed: 3, logprobs: 2, ignore_eos: true } satisfies GenerateOptions;
const bits = ({ choices }: Completion): unknown => choices.map(({ token_ids, logprobs }) => ({ token_ids, logprobs }));

const CLOCKS: readonly PodOptions[] = [{ clock: 'live' }, { clock: 'virtual' }];

describe.each(CLOCKS)('contexts of a pod: %o', (clock) => {
  it('should give the bits of the whole prompt, and not compute what they keep', async () => {
    await withPod({ ...clock, npus: 2 }, async (pod) => {
      const context = await pod.createContext(BOOK, { id: 'book' });
      expect(context).toMatchObject({ id: 'book', tokens: 50, expires: null });
      for (const data_parallel_rank of [0, 1]) {
        const whole = await pod.complete([...BOOK, 504, 454], { ...OPTIONS, cache_salt: 'cold' });
        const onward = await pod.complete([504, 454], { ...OPTIONS, context_id: 'book', data_parallel_rank });
        expect(bits(onward)).toEqual(bits(whole));
        expect(onward.usage).toMatchObject({ prompt_tokens: 52, cached_tokens: 48 });
      }
      const alone = await pod.complete([], { ...OPTIONS, context_id: 'book' });
      expect(bits(alone)).toEqual(bits(await pod.complete(BOOK, { ...OPTIONS, cache_salt: 'cold' })));
      // Lost, it is computed anew.
      await pod.resetPrefixCache();
      const again = await pod.complete([504], { ...OPTIONS, context_id: 'book', data_parallel_rank: 0 });
      expect(again.usage.cached_tokens).toBe(0);
      expect((await pod.complete([505], { ...OPTIONS, context_id: 'book', data_parallel_rank: 0 })).usage.cached_tokens).toBe(48);
    });
  });

  it('should be computed in each group of a pod that takes in fewer choices than it has groups', async () => {
    await withPod({ ...clock, npus: 3, max_queued: 2 }, async (pod) => {
      await pod.createContext(BOOK, { id: 'book' });
      for (const data_parallel_rank of [0, 1, 2])
        expect((await pod.complete([504], { ...OPTIONS, context_id: 'book', data_parallel_rank })).usage.cached_tokens).toBe(48);
    });
  });

  it('should be refused where no group has room for their prompt, which is what is wrong then', async () => {
    await withPod({ ...clock, npus: 2, kv_blocks: 3 }, async (pod) => {
      const message = 'prompt: its 50 tokens and one to generate need 4 KV blocks of 16 positions, the NPU has 3: use at most 47 tokens, or more kv_blocks';
      await expect(pod.createContext(BOOK, { id: 'book' })).rejects.toMatchObject({ code: 'out_of_memory', param: 'prompt', message });
      expect(await pod.listContexts()).toEqual([]);
      expect(await pod.createContext(BOOK.slice(0, 47), { id: 'book' })).toMatchObject({ tokens: 47 });
    });
  });

  it('should be listed until they are deleted, and found by their own salt alone', async () => {
    await withPod(clock, async (pod) => {
      await pod.createContext('Once upon a time', { id: 'tale', cache_salt: 'tenant' });
      const drawn = await pod.createContext(BOOK);
      const list = async (cache_salt?: string): Promise<string[]> => (await pod.listContexts({ cache_salt })).map(({ id }) => id);
      expect([await list(), await list('tenant')]).toEqual([[drawn.id], ['tale']]);
      await expect(pod.createContext(BOOK, { id: 'tale', cache_salt: 'tenant' })).rejects.toMatchObject({ code: 'invalid_request', param: 'id' });
      await expect(pod.createContext([], {})).rejects.toMatchObject({ code: 'invalid_request', param: 'prompt' });
      const unknown = { code: 'context_not_found', param: 'context_id' };
      for (const context_id of ['tale', 'tale@tenant']) await expect(pod.complete(' there', { context_id, max_tokens: 1 })).rejects.toMatchObject(unknown);
      // Another tenant's name is free.
      await pod.createContext(BOOK, { id: 'tale' });
      expect((await pod.complete([504], { ...OPTIONS, context_id: 'tale' })).usage).toMatchObject({ prompt_tokens: 51, cached_tokens: 48 });
      expect([await pod.deleteContext('tale'), await pod.deleteContext('tale')]).toEqual([true, false]);
      const text = await pod.complete(' there', { ...OPTIONS, context_id: 'tale', cache_salt: 'tenant' });
      const { token_ids } = await pod.tokenize('Once upon a time');
      const { token_ids: onward } = await pod.tokenize(' there', { add_special_tokens: false });
      expect(text.prompt.token_ids).toEqual([...token_ids, ...onward]);
      expect(await pod.deleteContext('tale', { cache_salt: 'tenant' })).toBe(true);
      expect([await list(), await list('tenant')]).toEqual([[drawn.id], []]);
    });
  });
});

describe('contexts on a virtual clock', () => {
  const HASH = { clock: 'virtual', kernels: 'hash' } as const;

  it('should be over when their time is', async () => {
    await withPod(HASH, async (pod) => {
      const { created, expires } = await pod.createContext(BOOK, { id: 'book', expires_s: 0.001 });
      expect((expires ?? 0) - created).toBeCloseTo(0.001, 6);
      expect(await pod.listContexts()).toHaveLength(1);
      await pod.complete(BOOK, { max_tokens: 400, ignore_eos: true });
      expect(await pod.listContexts()).toHaveLength(0);
      await expect(pod.complete([504], { context_id: 'book', max_tokens: 1 })).rejects.toMatchObject({ param: 'context_id' });
    });
  });

  it('should not be there where their time is over before they are computed', async () => {
    await withPod({ ...HASH, npus: 2, max_queued: 1 }, async (pod) => {
      await expect(pod.createContext(BOOK, { id: 'book', expires_s: 1e-6 })).rejects.toMatchObject({
        code: 'context_not_found',
        param: 'id',
        message: "id: context 'book' was deleted, or over after its 0.000001 s, before its prompt was computed",
      });
      expect(await pod.listContexts()).toEqual([]);
    });
  });

  it('should outlast what nobody asked to keep', async () => {
    await withPod({ ...HASH, kv_blocks: 12 }, async (pod) => {
      await pod.createContext(BOOK, { id: 'book' });
      for (let request = 0; request < 6; request++) await pod.complete([request, ...BOOK, ...BOOK], { max_tokens: 20, ignore_eos: true });
      expect((await pod.complete([504], { ...OPTIONS, logprobs: undefined, context_id: 'book' })).usage.cached_tokens).toBe(48);
      await pod.deleteContext('book');
      for (let request = 0; request < 6; request++) await pod.complete([request, ...BOOK, ...BOOK], { max_tokens: 20, ignore_eos: true });
      expect((await pod.complete(BOOK, { max_tokens: 1 })).usage.cached_tokens).toBe(0);
    });
  });

  it('should make room for others when their time is over, though nobody asks for contexts any more', async () => {
    await withPod({ ...HASH, kv_blocks: 12 }, async (pod) => {
      await pod.createContext(BOOK, { id: 'book', expires_s: 0.001 });
      const others = async (): Promise<number> => {
        await pod.complete([7, ...BOOK, ...BOOK], { max_tokens: 20, ignore_eos: true });
        return (await pod.stats()).uptime_seconds;
      };
      while ((await others()) < 0.002);
      for (let request = 0; request < 6; request++) await pod.complete([request, ...BOOK, ...BOOK], { max_tokens: 20, ignore_eos: true });
      expect((await pod.complete(BOOK, { max_tokens: 1 })).usage.cached_tokens).toBe(0);
    });
  });
});
