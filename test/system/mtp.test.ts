/** Steps that verify what MTP layers draft: the same ids and the same logprob bits as without, in every topology; and drafts are those that they should be. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPod, type Generation, type PodOptions, type PodStats } from '../../src/index.ts';
import { casesOf, type GoldenCase } from '../golden/goldens.ts';
import { twoMtpLayers } from '../model/two-mtp-layers.ts';
import { cases } from '../property-runs.ts';
import { type Call, compared, draftsAt } from './draft-positions.ts';
import { withPod } from './pods.ts';
import { run, WORKLOAD } from './workload.ts';

const MTP = { method: 'mtp', num_speculative_tokens: 1, adaptive: false } as const;

const draftsOf = ({ dp_groups }: PodStats): { tokens: number; accepted: number } => ({
  tokens: dp_groups.reduce((sum, { drafting }) => sum + drafting.draft_tokens, 0),
  accepted: dp_groups.reduce((sum, { drafting }) => sum + drafting.accepted_tokens, 0),
});

/** Its main model is the shipped one. */
const folder = twoMtpLayers(mkdtempSync(join(tmpdir(), 'minipod-two-mtp-layers-')));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const placed = ({ model, ...options }: PodOptions): PodOptions => (model === undefined ? options : { ...options, model: folder });

let without: Record<string, string[]>;
beforeAll(async () => {
  without = await withPod({ clock: 'virtual' }, (pod) => run(pod, 'all at once', WORKLOAD));
});

const pods: PodOptions[] = [
  {},
  { clock: 'virtual', topology: 'colocated:dp=1,tp=2', max_batch_tokens: 40 },
  { clock: 'virtual', kv_blocks: 26, async_scheduling: false, enforce_eager: true, speculative_config: { ...MTP, num_speculative_tokens: 3 } },
  { clock: 'virtual', topology: 'moe-attention:domains=2x1,experts=2', schedule: 'domains', speculative_config: { ...MTP, num_speculative_tokens: 2 } },
  { clock: 'virtual', topology: 'pd:prefill=1,decode=1', kv_transfer: 'layer', speculative_config: { ...MTP, adaptive: true } },
  { clock: 'virtual', topology: 'moe-attention:domains=1x2,experts=2', micro_batches: 2, speculative_config: { ...MTP, num_speculative_tokens: 2 } },
  { model: 'two layers', clock: 'virtual', speculative_config: { ...MTP, num_speculative_tokens: 3 } },
  { model: 'two layers', clock: 'virtual', kv_blocks: 26, topology: 'colocated:dp=1,tp=2', speculative_config: { ...MTP, num_speculative_tokens: 2 } },
  {
    model: 'two layers',
    clock: 'virtual',
    topology: 'moe-attention:domains=2x1,experts=2',
    schedule: 'domains',
    speculative_config: { ...MTP, num_speculative_tokens: 2 },
  },
  {
    model: 'two layers',
    clock: 'virtual',
    topology: 'pd:prefill=1,decode=1',
    kv_transfer: 'layer',
    speculative_config: { ...MTP, num_speculative_tokens: 2, adaptive: true },
  },
];
/** With the shipped checkpoint's layer, and with two; by the hash model, whose drafts are others wherever a single cell of their KV is. */
const MODELS: PodOptions[] = [{}, { model: 'two layers', kernels: 'hash', hash_foreseeable: 0.6 }];

/** Right drafts of a walk over what the reference drafts: two tokens on where one is right, one where it is not. */
function walk({ greedy_ids, mtp_draft_ids = [] }: GoldenCase): { tokens: number; accepted: number } {
  const walked = { tokens: 0, accepted: 0 };
  // Behind the last token but one there is nothing to draft.
  for (let at = 0; at + 2 < greedy_ids.length; at++, walked.tokens++) {
    if (mtp_draft_ids[at] !== greedy_ids[at + 1]) continue;
    walked.accepted++;
    at++;
  }
  return walked;
}

