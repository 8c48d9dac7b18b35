/** The same tokens and the same logprob bits, whatever the pod looks like and whoever else is served. */
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import type { PodOptions } from '../../src/index.ts';
import { folderOf, MODELS, type ModelName } from '../golden/goldens.ts';
import { cases } from '../property-runs.ts';
import { withPod } from './pods.ts';
import { digest, run, WORKLOAD, type Work } from './workload.ts';

const committed = JSON.parse(readFileSync(new URL('same-bits.json', import.meta.url), 'utf8')) as Record<ModelName, Record<string, string>>;
const MIB = 2 ** 20;

let alone: Record<string, string[]>;
beforeAll(async () => {
  alone = await withPod({ clock: 'virtual' }, (pod) => run(pod, 'one after the other'));
});

const topologies: PodOptions[] = [
  { npus: 8, workers: 4 },
  { npus: 1, workers: 1 },
];
/** One thread or many makes no difference to which NPU has which experts, how steps are cut and where KV lies: on a virtual clock, whose kernels are the same. */
const layouts: PodOptions[] = [
  { npus: 2, enforce_eager: true },
  { npus: 8 },
  { max_batch_tokens: 1 },
  { max_batch_tokens: 7, kv_block_size: 32 },
  { max_batch_tokens: 64, kv_block_size: 64 },
  // KV blocks end beyond 2 GiB of their segment, where an int32 turns negative; pages that are not touched cost nothing.
  { max_batch_requests: 2, kv_blocks: 100_000 },
].map((layout) => ({ ...layout, clock: 'virtual' }));

/** On two workers chance has it who needs blocks when: some rounds are without. */
const ROUNDS_MAX = 8;

describe('same ids and same logprob bits as one request at a time on one NPU', () => {
  it('which are the committed ones', () => {
    expect(digest(alone)).toEqual(committed['tiny-deepseek-v3']);
  });

  it.each(cases([...topologies, ...layouts]))('all at once with %o', async (options) => {
    expect(await withPod(options, (pod) => run(pod, 'all at once'))).toEqual(alone);
  });

  it('over several segments of memory, experts behind segment borders', async () => {
    await withPod({ npus: 4, workers: 2, kv_blocks: 64, max_batch_tokens: 64, segment_bytes: 24 * MIB }, async (pod) => {
      const { memory } = await pod.stats();
      expect(new Set(memory.regions.map(({ base }) => Math.floor(base / 2 ** 32))).size).toBeGreaterThan(2);
      expect(await run(pod, 'all at once')).toEqual(alone);
    });
  });

  it('with 31 other requests in flight', async () => {
    const others: Work[] = Array.from({ length: 31 }, (_, index) => ({
      name: `other ${index}`,
      prompt: `Number ${index} said to the fox: `.repeat((index % 5) + 1),
      options: { seed: index, temperature: 1 + (index % 3) / 4, max_tokens: 12 + (index % 8), ignore_eos: true },
    }));
    const crowded = await withPod({ npus: 2, workers: 2 }, (pod) => run(pod, 'all at once', [...others.slice(0, 16), ...WORKLOAD, ...others.slice(16)]));
    expect(Object.fromEntries(WORKLOAD.map(({ name }) => [name, crowded[name]]))).toEqual(alone);
  });

  it.each(
    cases<PodOptions>([
      { clock: 'virtual', kv_blocks: 20 },
      { npus: 2, workers: 2, kv_blocks: 14 },
      { clock: 'virtual', kv_blocks: 18, max_batch_tokens: 40 },
    ]),
  )('while KV blocks run out and sequences are recomputed: %o', async (options) => {
    await withPod(options, async (pod) => {
      let preemptions = 0;
      for (let round = 0; round < ROUNDS_MAX && preemptions === 0; round++) {
        expect(await run(pod, 'all at once')).toEqual(alone);
        preemptions = (await pod.stats()).npus.reduce((sum, npu) => sum + npu.preemptions, 0);
      }
      expect(preemptions).toBeGreaterThan(0);
    });
  });
});

/** Those of the shipped model are held against above, on both clocks. */
const OTHERS = MODELS.filter((name) => name !== 'tiny-deepseek-v3');

describe('the committed bits on this runtime', () => {
  const bitsOf = async (name: ModelName, options: PodOptions) => digest(await withPod({ model: folderOf(name), ...options }, (pod) => run(pod, 'all at once')));

  it.each(OTHERS)('of %s, on a virtual clock', async (name) => {
    expect(await bitsOf(name, { clock: 'virtual' })).toEqual(committed[name]);
  });

  it.each(cases(OTHERS))('of %s, on worker threads', async (name) => {
    expect(await bitsOf(name, { npus: 3, workers: 2, max_batch_tokens: 32 })).toEqual(committed[name]);
  });
});
