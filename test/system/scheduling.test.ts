/** When things are computed, and for how long anybody waits: no token depends on it, and whoever cannot be served hears why and when to come again. */
import { describe, expect, it } from 'vitest';
import type { Completion, GenerateOptions, MinipodError, Pod, PodOptions } from '../../src/index.ts';
import { cases } from '../property-runs.ts';
import { expectNothingLeft, withPod } from './pods.ts';
import { openRig } from './rig.ts';
import sameBits from './same-bits.json' with { type: 'json' };
import { digest, run } from './workload.ts';

const HASH = { clock: 'virtual', kernels: 'hash' } as const;
const PROMPT = [1, 86, 1461, 613, 265];
const ENDLESS = { max_tokens: 1_000, temperature: 0, ignore_eos: true } satisfies GenerateOptions;

const failure = (call: Promise<Completion>): Promise<MinipodError> =>
  call.then(
    () => {
      throw new Error('it was to fail');
    },
    (error) => error,
  );

describe('steps that are planned while others run', () => {
  it.each(cases<PodOptions>([{ async_scheduling: true, max_batch_tokens: 7, kv_blocks: 128 }, { async_scheduling: false }]))(
    'give the bits of those that are not: %o',
    async (options) => {
      expect(digest(await withPod({ clock: 'virtual', npus: 2, ...options }, (pod) => run(pod, 'all at once')))).toEqual(sameBits['tiny-deepseek-v3']);
    },
  );

  it('show nobody what comes after an end that nobody foresaw, whichever ends it', async () => {
    const ends = (await withPod({ ...HASH, async_scheduling: false }, tokensOf)).map(({ token_ids }) => token_ids.slice(0, 9).at(-1) as number);
    const stopped = { ...ENDLESS, max_tokens: 40, min_tokens: 2 };
    const generate = (pod: Pod): Promise<unknown[]> =>
      Promise.all(
        ends.map(async (end, index) => {
          const { choices, usage } = await pod.complete([...PROMPT, index], { ...stopped, stop_token_ids: [end], seed: index });
          return [choices.map(({ token_ids, finish_reason, stop_reason }) => ({ token_ids, finish_reason, stop_reason })), usage.completion_tokens];
        }),
      );
    const [ahead, after] = await Promise.all([true, false].map((async_scheduling) => withPod({ ...HASH, async_scheduling }, generate)));
    expect(ahead).toEqual(after);
  });

  const tokensOf = async (pod: Pod): Promise<{ token_ids: readonly number[] }[]> => {
    const all = await Promise.all([0, 1, 2, 3, 4, 5].map((index) => pod.complete([...PROMPT, index], { ...ENDLESS, max_tokens: 12, seed: index })));
    return all.map(({ choices }) => ({ token_ids: choices[0]?.token_ids ?? [] }));
  };

  it('let an NPU that has work never stand still', async () => {
    for (const async_scheduling of [true, false])
      await withPod({ ...HASH, async_scheduling }, async (pod) => {
        await Promise.all([0, 1, 2].map((index) => pod.complete([...PROMPT, index], { ...ENDLESS, max_tokens: 60 })));
        const [npu] = (await pod.stats()).npus;
        const gaps = (npu?.step_gaps_us ?? []).reduce((sum, count) => sum + count, 0);
        expect(gaps).toBeGreaterThan(50);
        // Of the first step nothing is planned ahead, and of the last, whose sequences end with it, nothing can be.
        if (async_scheduling) expect(npu?.step_gaps_us[0]).toBeGreaterThanOrEqual(gaps - 2);
        else expect(npu?.step_gaps_us_sum).toBeGreaterThan(gaps * 0.3);
      });
  });
});

