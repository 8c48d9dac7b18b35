/** The hash model stands in for the kernels: its tokens depend on all that a real model's depend on, and on nothing else. */

import { describe, expect, it } from 'vitest';
import { EXPERT_MASK, expertIn, placeOfSlot, SLOT_SHIFT } from '../../../src/flowserve/experts/expert-slots.ts';
import { doWithout } from '../../../src/flowserve/hash-model/gate-without.ts';
import { Hash } from '../../../src/flowserve/hash-model/hash.ts';
import { type HashLayout, hashLayoutOnDie, loadHashWeights, planHashPod } from '../../../src/flowserve/hash-model/hash-layout.ts';
import { checkHashSampling } from '../../../src/flowserve/hash-model/hash-sampler.ts';
import { attentionLayouts } from '../../../src/flowserve/layouts/step-layout.ts';
import type { PlanOptions } from '../../../src/flowserve/pod-plan.ts';
import { readModelConfig } from '../../../src/model/config.ts';
import { resolveModel } from '../../../src/model/registry.ts';
import type { Sampling } from '../../../src/protocol/messages.ts';
import { colocated, parseTopology } from '../../../src/protocol/topology.ts';
import { numbers } from '../../xccl/rig.ts';
import { type Call, generate, type HashPod, type Interference, makeHashPod, SHAPE, VERSION, wordsAt } from '../hash-rig.ts';

const next = numbers(5);
const promptOf = (length: number): number[] => Array.from({ length }, () => Math.floor(next() * SHAPE.vocabSize));
const PROMPTS = [13, 1, 40, 25, 8, 33, 17, 9].map(promptOf);
const TOKENS = 12;

const callsOn = (npus: number, prompts = PROMPTS): Call[] => prompts.map((prompt, index) => ({ npu: index % npus, prompt, max_tokens: TOKENS }));
const [expected] = [generate(makeHashPod(1), callsOn(1)).tokens];

