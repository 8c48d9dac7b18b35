/** What breaks fails the requests it held, with a clear error, and stops nothing else. */
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../src/fabric/address.ts';
import type { Completion, GenerateOptions, Pod } from '../../src/index.ts';
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
  known ??= withPod({}, (pod) => Promise.all(PROMPTS.map(async (prompt) => fingerprint(await pod.complete(prompt, OPTIONS)))));
  return known;
};

/** Starts one request for each of the prompts, in turn on each worker, and returns when all of them stream. */
async function startAll(pod: Pod): Promise<Promise<Outcome>[]> {
  const calls = PROMPTS.map((prompt) => settle(pod.complete(prompt, OPTIONS)));
  const start = (await pod.stats()).generation_tokens;
  while ((await pod.stats()).generation_tokens < start + 12) await sleep(1);
  return calls;
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
  it.each([
    { npus: 1, workers: 1 },
    { npus: 2, workers: 1 },
    { npus: 4, workers: 2 },
  ])('fails the requests of its NPU with worker_failed; others and the next ones do not notice: %o', async (options) => {
    await using rig = await openRig(options);
    const calls = await startAll(rig.pod);
    rig.poisonBlockTables(0);
    const outcomes = await Promise.all(calls);
    if (options.workers > 1) expect(outcomes.some(({ completion }) => completion !== null)).toBe(true);
    await expectRecovery(rig, outcomes, 'worker_failed', /memory access out of bounds/);
  });

  it('again and again, in the middle of dispatches to other workers', async () => {
    await using rig = await openRig({ npus: 4, workers: 2, max_batch_requests: 2 });
    for (let round = 0; round < 3; round++) {
      const calls = await startAll(rig.pod);
      rig.poisonBlockTables(round);
      rig.poisonBlockTables((round + 1) % 4);
      rig.poisonBlockTables((round + 2) % 4);
      await expectRecovery(rig, await Promise.all(calls), 'worker_failed', /memory access out of bounds/);
    }
  });
});

describe('logits that are not finite', () => {
  it('fail the requests whose they are with not_finite', async () => {
    await using rig = await openRig({ npus: 2, workers: 2 });
    const { finalNorm } = rig.plan.layouts[0] as Rig['plan']['layouts'][number];
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
});

describe('a worker thread that dies', () => {
  it('alone of 2, three times: its requests fail, the other worker waits for its experts and ends with the same bits', async () => {
    await using rig = await openRig({ npus: 4, workers: 2, job_executors: 1 });
    for (const worker of [1, 0, 0]) {
      const calls = await startAll(rig.pod);
      rig.killWorker(worker);
      const outcomes = await Promise.all(calls);
      expect(outcomes.filter(({ completion }) => completion !== null).length).toBe(2);
      await expectRecovery(rig, outcomes, 'worker_failed', new RegExp(`worker ${worker} failed while it held the request: .*ring is corrupt`));
    }
  });

  it('the only one: all fail, and its successor serves', async () => {
    await using rig = await openRig({ npus: 2, workers: 1 });
    const calls = await startAll(rig.pod);
    rig.killWorker(0);
    await expectRecovery(rig, await Promise.all(calls), 'worker_failed', /worker 0 failed/);
  });

  it('two of three at the same time', async () => {
    await using rig = await openRig({ npus: 6, workers: 3, job_executors: 1 });
    const calls = await startAll(rig.pod);
    rig.killWorker(0);
    rig.killWorker(2);
    await expectRecovery(rig, await Promise.all(calls), 'worker_failed', /worker [02] failed/);
  });

  it('while nothing runs, and a request comes at the same moment', async () => {
    await using rig = await openRig({ npus: 2, workers: 2 });
    rig.killWorker(1);
    const calls = PROMPTS.map((prompt) => settle(rig.pod.complete(prompt, OPTIONS)));
    const outcomes = await Promise.all(calls);
    for (const { code } of outcomes) expect([null, 'worker_failed']).toContain(code);
    const right = await answers();
    expect(fingerprint(await rig.pod.complete(PROMPTS[0], OPTIONS))).toEqual(right[0]);
    await expectNothingLeft(rig.pod);
  });
});