/** The drafts that a pod verifies, request by request, as it is asked for one after the other. */
async function draftsIn(options: PodOptions, prompts: readonly (readonly number[])[]): Promise<{ drafts: number[][]; hits: number }> {
  let all: number[] = [];
  const drafts: number[][] = [];
  const pod = await createPod({
    ...{ clock: 'virtual', speculative_config: { ...MTP, num_speculative_tokens: 2 }, ...options },
    inspect: (event) => {
      if (event.type === '@xstate.event' && event.event.type === 'LAUNCH_DONE')
        for (const outcome of (event.event as unknown as { outcomes: { drafts: number[] }[] }).outcomes) all.push(...outcome.drafts);
    },
  });
  try {
    let hits = 0;
    for (const prompt of prompts) {
      all = [];
      const { usage } = await pod.complete(prompt, { max_tokens: 24, temperature: 0.8, seed: 3, ignore_eos: true, frequency_penalty: 0.5 });
      hits += usage.cached_tokens;
      drafts.push(all);
    }
    return { drafts, hits };
  } finally {
    await pod.close();
  }
}

describe('drafts of MTP layers', () => {
  it.each(cases(pods))('should change no id and no bit of a log-probability: %o', async (options) => {
    await withPod(placed({ speculative_config: MTP, ...options }), async (pod) => {
      expect(await run(pod, 'all at once', WORKLOAD)).toEqual(without);
      expect(draftsOf(await pod.stats()).accepted).toBeGreaterThan(options.speculative_config?.adaptive ? 0 : 10);
    });
  });

  it('should be right as often as a walk over the reference’s drafts says', async () => {
    const goldens = casesOf('tiny-deepseek-v3').slice(-4);
    await withPod({ clock: 'virtual', speculative_config: MTP }, async (pod) => {
      let before = { tokens: 0, accepted: 0 };
      for (const golden of goldens) {
        await pod.complete(golden.token_ids, { temperature: 0, max_tokens: golden.greedy_ids.length, ignore_eos: true });
        const now = draftsOf(await pod.stats());
        expect({ tokens: now.tokens - before.tokens, accepted: now.accepted - before.accepted }).toEqual(walk(golden));
        before = now;
      }
    });
  });

  it.each(cases(MODELS))('should be the same with a cold cache and a warm one, in blocks of others and behind their output: %o', async (model) => {
    const story = casesOf('tiny-deepseek-v3').at(-1)?.token_ids ?? [];
    const prompts = [story, story.slice(0, 64), [...story.slice(0, 70), 5, 9], story.slice(0, 65), story];
    for (const options of [
      { topology: 'pd:prefill=1,decode=1', async_scheduling: false },
      { dram_blocks: 64, kv_blocks: 10 },
    ] as const) {
      const cold = await draftsIn({ ...placed(model), ...options, dram_blocks: 0, prefix_caching: false }, prompts);
      const warm = await draftsIn({ ...placed(model), ...options }, prompts);
      expect(warm.hits).toBeGreaterThan(100);
      expect(warm.drafts.flat().length).toBeGreaterThan(50);
      expect(warm.drafts, JSON.stringify(options)).toEqual(cold.drafts);
    }
  });

  it.each(cases(MODELS))('should be the same where sequences give way and are computed again, and go on then: %o', async (model) => {
    const story = casesOf('tiny-deepseek-v3').at(-1)?.token_ids ?? [];
    const calls = Array.from({ length: 5 }, (_, index): Call => {
      return { prompt: [...story.slice(0, 20), 40 + index], options: { max_tokens: 60, temperature: 0.8, seed: index, ignore_eos: true } };
    });
    const options = { ...placed(model), max_batch_tokens: 64, speculative_config: { ...MTP, num_speculative_tokens: 2 } } as const;
    const calm = await draftsAt(options, calls);
    const tight = await draftsAt({ ...options, kv_blocks: 14, prefix_caching: false }, calls);
    expect(calm.stats.dp_groups[0]?.preemptions).toBe(0);
    expect(tight.stats.dp_groups[0]?.preemptions).toBeGreaterThan(2);
    const { both, differing } = compared(tight.drafts, calm.drafts);
    expect(differing).toEqual([]);
    expect(both).toBeGreaterThan(100);
    // To the end of each.
    for (const [name, of] of tight.drafts) expect(Math.max(...of.keys()), name).toBeGreaterThan(21 + 60 - 8);
  });

  it.each(cases(MODELS))('should be there in the first step of decode, as prefill handed them over: %o', async (model) => {
    const story = casesOf('tiny-deepseek-v3').at(-1)?.token_ids ?? [];
    const calls = [16, 21, 40].map(
      (length): Call => ({ prompt: story.slice(0, length), options: { max_tokens: 20, temperature: 0.8, seed: length, ignore_eos: true } }),
    );
    const options = { ...placed(model), speculative_config: { ...MTP, num_speculative_tokens: 2 } } as const;
    const colocated = await draftsAt(options, calls);
    for (const kv_transfer of ['request', 'layer'] as const) {
      const apart = await draftsAt({ ...options, topology: 'pd:prefill=1,decode=1', kv_transfer }, calls);
      expect(compared(apart.drafts, colocated.drafts).differing).toEqual([]);
      for (const { prompt } of calls) {
        const first = apart.drafts.get(`0: ${prompt}`)?.get(prompt.length + 1);
        expect(first, `${kv_transfer}, ${prompt.length} tokens`).toHaveLength(2);
        expect(first).toEqual(colocated.drafts.get(`0: ${prompt}`)?.get(prompt.length + 1));
      }
    }
  });

  it('should bring a virtual pod’s TPOT to a step’s time by 1 + acceptance, tokens as without (xDeepServe §7: (93 + 2) / 1.9)', async () => {
    const options = { clock: 'virtual', kernels: 'hash', hash_foreseeable: 0.9, topology: 'colocated:dp=4', prefix_caching: false } as const;
    const timed = (more: PodOptions) =>
      withPod({ ...options, ...more }, async (pod) => {
        const calls = Array.from({ length: 24 }, (_, index) => pod.generate([1, 7 + index], { max_tokens: 100, seed: index, ignore_eos: true }));
        const idsOf = async (call: Generation): Promise<number[]> => {
          const ids: number[] = [];
          for await (const { token_ids } of call) ids.push(...token_ids);
          return ids;
        };
        const tokens = await Promise.all(calls.map(idsOf));
        const tpots = calls.map((call) => {
          const [times] = call.choices();
          return ((times?.finished ?? 0) - (times?.first_token ?? 0)) / 99;
        });
        const { npus, ...stats } = await pod.stats();
        const steps_us = npus.reduce((sum, { decode_steps_us_sum, step_gaps_us_sum }) => sum + decode_steps_us_sum + step_gaps_us_sum, 0);
        const steps = npus.reduce((sum, { decode_steps_us }) => sum + decode_steps_us.reduce((all, count) => all + count, 0), 0);
        const tpot_us = (tpots.reduce((sum, tpot) => sum + tpot, 0) / calls.length) * 1000;
        return { tokens, tpot_us, step_us: steps_us / steps, drafts: draftsOf({ npus, ...stats }) };
      });
    const plain = await timed({});
    const drafted = await timed({ speculative_config: MTP });
    expect(drafted.tokens).toEqual(plain.tokens);
    const acceptance = drafted.drafts.accepted / drafted.drafts.tokens;
    expect(Math.abs(plain.tpot_us / plain.step_us - 1)).toBeLessThan(0.03);
    expect(Math.abs(acceptance - 0.9)).toBeLessThan(0.03);
    expect(Math.abs((drafted.tpot_us * (1 + acceptance)) / drafted.step_us - 1)).toBeLessThan(0.05);
  });

  it('should be refused for a model without such layers', async () => {
    await expect(createPod({ model: 'test/models/tiny-qwen3-moe', speculative_config: MTP })).rejects.toThrow(
      /'mtp' needs layers for multi-token prediction, and .* has none/,
    );
  });
});
