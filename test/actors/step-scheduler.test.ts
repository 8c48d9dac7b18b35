/** The step scheduler under random load, with an NPU that sees a wrong block, position, slot or order. */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Planned } from '../../actors/policies/step-entry.ts';
import { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { type Address, address } from '../../src/protocol/address.ts';
import type { Commands, Sequence } from '../../src/protocol/messages.ts';
import type { StepPlan } from '../../src/protocol/steps.ts';
import { GREEDY, greedySequence } from '../golden/greedy.ts';
import { runs } from '../property-runs.ts';
import { expectedOutput, FakeNpu } from './fake-npu.ts';

const BLOCK = 4;
const LIMITS = {
  kv_block_size: BLOCK,
  has_prefix_cache: true,
  is_asynchronous: false,
  has_priorities: true,
  dram_blocks: 0,
  cache_costs: null,
  lends_by_layer: false,
  offers_max: 8,
  shares_prefixes: false,
} as const;
const planOf = (scheduler: StepScheduler): StepPlan => (scheduler.plan() as Planned).plan;

type Arrival = {
  readonly at: number;
  readonly family: number;
  readonly salt: string;
  readonly prompt: number;
  readonly max_tokens: number;
  readonly abandoned_after: number | null;
  readonly stops_at: number | null;
  readonly goesOn: boolean;
};
const arrival = (blocks: number): fc.Arbitrary<Arrival> =>
  fc
    .record({
      at: fc.integer({ min: 0, max: 40 }),
      /** Prompts of a family begin alike. */
      family: fc.integer({ min: 0, max: 2 }),
      salt: fc.constantFrom('', '', 'other'),
      prompt: fc.integer({ min: 1, max: blocks * BLOCK - 1 }),
      max_tokens: fc.integer({ min: 1, max: 20 }),
      abandoned_after: fc.option(fc.integer({ min: 0, max: 60 }), { freq: 4 }),
      /** Of what it generates, the token that ends it, if its end comes before. */
      stops_at: fc.option(fc.integer({ min: 1, max: 20 })),
      /** Its prompt begins with the one before it and all that this had generated, as in a conversation. */
      goesOn: fc.boolean(),
    })
    .map((one) => ({ ...one, max_tokens: Math.min(one.max_tokens, blocks * BLOCK - one.prompt) }));

const scenario = fc.integer({ min: 2, max: 12 }).chain((kv_blocks) =>
  fc.record({
    kv_blocks: fc.constant(kv_blocks),
    is_asynchronous: fc.boolean(),
    drafts_max: fc.integer({ min: 0, max: 5 }),
    drafts_as_pays: fc.boolean(),
    lends_by_layer: fc.constant(false),
    offers_max: fc.constant(8),
    batch_tokens_max: fc.integer({ min: 1, max: 30 }),
    batch_requests_max: fc.integer({ min: 1, max: 6 }),
    arrivals: fc.array(arrival(kv_blocks), { minLength: 1, maxLength: 12 }),
  }),
);

describe('the step scheduler', () => {
  it('gives every sequence exactly its tokens in order, whoever arrives, is abandoned or preempted, and all of it comes to an end', () => {
    let ahead = 0;
    let right = 0;
    let wrong = 0;
    fc.assert(
      fc.property(scenario, ({ arrivals, ...limits }) => {
        const scheduler = new StepScheduler({ ...LIMITS, ...limits }, 'dp-group/0');
        const npu = new FakeNpu(BLOCK, limits.batch_tokens_max);
        const sequences: Sequence[] = [];
        for (const [request, { family, salt, prompt, max_tokens, stops_at, goesOn }] of arrivals.entries()) {
          const before = goesOn ? sequences.at(-1) : undefined;
          const said = before === undefined ? [] : [...before.prompt, ...expectedOutput(before), 7];
          const isLong = said.length + max_tokens > limits.kv_blocks * BLOCK;
          const begun = said.length === 0 || isLong ? Array.from({ length: prompt }, (_, index) => 1_000 * family + index) : said;
          const sequence = { ...greedySequence(request, begun, max_tokens), cache_salt: salt };
          const stop = stops_at === null ? undefined : expectedOutput(sequence)[stops_at - 1];
          sequences.push(stop === undefined ? sequence : { ...sequence, sampling: { ...GREEDY, min_tokens: 1, stop_token_ids: [stop] } });
        }
        const taskOf = (request: number): Address => address('task', request);
        const output = sequences.map(() => [] as number[]);
        const told = new Map<Address, string[]>(sequences.map(({ request }) => [taskOf(request), []]));
        const hear = (messages: readonly Commands['send'][]): void => {
          for (const { to, message } of messages) {
            if (message.type === 'TOKENS') for (const { request, token } of message.tokens) output[request]?.push(token);
            else told.get(to)?.push(message.type);
          }
        };
        const work = sequences.reduce((sum, { prompt, max_tokens }) => sum + prompt.length + max_tokens, 0);
        // Recomputing what was preempted costs at most each sequence's whole length once a token of an older one.
        const steps_max = 100 + 60 * work;
        const plans: StepPlan[] = [];
        let clock = 0;
        for (; clock < steps_max; clock++) {
          for (const [request, { at, abandoned_after }] of arrivals.entries()) {
            if (at === clock) hear(scheduler.enqueue(taskOf(request), sequences[request] as Sequence));
            if (abandoned_after !== null && at + abandoned_after === clock && !told.get(taskOf(request))?.includes('GENERATED'))
              hear(scheduler.abandon(taskOf(request)));
          }
          for (let steps = 0; steps < 2; steps++) {
            const planned = scheduler.plan();
            if (planned === null) break;
            hear(planned.messages);
            plans.push(planned.plan);
            expect(planned.plan.after).toBe(plans.length === 2 ? plans[0]?.step : 0);
          }
          // Abandoned while a step runs: its blocks are still written.
          for (const [request, { at, abandoned_after }] of arrivals.entries())
            if (
              abandoned_after !== null &&
              abandoned_after % 2 === 1 &&
              at + abandoned_after + 1 === clock &&
              !told.get(taskOf(request))?.some((type) => type === 'GENERATED' || type === 'ABANDONED')
            )
              hear(scheduler.abandon(taskOf(request)));
          const plan = plans.shift();
          if (plan === undefined) {
            if (clock > 100) break;
            continue;
          }
          if (plans.length > 0) ahead++;
          hear(scheduler.retire(npu.run(plan)));
          expect(scheduler.running).toBeLessThanOrEqual(limits.batch_requests_max);
        }
        right += npu.right;
        wrong += npu.drafted - npu.right;
        expect(clock).toBeLessThan(steps_max);
        expect(scheduler.cache.used).toBe(0);
        for (const [request, sequence] of sequences.entries()) {
          const types = told.get(taskOf(request)) ?? [];
          const whole = expectedOutput(sequence);
          const [stop] = sequence.sampling.stop_token_ids;
          const end = stop === undefined ? -1 : whole.indexOf(stop, 1);
          const expected = end < 0 ? whole : whole.slice(0, end + 1);
          if (types.includes('ABANDONED')) expect(expected.slice(0, output[request]?.length)).toEqual(output[request]);
          else {
            expect(output[request]).toEqual(expected);
            expect(types.filter((type) => type === 'GENERATED').length).toBe(1);
            expect(types.at(-1)).toBe('GENERATED');
          }
          expect(types.filter((type) => type === 'SCHEDULED').length).toBeLessThanOrEqual(types.filter((type) => type === 'PREEMPTED').length + 1);
        }
      }),
      { numRuns: runs(400) },
    );
    expect(ahead).toBeGreaterThan(400);
    expect(right).toBeGreaterThan(runs(400));
    expect(wrong).toBeGreaterThan(runs(400));
  });

  it('refuses at once what could never run, and says what it needs', () => {
    const scheduler = new StepScheduler({ ...LIMITS, kv_blocks: 2, batch_tokens_max: 8, batch_requests_max: 2 }, 'dp-group/0');
    const refusalOf = (tokens: number, max_tokens: number): unknown =>
      scheduler.enqueue('task/1', greedySequence(1, new Array<number>(tokens).fill(5), max_tokens))[0];
    const refused = (param: string, message: string): unknown => ({
      to: 'task/1',
      message: expect.objectContaining({ type: 'GENERATION_FAILED', error: { code: 'out_of_memory', message, param } }),
    });
    const tokens = 'prompt and max_tokens need 3 KV blocks of 4 positions, the NPU has 2: use max_tokens of at most 3 with these 5 tokens, or more kv_blocks';
    expect(refusalOf(5, 4)).toEqual(refused('max_tokens', tokens));
    const prompt = 'prompt: its 8 tokens and one to generate need 3 KV blocks of 4 positions, the NPU has 2: use at most 7 tokens, or more kv_blocks';
    expect(refusalOf(8, 1)).toEqual(refused('prompt', prompt));
    expect(refusalOf(8, 4)).toEqual(refused('prompt', prompt));
    expect(scheduler.hasWork).toBe(false);
    // What it says would fit does.
    expect([refusalOf(5, 3), refusalOf(7, 1)]).toEqual([undefined, undefined]);
  });

  it('computes what choices of one prompt, or requests that begin alike, have in common once', () => {
    const scheduler = new StepScheduler({ ...LIMITS, kv_blocks: 60, batch_tokens_max: 8, batch_requests_max: 8 }, 'dp-group/0');
    const npu = new FakeNpu(BLOCK, 8);
    const common = Array.from({ length: 5 * BLOCK }, (_, index) => index);
    for (let request = 0; request < 6; request++) scheduler.enqueue(address('task', request), greedySequence(request, [...common, request], 2));
    let generated = 0;
    while (scheduler.hasWork) for (const { message } of scheduler.retire(npu.run(planOf(scheduler)))) generated += message.type === 'GENERATED' ? 1 : 0;
    expect(generated).toBe(6);
    // Each its own last token of the prompt, and one more that it is given.
    expect(npu.tokens).toBe(common.length + 6 * 2);
  });

  it('never makes the oldest give way', () => {
    const scheduler = new StepScheduler({ ...LIMITS, kv_blocks: 6, batch_tokens_max: 32, batch_requests_max: 8 }, 'dp-group/0');
    const npu = new FakeNpu(BLOCK, 32);
    const preempted: Address[] = [];
    for (let request = 0; request < 5; request++) scheduler.enqueue(address('task', request), greedySequence(request, [request, 1, 2], 18));
    const ended: Address[] = [];
    while (scheduler.hasWork) {
      const { plan, messages } = scheduler.plan() as Planned;
      for (const { to, message } of [...messages, ...scheduler.retire(npu.run(plan))]) {
        if (message.type === 'PREEMPTED') preempted.push(to);
        if (message.type === 'GENERATED') ended.push(to);
      }
      // As snapshots show it, who waits has nothing here: also who had run.
      const { waiting } = scheduler.toJSON() as { readonly waiting: readonly { readonly computed: number; readonly launched: number }[] };
      for (const { computed, launched } of waiting) expect([computed, launched]).toEqual([0, 0]);
    }
    expect(preempted.length).toBeGreaterThan(0);
    expect(preempted).not.toContain('task/0');
    expect(ended).toEqual(['task/0', 'task/1', 'task/2', 'task/3', 'task/4']);
  });

  it('fails what a broken step held, keeps what waited, and goes on', () => {
    const scheduler = new StepScheduler({ ...LIMITS, kv_blocks: 8, batch_tokens_max: 32, batch_requests_max: 1 }, 'dp-group/0');
    const npu = new FakeNpu(BLOCK, 32);
    for (const request of [0, 1]) scheduler.enqueue(address('task', request), greedySequence(request, [1, 2], 2));
    scheduler.plan();
    expect(scheduler.failAll({ code: 'worker_failed', message: 'x', param: null })).toMatchObject([{ to: 'task/0', message: { type: 'GENERATION_FAILED' } }]);
    npu.reset();
    const types: string[] = [];
    while (scheduler.hasWork) for (const { message } of scheduler.retire(npu.run(planOf(scheduler)))) types.push(message.type);
    expect(types).toContain('GENERATED');
    expect(scheduler.cache.used).toBe(0);
  });

  it('begins nothing with KV of a memory that failed, also where that was lent at the time', () => {
    const scheduler = new StepScheduler({ ...LIMITS, kv_blocks: 12, batch_tokens_max: 64, batch_requests_max: 3 }, 'dp-group/0');
    const prefill = (request: number): readonly Commands['send'][] =>
      scheduler.enqueue(
        address('task', request),
        greedySequence(
          request,
          Array.from({ length: 17 }, (_, index) => index),
          5,
        ),
        'prefill',
      );
    prefill(1);
    const npu = new FakeNpu(BLOCK, 64);
    scheduler.retire(npu.run(planOf(scheduler)));
    const [offer] = scheduler.handoffs.takeTransfers();
    expect(offer?.kind).toBe('offer');
    prefill(2);
    scheduler.plan();
    scheduler.failAll({ code: 'worker_failed', message: 'x', param: null });
    npu.reset();
    for (const before of [true, false]) {
      prefill(before ? 3 : 4);
      const plan = planOf(scheduler);
      expect(plan.entries[0]?.start).toBe(before ? 0 : 16);
      scheduler.retire(npu.run(plan));
      if (before) scheduler.transferEnded(offer?.id ?? 0, []);
    }
    for (const { id, kind } of scheduler.handoffs.takeTransfers()) if (kind === 'offer') scheduler.transferEnded(id, null);
    expect(scheduler.cache.used).toBe(0);
  });
});
