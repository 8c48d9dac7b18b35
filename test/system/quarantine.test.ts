/** A worker that hangs is given up; what it writes late changes nothing that anyone reads, and its successor serves the same bits. */
import { describe, expect, it } from 'vitest';
import type { Completion, GenerateOptions } from '../../src/index.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig, type Rig } from './rig.ts';

const OPTIONS: GenerateOptions = { temperature: 0, ignore_eos: true, max_tokens: 60, logprobs: 1 };
const PROMPTS = ['Once upon a time', 'The wolf', 'In the forest', 'The king'] as const;
const ROGUE = new URL('rogue-worker.ts', import.meta.url);
/** Node ends a terminated thread; Deno lets it run. */
const TERMINATION_IS_PROOF = !('Deno' in globalThis);

const outcome = (call: Promise<Completion>) => call.then(fingerprint, (error) => String(error.code));
const until = async (isTrue: () => boolean): Promise<void> => {
  for (let wait = 0; !isTrue() && wait < 1_500; wait++) await sleep(10);
  expect(isTrue()).toBe(true);
};
const stateOf = ({ control, space }: Rig, worker: number): string[] =>
  control.directory.npusOfWorker(worker).map((npu) => space.table.stateOf(space.table.indexOf(`npu/${npu}`, 'hbm')));

describe('a worker that hangs, is given up and writes on', () => {
  it.each([
    { npus: 2, workers: 1, spare_workers: 1 },
    { npus: 4, workers: 2, spare_workers: 1 },
    { npus: 4, workers: 2, spare_workers: 1, kv_blocks: 128, max_batch_tokens: 64, segment_bytes: 24 * 2 ** 20 },
  ])('fails what it held with worker_failed, others end with the same bits, and its successor serves: %o', async (options) => {
    const right = await withPod({}, (pod) => Promise.all(PROMPTS.map(async (prompt) => fingerprint(await pod.complete(prompt, OPTIONS)))));
    await using rig = await openRig(options, ROGUE);
    const calls = PROMPTS.map((prompt) => outcome(rig.pod.complete(prompt, OPTIONS)));
    while ((await rig.pod.stats()).generation_tokens < 12) await sleep(1);
    rig.goRogue(0, 1_500);
    await sleep(20);
    rig.control.giveUp(0, 'the test says that it hangs');
    const outcomes = await Promise.all(calls);
    expect(outcomes).toContain('worker_failed');
    outcomes.forEach((end, index) => {
      if (end !== 'worker_failed') expect(end).toEqual(right[index]);
    });
    for (let round = 0; round < 3; round++) expect(await Promise.all(PROMPTS.map((prompt) => outcome(rig.pod.complete(prompt, OPTIONS))))).toEqual(right);
    await expectNothingLeft(rig.pod);
    if (TERMINATION_IS_PROOF) {
      expect(rig.control.quarantined).toBe(0);
      expect(stateOf(rig, 0)).not.toContain('quarantined');
      return;
    }
    // Its memory comes back when it reads its stop word after all.
    await until(() => rig.control.quarantined === 0);
    expect(stateOf(rig, 0)).toEqual(stateOf(rig, 0).map(() => 'free'));
    expect(await Promise.all(PROMPTS.map((prompt) => outcome(rig.pod.complete(prompt, OPTIONS))))).toEqual(right);
  });
});

describe('a cooperative stop', () => {
  it('ends a worker that reads its stop word within 50 ms, in the middle of its steps', async () => {
    await using rig = await openRig({ npus: 2, workers: 1 });
    const call = outcome(rig.pod.complete(PROMPTS[0], OPTIONS));
    while ((await rig.pod.stats()).generation_tokens < 4) await sleep(1);
    const thread = rig.control.directory.threadOfWorker(0);
    const start = performance.now();
    rig.control.giveUp(0, 'the test says so');
    // Its words are cleared for the successor as soon as it has ended.
    while (rig.space.control.isStopped(thread) && !rig.space.control.hasAcknowledged(thread) && performance.now() - start < 5_000) await sleep(1);
    // 50 ms is what bench/fabric measures; a crowded machine may not even run the thread in that time.
    expect(performance.now() - start).toBeLessThan(1_000);
    expect(await call).toBe('worker_failed');
    expect(await outcome(rig.pod.complete(PROMPTS[0], OPTIONS))).not.toBe('worker_failed');
  });
});
