/** KV in INT8 is the model's numerics: the same tokens whatever the topology, the chunks and the caches, and nearly those of float32. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { type Completion, createPod, type Pod, type PodOptions } from '../../src/index.ts';
import { cases } from '../property-runs.ts';
import { scratchFolder, smallCheckpoint } from '../quantize/small-checkpoint.ts';
import { expectNothingLeft, fingerprint } from './pods.ts';

const folder = scratchFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const PROMPTS = ['Once upon a time there was a king who had three sons, and the youngest was called Dummling.', 'The wolf', 'Once upon a time there was'];

async function answers(options: PodOptions): Promise<readonly Completion[]> {
  await using pod = await createPod({ kv_cache_dtype: 'int8', ...options });
  const ask = (prompt: string): Promise<Completion> => pod.complete(prompt, { max_tokens: 24, seed: 5, logprobs: 1, ignore_eos: true });
  const cold = await Promise.all(PROMPTS.map(ask));
  const hot = await Promise.all(PROMPTS.map(ask));
  expect(hot.map(({ choices }) => choices)).toEqual(cold.map(({ choices }) => choices));
  return cold;
}

const [BY_LAYER, CHUNKS]: readonly PodOptions[] = [
  { topology: 'pd:prefill=1xdp1tp2,decode=1', kv_transfer: 'layer' },
  { clock: 'virtual', enforce_eager: true, max_batch_tokens: 7 },
];
const TOPOLOGIES = {
  mla: [{ ...BY_LAYER }, { ...CHUNKS }, { topology: 'pd:prefill=1,decode=1xdomains1x2experts2', kv_fabric: 'tcp' }],
  gqa: [{ ...BY_LAYER, clock: 'virtual' }, { ...CHUNKS }],
} as const satisfies Readonly<Record<string, readonly PodOptions[]>>;

it.each(['mla', 'gqa'] as const)('should give the same bits over topologies, chunks and caches: %s', async (kind) => {
  const model = smallCheckpoint(join(folder, kind), kind);
  const expected = (await answers({ clock: 'virtual', model })).map(({ choices }) => choices);
  for (const options of cases<PodOptions>(TOPOLOGIES[kind])) expect((await answers({ model, ...options })).map(({ choices }) => choices)).toEqual(expected);
  const plain = await answers({ clock: 'virtual', model, kv_cache_dtype: 'auto' });
  const [own = 0, wide = 0] = [expected[0], plain[0]?.choices].map((choices) => choices?.[0]?.logprobs?.[0]?.logprob);
  expect(own).not.toBe(wide);
  expect(Math.abs(own - wide)).toBeLessThan(0.1);
});

it.each([true, false])(
  'should go on elsewhere when a group leaves, with its KV, or computed anew where that has holes of drafts; drafts: %s',
  async (drafts) => {
    const speculative_config = { method: 'mtp', num_speculative_tokens: 2, adaptive: false } as const;
    const options: PodOptions = { clock: 'virtual', kv_cache_dtype: 'int8', speculative_config };
    // So long that its KV is worth its way.
    const prompts = [0, 1, 2, 3].map((call) => Array.from({ length: 180 }, (_, at) => 3 + ((call * 7_919 + at * 104_729) % 1_900)));
    const how = { max_tokens: 24, logprobs: 1, ignore_eos: true, speculative_decoding: drafts } as const;
    const ask = (pod: Pod): Promise<readonly Completion[]> =>
      Promise.all(prompts.map((prompt, seed) => pod.complete(prompt, { ...how, seed, temperature: seed % 2 })));
    await using one = await createPod(options);
    await using pod = await createPod({ ...options, topology: 'colocated:dp=2', scale_max: { attention: 2 }, load_balancing: 'round_robin' });
    const ends = ask(pod);
    let seen = 0;
    for await (const _ of pod.generate(prompts[0] as number[], { max_tokens: 10, ignore_eos: true })) if (++seen === 10) break;
    expect(await pod.scale({ attention: 1 })).toMatchObject({ attention: 1, was: { attention: 2 } });
    expect((await ends).map(fingerprint)).toEqual((await ask(one)).map(fingerprint));
    const pulled = (await pod.stats()).kv_links.reduce((sum, { done }) => sum + done, 0);
    expect(pulled > 0).toBe(drafts);
    await expectNothingLeft(pod);
  },
);

it('should be refused for hashes, and take less memory for as many blocks', async () => {
  await expect(createPod({ clock: 'virtual', kernels: 'hash', kv_cache_dtype: 'int8' })).rejects.toMatchObject({ param: 'kv_cache_dtype' });
  const bytesOf = async (kv_cache_dtype: 'auto' | 'int8'): Promise<number> => {
    await using pod = await createPod({ clock: 'virtual', kv_cache_dtype, kv_blocks: 4096, max_queued: 16 });
    return (await pod.stats()).memory.total_bytes;
  };
  // 5 layers of 4096 × 16 positions of 64 + 16: 320 bytes in float32, 100 in INT8.
  expect((await bytesOf('auto')) - (await bytesOf('int8'))).toBeGreaterThan(0.9 * 5 * 4096 * 16 * 220);
});
