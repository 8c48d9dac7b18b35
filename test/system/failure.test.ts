/** What breaks fails the requests it held, with a clear error, and stops nothing else; what a thread held that dies goes on elsewhere. */

import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { CallerPeers } from '../../src/calls/caller-peers.ts';
import { offsetOf } from '../../src/fabric/address.ts';
import type { NpuLayout } from '../../src/flowserve/layouts/npu-layout.ts';
import { attentionLayouts } from '../../src/flowserve/layouts/step-layout.ts';
import type { Completion, GenerateOptions, Pod, PodOptions } from '../../src/index.ts';
import type { PeerNews } from '../../src/protocol/threads.ts';
import { cases } from '../property-runs.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig, type Rig } from './rig.ts';

const OPTIONS: GenerateOptions = { temperature: 0, ignore_eos: true, max_tokens: 60, logprobs: 1 };
const PROMPTS = ['Once upon a time', 'The wolf', 'In the forest', 'The king'] as const;
/** The control thread's own: a cluster manager, a job executor and a task executor. */
const ACTORS_AT_REST = 3;

type Outcome = { readonly completion: Completion | null; readonly code: string | null; readonly message: string };
const settle = (call: Promise<Completion>): Promise<Outcome> =>
  call.then(
    (completion) => ({ completion, code: null, message: '' }),
    (error) => ({ completion: null, code: error.code, message: error.message }),
  );

let known: Promise<string[][]> | null = null;
/** What an unbroken pod answers to each of the prompts. */
const answers = (): Promise<string[][]> => {
  known ??= withPod({ clock: 'virtual' }, (pod) => Promise.all(PROMPTS.map(async (prompt) => fingerprint(await pod.complete(prompt, OPTIONS)))));
  return known;
};

/** Starts one request for each of the prompts, in turn on each worker, and returns when all of them stream. */
async function startAll(pod: Pod): Promise<Promise<Outcome>[]> {
  // On a crowded machine they may be over before this thread runs again.
  const start = (await pod.stats()).generation_tokens;
  const calls = PROMPTS.map((prompt) => settle(pod.complete(prompt, OPTIONS)));
  while ((await pod.stats()).generation_tokens < start + 12) await sleep(1);
  return calls;
}

/** Nobody noticed anything, and nothing is left. */
async function expectUndisturbed(rig: Rig, outcomes: readonly Outcome[]): Promise<void> {
  expect(outcomes.flatMap(({ message }) => message)).toEqual(outcomes.map(() => ''));
  expect(outcomes.map(({ completion }) => completion && fingerprint(completion))).toEqual(await answers());
  await expectNothingLeft(rig.pod);
  expect(await rig.actors()).toBe(ACTORS_AT_REST);
}

/** Some failed as they must, the others gave what they always give; and now the pod serves all of them. */
async function expectRecovery(rig: Rig, outcomes: readonly Outcome[], code: string, message: RegExp): Promise<void> {
  const right = await answers();
  const failed = outcomes.filter((outcome) => outcome.completion === null);
  expect(failed.length).toBeGreaterThan(0);
  for (const outcome of failed) {
    expect(outcome.code, outcome.message).toBe(code);
    expect(outcome.message).toMatch(message);
  }
  outcomes.forEach(({ completion }, index) => {
    if (completion !== null) expect(fingerprint(completion)).toEqual(right[index]);
  });
  const again = await Promise.all(PROMPTS.map((prompt) => rig.pod.complete(prompt, OPTIONS)));
  expect(again.map(fingerprint)).toEqual(right);
  await expectNothingLeft(rig.pod);
  expect(await rig.actors()).toBe(ACTORS_AT_REST);
}

describe('a step that throws', () => {
  it.each(
    cases<PodOptions & { readonly workers: number }>([
      // The other NPU of its domain goes on with it through the rounds of a step that is no more.
      { topology: 'moe-attention:domains=1x2,experts=2', workers: 2, load_balancing: 'round_robin', schedule: 'domains' },
      { npus: 1, workers: 1 },
    ]),
  )('fails the requests of its NPU with worker_failed; others and the next ones do not notice: %o', async (options) => {
    await using rig = await openRig(options);
    const calls = await startAll(rig.pod);
    rig.poisonBlockTables(0);
    const outcomes = await Promise.all(calls);
    if (options.workers > 1) expect(outcomes.some(({ completion }) => completion !== null)).toBe(true);
    await expectRecovery(rig, outcomes, 'worker_failed', /memory access out of bounds/);
  });
});

