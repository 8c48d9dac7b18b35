/** Prefill and decode on task executors of their own, M to N: the very tokens of one NPU, and nothing left of what was lent and pulled. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createPod, type GenerateOptions, type Pod, type PodOptions } from '../../src/index.ts';
import { cases, runs } from '../property-runs.ts';
import { expectNothingLeft } from './pods.ts';

type Call = {
  readonly prompt: readonly number[];
  readonly options: GenerateOptions /** Chunks after which the caller goes away; −1: it stays. */;
  readonly leaves: number;
};

const words = (seed: number, length: number): number[] => Array.from({ length }, (_, index) => 3 + ((seed * 7_919 + index * 104_729) % 1_900));

const CALLS: readonly Call[] = Array.from({ length: 10 }, (_, index) => ({
  prompt: words(index % 4, 3 + 23 * (index % 5)),
  options: {
    max_tokens: 1 + 5 * (index % 4),
    temperature: index % 2,
    seed: index,
    ignore_eos: true,
    n: 1 + (index % 2),

    frequency_penalty: index % 3 === 0 ? 0.5 : 0,
  },
  leaves: -1,
}));

const chosenOf = (completion: Awaited<ReturnType<Pod['complete']>>): unknown =>
  completion.choices.map(({ token_ids, logprobs, finish_reason }) => [token_ids, logprobs, finish_reason]);

async function outputsOn(options: PodOptions, calls = CALLS): Promise<unknown[]> {
  await using pod = await createPod(options);
  const outputs = await Promise.all(
    calls.map(async ({ prompt, options: how, leaves }) => {
      if (leaves < 0) return chosenOf(await pod.complete(prompt, how));
      let chunks = 0;
      for await (const _ of pod.generate(prompt, how)) if (chunks++ === leaves) break;
      return null;
    }),
  );
  await expectNothingLeft(pod);
  return outputs;
}

/** Virtual pods of the hash model: a stale block, or one of another sequence, changes the tokens. */
const hashed = (options: PodOptions): PodOptions => ({ ...options, clock: 'virtual', kernels: 'hash' });

describe('prefill-decode', () => {
  it.each(
    cases<PodOptions>([
      { topology: 'pd:prefill=2,decode=3', workers: 2, max_batch_tokens: 7, kv_transfer: 'layer' },
      { topology: 'pd', workers: 2 },
    ]),
  )('should generate what one NPU does, ids and logprobs, on worker threads: %o', async (options) => {
    const scored = CALLS.map((call) => ({ ...call, options: { ...call.options, logprobs: 2 } }));
    expect(await outputsOn(options, scored)).toEqual(await outputsOn({ clock: 'virtual', npus: 1 }, scored));
  });

  it.each(cases([1, 7, 64, 256]))('should generate the same whatever the chunks: %i tokens a step', async (max_batch_tokens) => {
    const expected = await outputsOn(hashed({ npus: 1 }));
    for (const topology of ['pd', 'pd:prefill=2,decode=1', 'pd:prefill=1,decode=2', 'pd:prefill=2xdp1,decode=1xdp3', 'mixed:colocated=1,prefill=1,decode=1'])
      expect(await outputsOn(hashed({ topology, max_batch_tokens }))).toEqual(expected);
    for (const topology of ['pd:prefill=2xdp1tp2,decode=3', 'pd:prefill=1,decode=2xdp1tp2'])
      expect(await outputsOn(hashed({ topology, max_batch_tokens, kv_transfer: 'layer' }))).toEqual(expected);
  });

  it('should keep every promise in any mixture of sizes, seeds, chunks and callers that go away', async () => {
    const one = await createPod(hashed({ npus: 1 }));
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          prefill: fc.integer({ min: 1, max: 3 }),
          decode: fc.integer({ min: 1, max: 3 }),
          dp: fc.integer({ min: 1, max: 2 }),
          tp: fc.constantFrom([1, 1], [2, 1], [1, 2]),
          seed: fc.integer({ min: 0, max: 1e6 }),
          // So few that sequences give way all the time.
          kv_blocks: fc.integer({ min: 12, max: 40 }),
          max_batch_tokens: fc.constantFrom(1, 7, 64),
          max_batch_requests: fc.integer({ min: 1, max: 4 }),
          prefix_caching: fc.boolean(),
          async_scheduling: fc.boolean(),
          kv_transfer: fc.constantFrom('request', 'layer'),
        }),
        fc.array(
          fc.record({
            prompt: fc.nat(5),
            length: fc.integer({ min: 1, max: 90 }),
            max_tokens: fc.integer({ min: 1, max: 40 }),
            leaves: fc.integer({ min: -4, max: 6 }),
          }),
          {
            minLength: 1,
            maxLength: 12,
          },
        ),
        async ({ prefill, decode, dp, tp: [prefill_tp, decode_tp], ...options }, wishes) => {
          const calls = wishes.map(
            ({ prompt, length, max_tokens, leaves }, index): Call => ({
              prompt: words(prompt, length),
              options: { max_tokens, seed: index, ignore_eos: true, temperature: index % 2 },
              leaves: Math.max(-1, leaves),
            }),
          );
          const topology = `pd:prefill=${prefill}xdp${dp}tp${prefill_tp},decode=${decode}xdp${dp}tp${decode_tp}`;
          const got = await outputsOn(hashed({ topology, ...options }), calls);
          for (const [index, { prompt, options: how, leaves }] of calls.entries())
            if (leaves < 0) expect(got[index]).toEqual(chosenOf(await one.complete(prompt, how)));
        },
      ),
      { numRuns: runs(40) },
    );
    await one.close();
  });

  it('should let a sequence that had to give way go on before all that come later, however many come', async () => {
    await using pod = await createPod(hashed({ topology: 'pd:prefill=3,decode=1', seed: 1, kv_blocks: 16, max_batch_requests: 3, prefix_caching: false }));
    const long = [0, 1];
    let [begun, ended, later] = [0, 0, 0];
    let overtaken_max = 0;
    const lives = long.map(async (index) => {
      let before = later;
      let tokens = 0;
      for await (const _ of pod.generate(words(index, 40), { max_tokens: 160, ignore_eos: true })) {
        if (tokens++ === 0) begun++;
        else overtaken_max = Math.max(overtaken_max, later - before);
        before = later;
      }
      ended++;
    });
    const stream = async (caller: number): Promise<void> => {
      while (begun < long.length) await new Promise((resolve) => setImmediate(resolve));
      while (ended < long.length) {
        await pod.complete(words(100 + later + 1_000 * caller, 20), { max_tokens: 30, ignore_eos: true });
        later++;
      }
    };
    await Promise.all([...lives, ...Array.from({ length: 14 }, (_, caller) => stream(caller))]);
    expect((await pod.stats()).npus.reduce((sum, { preemptions }) => sum + preemptions, 0)).toBeGreaterThan(0);
    // Those that ran with it may end meanwhile.
    expect(overtaken_max).toBeLessThan(8);
  });
});
