/**
 * Rows in INT8 on their way to experts and back are the model's numerics: the same tokens in every topology, those included in which no row leaves its NPU, and a
 * quarter of the bytes where they do.
 */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { segmentOf } from '../../src/fabric/address.ts';
import { type Completion, createPod, type Pod, type PodOptions, quantizeModel } from '../../src/index.ts';
import { cases } from '../property-runs.ts';
import { scratchFolder, smallCheckpoint } from '../quantize/small-checkpoint.ts';

const folder = scratchFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const PROMPTS = ['Once upon a time there was a king who had three sons, and the youngest was called Dummling.', 'The wolf', 'Once upon a time there was'];
const BOTH: PodOptions = { clock: 'virtual', dispatch_dtype: 'int8', combine_dtype: 'int8' };

type Answers = { readonly choices: readonly Completion['choices'][]; readonly pulled_bytes: number; readonly segments: number };

async function answers(options: PodOptions): Promise<Answers> {
  await using pod: Pod = await createPod({ ...BOTH, ...options });
  const all = await Promise.all(PROMPTS.map((prompt) => pod.complete(prompt, { max_tokens: 12, seed: 5, logprobs: 1, ignore_eos: true })));
  const { npus, memory } = await pod.stats();
  return {
    choices: all.map(({ choices }) => choices),
    pulled_bytes: npus.reduce((sum, npu) => sum + npu.pulled_bytes, 0),
    segments: new Set(memory.regions.map(({ base }) => segmentOf(base))).size,
  };
}

/** Each way in which rows come to experts: own ones, peers', those of a shared segment and of others, dispatches that are joined, rounds, columns, ranks, drafts. */
const WAYS: Readonly<Record<string, PodOptions>> = {
  'one NPU, op by op, in chunks of 7': { enforce_eager: true, max_batch_tokens: 7 },
  'three NPUs': { npus: 3, workers: 2 },
  'ranks of a group': { topology: 'colocated:dp=2,tp=2' },
  'output projections that are split': { topology: 'colocated:dp=2,oproj=2' },
  'experts apart': { topology: 'moe-attention:domains=1x3,experts=2' },
  'experts apart, the shared one beside attention': { topology: [{ role: 'colocated', dp: 2, split: { domains: 1, experts: 2, shared: 'attention' } }] },
  'experts apart, two micro-batches': { topology: 'moe-attention:domains=1x2,experts=2', micro_batches: 2 },
  'domains in turn': { topology: 'moe-attention:domains=2x2,experts=3', schedule: 'domains' },
  'more attention than experts, in turn': { topology: 'moe-attention:domains=1x3,experts=2', schedule: 'domains' },
  'a segment for each NPU': { npus: 3, segment_bytes: 2 ** 24, max_queued: 64 },
};

describe.each(['mla', 'gqa'] as const)('%s', (kind) => {
  const model = smallCheckpoint(join(folder, kind), kind);
  const alone = answers({ model });

  it.each(cases(Object.keys(WAYS)))('should give the tokens of one NPU: %s', async (way) => {
    const { choices, segments } = await answers({ model, ...WAYS[way] });
    expect(choices).toEqual((await alone).choices);
    expect(segments > 1).toBe(way.startsWith('a segment'));
  });

  it.each(cases(['three NPUs', 'experts apart', 'domains in turn']))('should take a quarter of the bytes, and a scale for each row: %s', async (way) => {
    const one = (formats: PodOptions): Promise<Answers> => answers({ model, seed: 3, ...WAYS[way], ...formats });
    const [wide, narrow] = [await one({ dispatch_dtype: 'auto', combine_dtype: 'auto' }), await one({})];
    // Rows of 64; blocks of them are filled up to 16 bytes, which counts where they have one row.
    expect(narrow.pulled_bytes / wide.pulled_bytes).toBeGreaterThanOrEqual((64 + 4) / (4 * 64));
    expect(narrow.pulled_bytes / wide.pulled_bytes).toBeLessThan((64 + 16) / (4 * 64));
  });

  it('should change no token where experts are in INT8, which narrow what they read as dispatch does', async () => {
    const out = join(folder, `${kind}-int8`);
    await quantizeModel({ model, out, text: readFileSync(new URL('../../README.md', import.meta.url), 'utf8').slice(0, 6_000), window: 96, max_tokens: 600 });
    const formats = { model: out, combine_dtype: 'auto' } as const;
    expect((await answers({ ...formats, npus: 2 })).choices).toEqual((await answers({ ...formats, dispatch_dtype: 'auto' })).choices);
  });

  it('should be other numerics than float32, each way by itself', async () => {
    const [plain, there, back] = await Promise.all(
      [{ dispatch_dtype: 'auto', combine_dtype: 'auto' } as const, { combine_dtype: 'auto' } as const, { dispatch_dtype: 'auto' } as const].map((formats) =>
        answers({ model, ...formats }),
      ),
    );
    const logprobs = [await alone, plain, there, back].map((one) => one?.choices[0]?.[0]?.logprobs?.[0]?.logprob ?? Number.NaN);
    expect(new Set(logprobs).size).toBe(4);
    for (const logprob of logprobs) expect(Math.abs(logprob - (logprobs[0] as number))).toBeLessThan(0.1);
  });
});