describe('tokens of the hash model', () => {
  it('are these, on every runtime', () => {
    expect(expected[0]).toEqual([34545, 1778, 7289, 410, 3273, 13196, 7731, 9615, 16365, 1881, 37687, 20898]);
    const sampled = generate(makeHashPod(2), [{ npu: 1, prompt: [1, 2, 3], max_tokens: 4, sampling: { temperature: 0.7, seed: -7 } }]);
    expect(sampled.tokens[0]).toEqual([17339, 11817, 29973, 3156]);
    // Where there is no shared expert, nothing of one is looked at.
    const alone = { ...SHAPE, moe: { ...SHAPE.moe, sharedExperts: 0 } };
    expect(generate(makeHashPod(2, { model: alone }), [{ npu: 1, prompt: [1, 2, 3], max_tokens: 4 }]).tokens[0]).toEqual([16443, 46403, 49032, 28510]);
  });

  it.each([1, 2, 4, 8, 16])('do not depend on the number of NPUs: %i', (npus) => {
    expect(generate(makeHashPod(npus), callsOn(npus)).tokens).toEqual(expected);
  });

  it('do not depend on the segment that an NPU lies in', () => {
    const pod = makeHashPod(4, { kv_blocks: 200, segment_bytes: 2 ** 18 });
    expect(pod.plan.memory.segments.length).toBeGreaterThan(2);
    expect(generate(pod, callsOn(4)).tokens).toEqual(expected);
  });

  it('do not depend on the batch', () => {
    const pod = makeHashPod(2);
    for (const [index, prompt] of PROMPTS.entries())
      expect(generate(pod, [{ npu: 1, prompt, max_tokens: TOKENS }]).tokens, `prompt ${index}`).toEqual([expected[index]]);
  });

  it.each([5, 7, 23])('do not depend on how the prompt is cut: chunks of %i', (max_batch_tokens) => {
    expect(generate(makeHashPod(2, { max_batch_tokens }), callsOn(2)).tokens).toEqual(expected);
  });

  it.each([1, 3, 16])('do not depend on the length of a block: %i', (kv_block_size) => {
    expect(generate(makeHashPod(2, { kv_block_size, kv_blocks: Math.ceil(256 / kv_block_size) }), callsOn(2)).tokens).toEqual(expected);
  });

  it('do not depend on preemption', () => {
    const { tokens, preemptions } = generate(makeHashPod(2, { kv_blocks: 9 }), callsOn(2));
    expect(preemptions).toBeGreaterThan(1);
    expect(tokens).toEqual(expected);
  });

  it('depend on seed and choice where they are drawn, and only there', () => {
    const ask = (sampling: Partial<Sampling>, choice = 0) =>
      generate(makeHashPod(1), [{ npu: 0, prompt: [1, 2, 3], max_tokens: 4, sampling, choice }]).tokens[0];
    expect(ask({ seed: 1 })).toEqual(ask({ seed: 2 }, 1));
    expect(ask({ temperature: 1, seed: 1 })).toEqual(ask({ temperature: 1, seed: 1 }));
    expect(ask({ temperature: 1, seed: 1 })).not.toEqual(ask({ temperature: 1, seed: 1 }, 1));
    expect(ask({ temperature: 1, seed: 1 })).not.toEqual(ask({ temperature: 1, seed: 2 }));
    expect(ask({ temperature: 1, seed: 1 })).not.toEqual(ask({ seed: 1 }));
    expect(ask({ temperature: 1, seed: 1 })).not.toEqual(ask({ temperature: 1, seed: 1 + 2 ** 40 }));
  });

  it('end at a stop token, and not before min_tokens', () => {
    const [first, second] = expected[0] as readonly [number, number];
    const ask = (min_tokens: number) =>
      generate(makeHashPod(1), [{ npu: 0, prompt: PROMPTS[0] as number[], max_tokens: TOKENS, sampling: { stop_token_ids: [second, second + 1], min_tokens } }])
        .tokens[0] as readonly number[];
    expect(ask(0)).toEqual([first, second]);
    expect(ask(3).slice(0, 2)).toEqual([first, second + 2]);
    expect(ask(3).length).toBeGreaterThan(3);
  });

  it('come without probabilities: who asks for them is told, and the others go on', () => {
    expect(() => checkHashSampling({ logprobs: 0, prompt_logprobs: -1 })).toThrow(/^logprobs: the hash model computes no probabilities; leave logprobs out/);
    expect(() => checkHashSampling({ logprobs: -1, prompt_logprobs: 3 })).toThrow(/^prompt_logprobs: the hash model/);
    checkHashSampling({ logprobs: -1, prompt_logprobs: -1 });
    const calls = callsOn(1).map((call, index) => (index === 2 ? { ...call, sampling: { prompt_logprobs: 1 } } : call));
    const { tokens, errors } = generate(makeHashPod(1), calls);
    expect(errors[2]).toMatchObject({ code: 'invalid_request', param: 'prompt_logprobs' });
    expect(tokens).toEqual(expected.map((ids, index) => (index === 2 ? [] : ids)));
  });
});

describe('a pod of the hash model', () => {
  it('takes its shape from a checkpoint', () => {
    const model = readModelConfig(resolveModel('tiny-deepseek-v3'));
    const tokensOn = (npus: number) => generate(makeHashPod(npus, { model }), [{ npu: npus - 1, prompt: [5, 6, 7], max_tokens: 20 }]).tokens[0];
    expect(tokensOn(1)).toHaveLength(20);
    expect(tokensOn(8)).toEqual(tokensOn(1));
  });

  it('of 256 NPUs with the shape of DeepSeek-V3 needs little memory', () => {
    const moe = { experts: 256, topK: 8, sharedExperts: 1, denseLayers: [0, 1, 2] };
    const model = { layers: 61, vocabSize: 129_280, maxPositions: 4_096, eosTokenIds: [1], moe };
    const { plan, programs } = makeHashPod(256, { model, kv_blocks: 128, kv_block_size: 16 });
    expect(programs).toHaveLength(256);
    expect(plan.memory.bytes / 256).toBeLessThan(2 ** 21);
  });

  it('lays an NPU that moves to a spare die as it lay before', () => {
    const { plan } = makeHashPod(2, { workers: 2, spare_workers: 1 });
    const [, before] = plan.layouts as [HashLayout, HashLayout];
    const after = hashLayoutOnDie(plan, 1, 2) as HashLayout;
    expect(after.base).toBe(plan.dies[2]?.base);
    expect(after.weights - after.base).toBe(before.weights - before.base);
    expect(after.kv.address - after.base).toBe(before.kv.address - before.base);
    expect(after.expertSlots.each).toBe(before.expertSlots.each);
  });

  it('refuses a shape that is none', () => {
    const plan = (moe: Partial<typeof SHAPE.moe>) => planHashPod({ ...SHAPE, moe: { ...SHAPE.moe, ...moe } }, makeHashPodOptions);
    expect(() => plan({ topK: 17 })).toThrow('hash model: topK 17 of 16 experts');
    expect(() => plan({ experts: 0.5 })).toThrow('hash model: experts is 0.5');
  });
});

