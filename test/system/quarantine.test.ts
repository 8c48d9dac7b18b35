/** A worker that hangs is given up; what it writes late changes nothing that anyone reads, and its successor serves the same bits. */
import { beforeAll, describe, expect, it } from 'vitest';
import type { Completion, GenerateOptions, PodOptions } from '../../src/index.ts';
import { CONTROL_THREAD } from '../../src/runtime/directory.ts';
import { timesOfAll } from '../../src/runtime/os-thread.ts';
import { cases } from '../property-runs.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig, type Rig, ROGUE } from './rig.ts';

const OPTIONS: GenerateOptions = { temperature: 0, ignore_eos: true, max_tokens: 60, logprobs: 1 };
const PROMPTS = ['Once upon a time', 'The wolf', 'In the forest', 'The king'] as const;
/** Node ends a terminated thread; Deno lets it run. */
const TERMINATION_IS_PROOF = !('Deno' in globalThis);

const outcome = (call: Promise<Completion>) => call.then(fingerprint, (error) => String(error.code));
/** What a pod that nothing happens to gives. */
let right: string[][];
beforeAll(async () => {
  right = await withPod({ clock: 'virtual' }, (pod) => Promise.all(PROMPTS.map(async (prompt) => fingerprint(await pod.complete(prompt, OPTIONS)))));
});
const until = async (isTrue: () => boolean): Promise<void> => {
  for (let wait = 0; !isTrue() && wait < 1_500; wait++) await sleep(10);
  expect(isTrue()).toBe(true);
};
const stateOf = ({ control, space }: Rig, worker: number): string[] =>
  control.directory.npusOfWorker(worker).map((npu) => space.table.stateOf(space.table.indexOf(`npu/${npu}`, 'hbm')));