describe('a deadline', () => {
  it('ends a request wherever it is, says where that was, and leaves nothing behind', async () => {
    const wheres = new Set<string>();
    for (let deadline_ms = 0.001; deadline_ms < 3; deadline_ms *= 1.9)
      await withPod({ ...HASH, npus: 2, max_batch_requests: 1, max_batch_tokens: 16 }, async (pod) => {
        const others = [1, 2, 3].map((seed) => pod.complete(PROMPT, { ...ENDLESS, max_tokens: 30, seed }));
        const late = [4, 5].map((seed) =>
          failure(pod.complete([...PROMPT, ...PROMPT.keys(), ...Array(900).fill(seed)], { ...ENDLESS, seed, n: 2, deadline_ms })),
        );
        for (const error of await Promise.all(late)) {
          expect(error).toMatchObject({ code: 'deadline_exceeded', param: 'deadline_ms' });
          wheres.add(/that was over while (.*)$/.exec(error.message)?.[1] ?? error.message);
        }
        expect((await Promise.all(others)).map(({ choices }) => choices[0]?.token_ids.length)).toEqual([30, 30, 30]);
      });
    expect([...wheres].sort()).toEqual(['it generated', 'it waited for an NPU', 'it waited for its turn', 'its prompt was computed']);
  });

  it('that is met changes nothing', async () => {
    await withPod(HASH, async (pod) => {
      const [plain, timed] = [
        await pod.complete(PROMPT, { ...ENDLESS, max_tokens: 20 }),
        await pod.complete(PROMPT, { ...ENDLESS, max_tokens: 20, deadline_ms: 60_000 }),
      ];
      expect(timed.choices).toEqual(plain.choices);
    });
  });
});

describe('a pod that is full', () => {
  it('says when to come again', async () => {
    await withPod({ ...HASH, max_queued: 4, max_batch_requests: 2 }, async (pod) => {
      const ask = (max_tokens: number): Promise<Completion> => pod.complete(PROMPT, { ...ENDLESS, max_tokens });
      const first: Promise<Completion>[] = [];
      let error: MinipodError | null = null;
      for await (const _ of pod.generate(PROMPT, { ...ENDLESS, max_tokens: 60 })) {
        if (first.length < 3) first.push(ask(400));
        else error ??= await failure(pod.complete(PROMPT, { ...ENDLESS, n: 2 }));
      }
      // Nothing has left yet.
      expect(error).toMatchObject({ code: 'overloaded', retry_after_ms: 1_000 });
      await Promise.all(first);
    });
  });

  it('says that what it can never take in is no matter of time', async () => {
    await withPod({ ...HASH, max_queued: 2 }, async (pod) => {
      expect(await failure(pod.complete(PROMPT, { ...ENDLESS, n: 3 }))).toMatchObject({ code: 'invalid_request', param: 'n' });
    });
  });
});

describe('priorities', () => {
  it('change who waits, and no token', async () => {
    const order = async (priorities: readonly number[], scheduling_policy: 'priority' | 'fcfs'): Promise<{ ends: number[]; tokens: unknown[] }> =>
      withPod({ ...HASH, max_batch_requests: 1, scheduling_policy }, async (pod) => {
        const ends: number[] = [];
        const waiting: Promise<unknown>[] = [];
        // While one runs the others come, one after the other.
        let chunks = 0;
        for await (const _ of pod.generate(PROMPT, { ...ENDLESS, max_tokens: 60 })) {
          const index = chunks++ / 5;
          const priority = priorities[index];
          if (priority === undefined) continue;
          const ended = async (): Promise<unknown> => {
            const { choices } = await pod.complete([...PROMPT, index], { ...ENDLESS, max_tokens: 8, priority });
            ends.push(index);
            return choices[0]?.token_ids;
          };
          waiting.push(ended());
        }
        return { tokens: await Promise.all(waiting), ends };
      });
    const [alike, mixed, baseline] = [await order([0, 0, 0, 0], 'priority'), await order([1, 2, 1, -1], 'priority'), await order([1, 2, 1, -1], 'fcfs')];
    expect([alike.ends, mixed.ends, baseline.ends]).toEqual([
      [0, 1, 2, 3],
      [3, 0, 2, 1],
      [0, 1, 2, 3],
    ]);
    expect(mixed.tokens).toEqual(alike.tokens);
    expect(baseline.tokens).toEqual(alike.tokens);
  });
});