describe('of four NPUs on two workers, with two job executors', () => {
  let rig: Rig;
  beforeAll(async () => {
    rig = await openRig({ npus: 4, workers: 2, job_executors: 2, max_batch_requests: 2 });
  });
  afterAll(() => rig[Symbol.asyncDispose]());

  it('steps may throw again and again, in the middle of dispatches to other workers', async () => {
    for (const npus of [[0], [1, 2, 3]]) {
      const calls = await startAll(rig.pod);
      for (const npu of npus) rig.poisonBlockTables(npu);
      const outcomes = await Promise.all(calls);
      if (npus.length === 1) expect(outcomes.some(({ completion }) => completion !== null)).toBe(true);
      await expectRecovery(rig, outcomes, 'worker_failed', /memory access out of bounds/);
    }
  });

  it('a worker may die once and again: what it held goes on elsewhere, the other worker waits for its experts, all with the same bits', async () => {
    for (const worker of [1, 0, 0]) {
      const calls = await startAll(rig.pod);
      rig.killWorker(worker);
      await expectUndisturbed(rig, await Promise.all(calls));
    }
  });
});

describe('of two workers', () => {
  let rig: Rig;
  beforeAll(async () => {
    rig = await openRig({ npus: 2, workers: 2 });
  });
  afterAll(() => rig[Symbol.asyncDispose]());

  it('logits that are not finite fail the requests whose they are with not_finite', async () => {
    const { finalNorm } = attentionLayouts(rig.plan.layouts)[0] as NpuLayout;
    const floats = rig.space.floatsOf(finalNorm.address);
    const at = offsetOf(finalNorm.address) / 4;
    const good = floats[at] as number;
    const calls = await startAll(rig.pod);
    floats[at] = Number.NaN;
    const outcomes = await Promise.all(calls);
    floats[at] = good;
    expect(outcomes.filter(({ code }) => code === 'not_finite').length).toBe(2);
    await expectRecovery(rig, outcomes, 'not_finite', /NaN or infinite/);
  });

  it('one may die while nothing runs, and a request comes at the same moment', async () => {
    rig.killWorker(1);
    const calls = PROMPTS.map((prompt) => settle(rig.pod.complete(prompt, OPTIONS)));
    await expectUndisturbed(rig, await Promise.all(calls));
  });

  it('the successor of one that died waits for a caller who does something else, as the stats show', async () => {
    const news: PeerNews[] = [];
    const hear = vi.spyOn(CallerPeers.prototype, 'hear').mockImplementation((one) => void news.push(one));
    rig.killWorker(1);
    const thread = rig.control.directory.threadOfWorker(1);
    const waitsFor = async () => (await rig.pod.stats()).fabric.threads[thread]?.waits_for.join();
    while ((await waitsFor()) !== 'caller') await sleep(1);
    const caller = hear.mock.contexts[0] as CallerPeers;
    hear.mockRestore();
    for (const one of news) caller.hear(one);
    while ((await waitsFor()) !== '') await sleep(1);
    expect(fingerprint(await rig.pod.complete(PROMPTS[0], OPTIONS))).toEqual((await answers())[0]);
  });
});

describe('a worker thread that dies', () => {
  it('two of three at the same time, with their job executors and the leader’s standby', async () => {
    await using rig = await openRig({ npus: 6, workers: 3, job_executors: 4 });
    const calls = await startAll(rig.pod);
    rig.killWorker(0);
    rig.killWorker(2);
    await expectUndisturbed(rig, await Promise.all(calls));
  });

  it('before the caller has taken its rings: it has a successor, which serves', async () => {
    await using rig = await openRig({ npus: 2, workers: 2, spare_workers: 1 }, { lost_at_start: 1 });
    const { choices } = await rig.pod.complete('Once', { ...OPTIONS, max_tokens: 3, data_parallel_rank: 1 });
    expect(choices[0]?.finish_reason).toBe('length');
  });
});

describe('the only worker thread, when it dies', () => {
  let rig: Rig;
  beforeAll(async () => {
    rig = await openRig({ npus: 2, workers: 1 });
  });
  afterAll(() => rig[Symbol.asyncDispose]());

  it('keeps its requests waiting for its successor', async () => {
    const calls = await startAll(rig.pod);
    rig.killWorker(0);
    await expectUndisturbed(rig, await Promise.all(calls));
  });

  it('again and again under the same requests: they wait each time, since they come further in between', async () => {
    const calls = await startAll(rig.pod);
    let areOver = false;
    void Promise.all(calls).then(() => {
      areOver = true;
    });
    for (let death = 0; death < 3; death++) {
      const epoch = rig.space.control.epochOf(rig.control.directory.threadOfWorker(0));
      rig.killWorker(0);
      while (rig.space.control.epochOf(rig.control.directory.threadOfWorker(0)) === epoch) await sleep(1);
      // All of them are computed again.
      const { generation_tokens } = await rig.pod.stats();
      while (death < 2 && !areOver && (await rig.pod.stats()).generation_tokens < generation_tokens + 4 * PROMPTS.length) await sleep(1);
    }
    await expectUndisturbed(rig, await Promise.all(calls));
  });
});