describe('a worker that hangs, is given up and writes on', () => {
  it.each(
    cases<PodOptions & { readonly workers: number }>([
      { npus: 4, workers: 2, spare_workers: 1 },
      { npus: 2, workers: 1, spare_workers: 1 },
      { topology: 'colocated:dp=4,oproj=4', workers: 2, spare_workers: 1, kv_blocks: 128, max_batch_tokens: 64, segment_bytes: 24 * 2 ** 20 },
    ]),
  )('ends nothing that it held: all goes on elsewhere with the same bits, and its successor serves: %o', async (options) => {
    await using rig = await openRig(options, ROGUE);
    const calls = PROMPTS.map((prompt) => outcome(rig.pod.complete(prompt, OPTIONS)));
    while ((await rig.pod.stats()).generation_tokens < 12) await sleep(1);
    rig.goRogue(0, 1_000);
    await sleep(20);
    rig.control.giveUp(0, 'the test says that it hangs');
    expect(await Promise.all(calls)).toEqual(right);
    expect(await Promise.all(PROMPTS.map((prompt) => outcome(rig.pod.complete(prompt, OPTIONS))))).toEqual(right);
    await expectNothingLeft(rig.pod);
    const { expert_loads, fabric, prompt_tokens, generation_tokens } = await rig.pod.stats();
    // Spare seats begin with 2.
    expect(fabric.threads.slice(0, 2 + options.workers).filter(({ epoch }) => epoch > 1).length).toBe(1);
    const routed = expert_loads.flat().reduce((sum, tokens) => sum + tokens, 0);
    expect(routed).toBeLessThan((prompt_tokens + generation_tokens) * 10 * expert_loads.length);
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

describe('two workers that hang', () => {
  it('at once, and write on: both are replaced, and the pod serves the same bits', async () => {
    await using rig = await openRig({ npus: 3, workers: 2, spare_workers: 2 }, ROGUE);
    const calls = PROMPTS.map((prompt) => outcome(rig.pod.complete(prompt, OPTIONS)));
    while ((await rig.pod.stats()).generation_tokens < 12) await sleep(1);
    for (const worker of [0, 1]) {
      rig.goRogue(worker, 700);
      await sleep(20);
    }
    for (const worker of [0, 1]) rig.control.giveUp(worker, 'the test says that it hangs');
    expect(await Promise.all(calls)).toEqual(right);
    expect(await Promise.all(PROMPTS.map((prompt) => outcome(rig.pod.complete(prompt, OPTIONS))))).toEqual(right);
    await until(() => rig.control.quarantined === 0);
    // A seat that came back from quarantine fits any worker.
    rig.goRogue(0, 700);
    await sleep(20);
    rig.control.giveUp(0, 'the test says that it hangs again');
    expect(await Promise.all(PROMPTS.map((prompt) => outcome(rig.pod.complete(prompt, OPTIONS))))).toEqual(right);
    await expectNothingLeft(rig.pod);
  });

  it('and another that dies meanwhile: its successor reads nothing of a thread that writes on', async () => {
    await using rig = await openRig({ npus: 4, workers: 2, spare_workers: 1 }, ROGUE);
    rig.goRogue(0, 1_000);
    await sleep(20);
    rig.control.giveUp(0, 'the test says that it hangs');
    const thread = rig.control.directory.threadOfWorker(1);
    rig.killWorker(1);
    await until(() => rig.space.control.epochOf(thread) === 2);
    expect(await outcome(rig.pod.complete(PROMPTS[0], OPTIONS))).toEqual(right[0]);
    const { fabric } = await rig.pod.stats();
    // On a crowded machine the successor on the spare seat may have had one, too.
    expect(fabric.threads.map(({ epoch }) => Math.min(epoch, 2))).toEqual([1, 1, 2, 2, 2]);
    await expectNothingLeft(rig.pod);
  });

  it('one, while the pod closes: nothing is given up any more', async () => {
    const rig = await openRig({ npus: 2, workers: 2 }, ROGUE);
    rig.goRogue(0, 300);
    await sleep(20);
    rig.control.giveUp(0, 'the test says that it hangs');
    await rig.pod.close();
    await sleep(400);
    expect(await outcome(rig.pod.complete(PROMPTS[0], OPTIONS))).toBe('closed');
  });
});

describe('a cooperative stop', () => {
  it('ends a worker within 50 ms, in the middle of its steps', async () => {
    // Spares, since on Deno a thread that a crowded machine does not run for half a second is one that does not stop.
    await using rig = await openRig({ npus: 2, workers: 1, spare_workers: 2 });
    const took_ms: number[] = [];
    // The best of a few, and without the longest that any thread of this process has waited for a processor: a crowded machine may not even run it in that time.
    for (let round = 0; round < 4 && !took_ms.some((took) => took < 50); round++) {
      const call = outcome(rig.pod.complete(PROMPTS[0], OPTIONS));
      const before = (await rig.pod.stats()).generation_tokens;
      while ((await rig.pod.stats()).generation_tokens < before + 4) await sleep(1);
      const thread = rig.control.directory.threadOfWorker(0);
      const waited = timesOfAll();
      const start = performance.now();
      rig.control.giveUp(0, 'the test says so');
      // Its words are cleared for the successor as soon as it has ended.
      while (rig.space.control.isStopped(thread) && !rig.space.control.hasAcknowledged(thread) && performance.now() - start < 5_000) await sleep(1);
      const took = performance.now() - start;
      const waits_ns = [...timesOfAll()].map(([id, { wait_ns }]) => wait_ns - (waited.get(id)?.wait_ns ?? 0));
      took_ms.push(took - Math.max(0, ...waits_ns) / 1e6);
      expect(await call).toEqual(right[0]);
    }
    expect(Math.min(...took_ms)).toBeLessThan(50);
    expect(await outcome(rig.pod.complete(PROMPTS[0], OPTIONS))).not.toBe('worker_failed');
    await expectNothingLeft(rig.pod);
  });

  it('is one, however late its giver-up hears of it and its successor starts: nothing goes into quarantine, that one least of all', async () => {
    await using rig = await openRig({ npus: 2, workers: 1 }, { worker_entry: new URL('late-worker.ts', import.meta.url) });
    const call = outcome(rig.pod.complete(PROMPTS[0], OPTIONS));
    rig.control.giveUp(0, 'the test says so');
    // This thread's timers are due before it hears that the worker has exited.
    for (const end = performance.now() + 300; performance.now() < end; ) rig.space.control.nap(CONTROL_THREAD, 10);
    expect(await call).toEqual(right[0]);
    expect(rig.control.quarantined).toBe(0);
    expect(await outcome(rig.pod.complete(PROMPTS[0], OPTIONS))).toEqual(right[0]);
    await expectNothingLeft(rig.pod);
  });
});