describe('DP groups that are chosen by a leader', () => {
  const MODEL = { ...HASH, npus: 4, load_balancing: 'cost_model', max_batch_tokens: 64 } as const;
  /** Long prompts and short ones, some of which begin alike, each when its time has come. */
  const workload = Array.from({ length: 40 }, (_, index) => ({
    prompt:
      index % 5 === 0 ? Array.from({ length: 700 }, (_, at) => 3 + ((index + at) % 900)) : [...PROMPT, ...Array.from({ length: 40 }, (_, at) => 9 + at), index],
    max_tokens: 3 + (index % 4),
  }));
  const serve = (options: PodOptions): Promise<{ tokens: unknown[]; ttft_ms: number[] }> =>
    withPod(options, async (pod) => {
      const calls: Promise<{ tokens: unknown; ttft_ms: number }>[] = [];
      // A clock for arrivals: one sequence decodes all the time.
      let chunks = 0;
      for await (const _ of pod.generate([7], { ...ENDLESS, max_tokens: 200 })) {
        const work = workload[chunks++ >> 1];
        if (work === undefined || chunks % 2 === 0) continue;
        const generation = pod.generate(work.prompt, { ...ENDLESS, max_tokens: work.max_tokens });
        const ended = async (): Promise<{ tokens: unknown; ttft_ms: number }> => {
          const tokens: number[] = [];
          for await (const { token_ids } of generation) tokens.push(...token_ids);
          const { received, first_token } = generation.times();
          return { tokens, ttft_ms: (first_token ?? 0) - received };
        };
        calls.push(ended());
      }
      const all = await Promise.all(calls);
      expect(all.length).toBe(workload.length);
      return { tokens: all.map(({ tokens }) => tokens), ttft_ms: all.map(({ ttft_ms }) => ttft_ms) };
    });

  it('give the same tokens, and short prompts wait less behind long ones than where each group has its turn', async () => {
    const [led, inTurn] = [await serve(MODEL), await serve({ ...MODEL, load_balancing: 'round_robin' })];
    expect(led.tokens).toEqual(inTurn.tokens);
    const short = ({ ttft_ms }: { ttft_ms: number[] }): number => ttft_ms.filter((_, index) => index % 5 !== 0).toSorted((a, b) => b - a)[3] ?? 0;
    expect(short(led)).toBeLessThan(short(inTurn));
    // Very long ones on their own.
    expect((await serve({ ...MODEL, long_prompt_groups: 1, long_prompt_tokens: 500 })).tokens).toEqual(led.tokens);
  });

  it('say that they have room when those who took it are over before their turn, while no step runs: who waited is served', async () => {
    // With this seed both groups are taken when the two come.
    const options: PodOptions = { ...HASH, seed: 1, topology: 'pd:prefill=1xdp2,decode=1', max_batch_tokens: 7, max_batch_requests: 1 };
    await withPod(options, async (pod) => {
      const short = (seed: number, max_tokens: number): Promise<Completion> => pod.complete([...PROMPT, seed], { ...ENDLESS, max_tokens, seed });
      const [served, over]: [Promise<Completion>[], Promise<MinipodError>[]] = [[], []];
      let chunks = 0;
      for await (const _ of pod.generate([7], { ...ENDLESS, max_tokens: 200 })) {
        chunks++;
        // Decode has its hands full, and prefill has lent all that it may: no step runs there for long.
        if (chunks === 2) for (let seed = 0; seed < 6; seed++) served.push(short(seed, 60));
        // One for each group, which takes nobody else until its turn has come; and it is over before.
        if (chunks === 40) for (const token of [8, 9]) over.push(failure(pod.complete(Array(40).fill(token), { ...ENDLESS, deadline_ms: 0.3 })));
        if (chunks === 60) for (const seed of [6, 7]) served.push(short(seed, 4));
      }
      expect((await Promise.all(served)).map(({ choices }) => choices[0]?.token_ids.length)).toEqual([60, 60, 60, 60, 60, 60, 4, 4]);
      for (const { message } of await Promise.all(over)) expect(message).toContain('waited for its turn');
    });
  });

  it('go on when the leader’s worker dies: the next one leads, and nobody waits for ever', async () => {
    await using rig = await openRig({ npus: 2, workers: 2, load_balancing: 'cost_model' });
    const calls = [1, 2, 3, 4].map((seed) => rig.pod.complete(PROMPT, { ...ENDLESS, max_tokens: 200, seed }).catch((error) => error));
    rig.killWorker(0);
    for (const outcome of await Promise.all(calls)) if (outcome instanceof Error) expect(outcome).toMatchObject({ code: 'worker_failed' });
    const after = await Promise.all([5, 6].map((seed) => rig.pod.complete(PROMPT, { ...ENDLESS, max_tokens: 8, seed })));
    expect(after.map(({ choices }) => choices[0]?.token_ids.length)).toEqual([8, 8]);
    await expectNothingLeft(rig.pod);
  });
});
