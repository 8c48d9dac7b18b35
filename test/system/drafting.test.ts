/** Steps that verify drafts: the same ids and the same logprob bits as without, whatever is drafted. */
import { beforeAll, describe, expect, it } from 'vitest';
import type { PodOptions, PodStats } from '../../src/index.ts';
import { cases } from '../property-runs.ts';
import { withPod } from './pods.ts';
import { run, WORKLOAD, type Work } from './workload.ts';

const FOX = 'Once upon a time there was a fox. Once upon a time there was a wolf. Once upon a time there was';
/** What repeats itself, greedy and sampled, and ends of every sort in the midst of drafts that are right. */
const REPETITIVE: readonly Work[] = [
  { name: 'story', prompt: FOX, options: { temperature: 0, max_tokens: 56, ignore_eos: true, logprobs: 2 } },
  { name: 'one token', prompt: 'The', options: { seed: 4, logit_bias: { '265': 80 }, max_tokens: 21, logprobs: 0 } },
  { name: 'stop string', prompt: 'a b', options: { temperature: 0, logit_bias: { '265': 90 }, stop: ' and and and', min_tokens: 3, max_tokens: 30 } },
  { name: 'stop token', prompt: FOX, options: { temperature: 0, stop_token_ids: [265], min_tokens: 9, max_tokens: 40, logprobs: 0 } },
  { name: 'penalties', prompt: FOX, options: { temperature: 0.3, seed: 8, frequency_penalty: 0.05, n: 2, max_tokens: 24, logprobs: 1, ignore_eos: true } },
];
const WORK = [...WORKLOAD.filter(({ name }) => name.includes('penalties') || name.includes('top_k')), ...REPETITIVE];
/** As many drafts as can be found. */
const EAGER = { method: 'ngram', num_speculative_tokens: 3, prompt_lookup_min: 1, prompt_lookup_max: 3, adaptive: false } as const;

const draftsOf = ({ dp_groups }: PodStats): { tokens: number; accepted: number } => ({
  tokens: dp_groups.reduce((sum, { drafting }) => sum + drafting.draft_tokens, 0),
  accepted: dp_groups.reduce((sum, { drafting }) => sum + drafting.accepted_tokens, 0),
});

let without: Record<string, string[]>;
beforeAll(async () => {
  without = await withPod({ clock: 'virtual' }, (pod) => run(pod, 'all at once', WORK));
});

const pods: PodOptions[] = [
  {},
  { clock: 'virtual', topology: 'colocated:dp=1,tp=2' },
  { clock: 'virtual', max_batch_tokens: 40, kv_block_size: 32 },
  { clock: 'virtual', kv_blocks: 26, async_scheduling: false },
  { clock: 'virtual', topology: 'pd:prefill=1,decode=1xdp2' },
  { clock: 'virtual', topology: 'moe-attention:domains=1x2,experts=2', micro_batches: 2, speculative_config: { ...EAGER, num_speculative_tokens: 7 } },
  { clock: 'virtual', topology: 'moe-attention:domains=2x1,experts=2', schedule: 'domains' },
  { clock: 'virtual', speculative_config: { ...EAGER, adaptive: true } },
];

describe('drafts', () => {
  it.each(cases(pods))('should change no id and no bit of a log-probability: %o', async (options) => {
    await withPod({ speculative_config: EAGER, ...options }, async (pod) => {
      expect(await run(pod, 'all at once', WORK)).toEqual(without);
      const { tokens, accepted } = draftsOf(await pod.stats());
      // Where they do not pay, they are tried at least.
      if (options.speculative_config?.adaptive) expect(tokens).toBeGreaterThan(0);
      else expect(accepted).toBeGreaterThan(10);
    });
  });

  it('should be left out for a request that wants none, beside others that have some', async () => {
    const isPlain = (index: number): boolean => index % 2 === 0;
    const mixed = WORK.map((work, index) => ({ ...work, options: { ...work.options, speculative_decoding: !isPlain(index) } }));
    await withPod({ clock: 'virtual', speculative_config: EAGER }, async (pod) => {
      expect(await run(pod, 'all at once', mixed)).toEqual(without);
      const some = draftsOf(await pod.stats()).tokens;
      expect(some).toBeGreaterThan(0);
      await run(
        pod,
        'all at once',
        mixed.filter((_, index) => isPlain(index)),
      );
      expect(draftsOf(await pod.stats()).tokens).toBe(some);
    });
  });

  it('should be counted in the usage of who had them', async () => {
    await withPod({ clock: 'virtual', speculative_config: EAGER }, async (pod) => {
      const { usage, choices } = await pod.complete(FOX, { temperature: 0, max_tokens: 90, ignore_eos: true });
      const { tokens, accepted } = draftsOf(await pod.stats());
      expect(usage.drafted).toEqual({ accepted_prediction_tokens: accepted, rejected_prediction_tokens: tokens - accepted });
      expect(usage.completion_tokens).toBe(90);
      // Of tokens that stand behind the end nobody knows.
      const cut = await pod.complete(FOX, { temperature: 0, max_tokens: 90, stop_token_ids: [choices[0]?.token_ids[60] ?? -1] });
      expect(cut.choices[0]?.token_ids.length).toBe(cut.usage.completion_tokens);
      const plain = await pod.complete(FOX, { temperature: 0, max_tokens: 40, speculative_decoding: false });
      expect(plain.usage.drafted).toBeUndefined();
    });
  });
});