const makeHashPodOptions = {
  ...makeHashPod(1).plan.options,
  topology: colocated(1),
  workers: 1,
  spare_workers: 0,
  job_executors: 1,
  segment_bytes: 2 ** 30,
  memory_bytes: undefined,
  kv_lease_ms: undefined,
};

describe('options and masked gates of the hash model', () => {
  const plan = (options: Partial<PlanOptions>) => planHashPod(SHAPE, { ...makeHashPodOptions, ...options });

  it('is refused where what it is to do without would never be done', () => {
    const pair = parseTopology('colocated:dp=2');
    expect(() => plan({ degraded: true })).toThrow(/degraded/);
    expect(() => plan({ degraded: true, topology: pair, workers: 2 })).not.toThrow();
    expect(() => plan({ degraded: false })).not.toThrow();
    expect(() => plan({ kv_fabric: 'tcp' })).toThrow(/kv_fabric/);
    expect(() => plan({ kv_fabric: 'tcp', topology: parseTopology('pd:prefill=1,decode=1') })).not.toThrow();
  });

  it('chooses instead of each masked expert the next that it would not have chosen, all distinct and in order', () => {
    const without = (chosen: number[], ...masked: number[]): number[] => {
      const ids = Int32Array.from(chosen);
      doWithout(ids, new Set(masked), 8);
      return [...ids];
    };
    expect([without([1, 3], 1), without([1, 2], 1), without([6, 7], 7), without([0, 2], 0, 2), without([3, 5], 0, 1)]).toEqual([
      [2, 3],
      [2, 3],
      [0, 6],
      [1, 3],
      [3, 5],
    ]);
  });
});

describe('the experts of the hash model', () => {
  it('are each chosen about as often as the others, distinct and in order', () => {
    // Where choices are recorded, all rows go through all layers.
    const pod = makeHashPod(2, { records_routing: true });
    const { moe } = SHAPE;
    const chosen: number[][] = [];
    generate(pod, callsOn(2), {
      onAsked: (npu) => {
        const { layout } = (pod.programs[npu] as HashPod['programs'][number]).forward;
        const ids = wordsAt(pod, layout.scratch.experts, moe.topK);
        chosen.push([...ids]);
      },
    });
    expect(chosen.length).toBeGreaterThan(50);
    for (const ids of chosen) expect(ids).toEqual([...new Set(ids)].sort((a, b) => a - b));

    const tokens = PROMPTS.reduce((sum, prompt) => sum + prompt.length + TOKENS - 1, 0);
    for (let layer = 1; layer < SHAPE.layers; layer++) {
      const loads = Array.from({ length: moe.experts }, (_, expert) =>
        attentionLayouts(pod.plan.layouts).reduce((sum, { counts }) => sum + (wordsAt(pod, counts[layer] ?? 0, moe.experts)[expert] as number), 0),
      );
      expect(loads.reduce((sum, load) => sum + load, 0)).toBe(tokens * moe.topK);
      // Five standard deviations of a draw of topK from all.
      const mean = (tokens * moe.topK) / moe.experts;
      const bound = 5 * Math.sqrt(mean * (1 - moe.topK / moe.experts));
      for (const load of loads) expect(Math.abs(load - mean)).toBeLessThan(bound);
    }
  });
});

describe.each([1, 3, 5])('on %i NPUs every expert', (npus) => {
  it('lies in one place, of one NPU', () => {
    const { programs, space } = makeHashPod(npus);
    const places = new Set<number>();
    for (let layer = 0; layer < SHAPE.layers; layer++)
      for (let expert = 0; expert < SHAPE.moe.experts; expert++) {
        const found = programs.flatMap(({ forward: { layout } }) =>
          Array.from({ length: layout.expertSlots.each }, (_, slot) => slot)
            .filter((slot) => expertIn(space.wordsOf(layout.base), layout.expertSlots, layer, slot) === expert)
            .map((slot) => placeOfSlot(layout.expertSlots, layer, slot)),
        );
        expect(found).toHaveLength(layer === 0 ? 0 : 1);
        for (const { address } of found) places.add(address);
      }
    expect(places.size).toBe((SHAPE.layers - 1) * SHAPE.moe.experts);
  });
});

