/** Live pods whose workers all begin anew with a lost one: callers notice nothing but the time. */
import { expect, it } from 'vitest';
import type { Completion, GenerateOptions, PodOptions } from '../../src/index.ts';
import { cases } from '../property-runs.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig } from './rig.ts';

const OPTIONS: GenerateOptions = { temperature: 0, ignore_eos: true, max_tokens: 40 };
const PROMPTS = ['Once upon a time', 'The wolf', 'In the forest', 'The king'];

it.each(
  cases<PodOptions>([
    { topology: 'pd:prefill=1,decode=2', workers: 3, job_executors: 3 },
    { topology: 'colocated:dp=4', workers: 2 },
  ]),
)('with recovery: restart all workers begin anew, again and again, and all requests go on with the same tokens: %o', async (options) => {
  const ask = (pod: { complete: (prompt: string, options: GenerateOptions) => Promise<Completion> }) =>
    PROMPTS.map(async (prompt) => fingerprint(await pod.complete(prompt, OPTIONS)));
  const right = await withPod({ clock: 'virtual' }, (pod) => Promise.all(ask(pod)));
  await using rig = await openRig({ ...options, recovery: 'restart' });
  const workers = options.workers as number;
  const lives = (): number[] => Array.from({ length: workers }, (_, worker) => rig.space.control.lifeOf(worker));
  for (const worker of [workers - 1, 0]) {
    const before_lives = lives();
    const before = (await rig.pod.stats()).generation_tokens;
    const calls = ask(rig.pod);
    while ((await rig.pod.stats()).generation_tokens < before + 12) await sleep(1);
    rig.killWorker(worker);
    expect(await Promise.all(calls)).toEqual(right);
    // All of them; on a crowded machine one that is not run for long is given up too, and all begin once more.
    expect(lives().filter((life, index) => life > (before_lives[index] as number))).toHaveLength(workers);
    await expectNothingLeft(rig.pod);
  }
});