describe('hashes', () => {
  it('change in half of their bits when one bit of what they hash changes', () => {
    const hash = new Hash();
    const out = new Int32Array(2);
    const of = (words: Int32Array): bigint => {
      hash.begin(1, words[0] as number, words[1] as number);
      hash.absorbPairs(words, 2, words.length / 2 - 1);
      hash.write(out, 0);
      return BigInt.asUintN(64, (BigInt(out[1] as number) << 32n) | BigInt((out[0] as number) >>> 0));
    };
    const draw = numbers(9);
    let flipped = 0;
    const seen = new Set<bigint>();
    const TRIES = 2_000;
    for (let tries = 0; tries < TRIES; tries++) {
      const words = Int32Array.from({ length: 12 }, () => Math.floor(draw() * 2 ** 32) | 0);
      const before = of(words);
      const word = Math.floor(draw() * words.length);
      words[word] = (words[word] as number) ^ (1 << Math.floor(draw() * 32));
      const after = of(words);
      seen.add(before).add(after);
      flipped += [...(before ^ after).toString(2)].filter((bit) => bit === '1').length;
    }
    expect(seen.size).toBe(2 * TRIES);
    expect(flipped / TRIES).toBeGreaterThan(31.5);
    expect(flipped / TRIES).toBeLessThan(32.5);
  });

  it('go on after they were written, as if they had not been', () => {
    const out = new Int32Array(4);
    const hash = new Hash();
    hash.begin(3, 1, 2);
    hash.write(out, 0);
    hash.writeWith(8, 9, out, 0);
    hash.absorb(5, 6);
    hash.write(out, 0);
    hash.begin(3, 1, 2);
    hash.absorbPairs(Int32Array.of(5, 6), 0, 1);
    hash.write(out, 2);
    expect([...out.subarray(0, 2)]).toEqual([...out.subarray(2)]);
  });
});

/** Once, at the first moment when it can. */
function once(does: () => boolean): () => void {
  let left = 1;
  return () => {
    if (left > 0 && does()) left--;
  };
}

describe('what changes the tokens', () => {
  const forwardOf = (pod: HashPod, npu: number) => (pod.programs[npu] as HashPod['programs'][number]).forward;
  const swap = (words: Int32Array, a: number, b: number, count: number): void => {
    const kept = words.slice(a, a + count);
    words.copyWithin(a, b, b + count);
    words.set(kept, b);
  };
  /** A sequence of each NPU's own, and what happens to NPU 0's. */
  const CALLS = callsOn(2, PROMPTS.slice(2, 4));
  const clean = generate(makeHashPod(2), CALLS).tokens;

  /** Where it happens in the midst of decoding: what was generated before stays. */
  const STEP = 4;
  const LATER = ' in step 4';

  const mutations: Record<string, (pod: HashPod) => Interference> = {
    'a KV cell that is overwritten in step 4': (pod) => ({
      onStart: (npu, step) => {
        const { kv, blockTables } = forwardOf(pod, 0).layout;
        if (npu !== 0 || step !== STEP) return;
        const [block] = wordsAt(pod, blockTables.address, 1);
        const cell = pod.space.wordsOf(kv.address);
        (cell[((block as number) + 2 * kv.layer_bytes) / 4 + 2 * 3] as number)++;
      },
    }),
    'a stale block of the last layer in step 4': (pod) => ({
      onStart: (npu, step) => {
        const { kv, blockTables } = forwardOf(pod, 0).layout;
        if (npu !== 0 || step !== STEP) return;
        const [block] = wordsAt(pod, blockTables.address, 1);
        const from = ((block as number) + (SHAPE.layers - 1) * kv.layer_bytes) / 4;
        pod.space.wordsOf(kv.address).fill(0, from, from + kv.layer_bytes / 4);
      },
    }),
    'two entries of a block table that are swapped in step 4': (pod) => ({
      onStart: (npu, step) => {
        if (npu === 0 && step === STEP) swap(wordsAt(pod, forwardOf(pod, 0).layout.blockTables.address, 4), 0, 2, 1);
      },
    }),
    'a row that changes on its way to the experts in step 4': (pod) => ({
      onAsked: (npu, step, asked) => {
        const words = wordsAt(pod, forwardOf(pod, 0).layout.scratch.normed, 2);
        if (npu === 0 && step === STEP && asked === 1) words[1] = (words[1] as number) ^ 1;
      },
    }),
    'a dispatch table that names another row': (pod) => ({
      onAsked: (npu, step, asked) => {
        const { scratch } = forwardOf(pod, 0).layout;
        const rows = wordsAt(pod, scratch.pairRows, 40 * 4);
        if (npu === 0 && step === 1 && asked === 0) for (let pair = 0; pair < rows.length; pair++) rows[pair] = Math.max(0, (rows[pair] as number) - 1);
      },
    }),
    'an expert that is not the one that was chosen': (pod) => ({
      onAsked: (npu, step, asked) => {
        const segments = wordsAt(pod, forwardOf(pod, 0).layout.scratch.segments, 2 * SHAPE.moe.experts);
        // By (NPU, slot): the last is NPU 1's, whose slots hold the odd ones.
        if (npu !== 0 || step !== 1 || asked !== 0) return;
        const last = segments.findLastIndex((key, word) => word % 2 === 0 && key % 2 === 1);
        const chosen = (segments[last] as number) & EXPERT_MASK;
        const expert = chosen === 1 ? 3 : chosen - 2;
        segments[last] = ((expert >> 1) << SLOT_SHIFT) | expert;
      },
    }),
    'answers that are dropped in step 4': (pod) => ({
      onServed: once(() => {
        const { reply, reply_bytes } = forwardOf(pod, 1).layout.areas;
        return pod.programs[0]?.step === STEP && wordsAt(pod, reply, reply_bytes / 4).fill(0).length > 0;
      }),
    }),
    'two answers that are swapped': (pod) => ({
      onServed: once(() => {
        const words = wordsAt(pod, forwardOf(pod, 1).layout.areas.reply, 4);
        if (pod.programs[0]?.step !== 1 || pod.programs[0].missing.length === 0) return false;
        swap(words, 0, 2, 2);
        return true;
      }),
    }),
    "weights of another version on the experts' NPU": (pod) => {
      loadHashWeights(pod.plan, forwardOf(pod, 1).layout, pod.space, VERSION + 1);
      return {};
    },
    'weights that were never loaded': (pod) => {
      const { weights, expertSlots } = forwardOf(pod, 1).layout;
      wordsAt(pod, weights, 2 * (1 + SHAPE.layers * expertSlots.each)).fill(0);
      return {};
    },
  };

  it.each(Object.keys(mutations))('%s', (name) => {
    const pod = makeHashPod(2);
    const interference = (mutations[name] as (pod: HashPod) => Interference)(pod);
    const { tokens, errors } = generate(pod, CALLS, interference);
    expect(errors).toEqual([null, null]);
    const [actual, expected] = [tokens[0], clean[0]] as [readonly number[], readonly number[]];
    // A token by token difference: one that is equal by chance comes once in 50,000.
    const from = name.endsWith(LATER) ? STEP - 1 : 0;
    expect(actual.slice(0, from)).toEqual(expected.slice(0, from));
    for (let index = from; index < TOKENS; index++) expect(actual[index], `token ${index}`).not.toBe(expected[index]);
  });

  it('nothing else: a change that is undone before anyone looks is none', () => {
    const pod = makeHashPod(2);
    const onStart = (): void => {
      const table = wordsAt(pod, forwardOf(pod, 0).layout.blockTables.address, 4);
      swap(table, 0, 2, 1);
      swap(table, 0, 2, 1);
    };
    expect(generate(pod, CALLS, { onStart }).tokens).toEqual(clean);
  });

  it.each(['prompt', 'prompt order', 'first token'])('another %s', (what) => {
    const [call] = CALLS as [Call];
    const prompt = [...call.prompt];
    if (what === 'prompt') prompt[prompt.length - 1] = ((prompt.at(-1) as number) + 1) % SHAPE.vocabSize;
    else if (what === 'first token') prompt[0] = ((prompt[0] as number) + 1) % SHAPE.vocabSize;
    else prompt.reverse();
    expect(generate(makeHashPod(2), [{ ...call, prompt }]).tokens[0]).not.toEqual(clean[0]);
  });
});
