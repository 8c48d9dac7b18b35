/** Bits of weights that flip in live pods: who finds it ends, its successor has the weights of the checkpoint again, and tokens are what they were. */
import { expect, it } from 'vitest';
import { offsetOf } from '../../src/fabric/address.ts';
import type { Completion, GenerateOptions, PodOptions } from '../../src/index.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig } from './rig.ts';

const OPTIONS: GenerateOptions = { temperature: 0, ignore_eos: true, max_tokens: 30 };
const PROMPTS = ['Once upon a time', 'The wolf'];
type Rig = Awaited<ReturnType<typeof openRig>>;

const ask = (pod: { complete: (prompt: string, options: GenerateOptions) => Promise<Completion> }) =>
  PROMPTS.map(async (prompt) => fingerprint(await pod.complete(prompt, OPTIONS)));

/** Of the last norm, which each token goes through: its first element's exponent. */
function flip({ plan, space }: Rig, npu: number): void {
  const layout = plan.layouts[npu];
  if (layout?.kind !== 'attention') throw new Error(`NPU ${npu} has no norm`);
  const words = space.wordsOf(layout.finalNorm.address);
  const at = offsetOf(layout.finalNorm.address) / 4;
  words[at] = (words[at] as number) ^ (1 << 25);
}

const livesOf = ({ space: { control } }: Rig): number[] => [0, 1].map((worker) => control.lifeOf(worker));

const POD: PodOptions = { topology: 'colocated:dp=2', workers: 2, load_balancing: 'round_robin' };
const right = withPod({ clock: 'virtual' }, (pod) => Promise.all(ask(pod)));

it('where each step is checked, nobody hears a token that came of it', async () => {
  await using rig = await openRig({ ...POD, weight_checks: 'each-step' });
  const calls = ask(rig.pod);
  while ((await rig.pod.stats()).generation_tokens < 4) await sleep(1);
  flip(rig, 1);
  expect(await Promise.all(calls)).toEqual(await right);
  // The first calls may have ended before it was flipped; who is well may be given up on a crowded machine.
  expect(await Promise.all(ask(rig.pod))).toEqual(await right);
  expect(livesOf(rig)[1]).toBeGreaterThan(1);
  await expectNothingLeft(rig.pod);
});

it('an idle pod finds it by itself, all workers begin anew, and what is asked then is right', async () => {
  await using rig = await openRig({ ...POD, weight_checks: 'scrub', weight_scrub_s: 0.05 });
  expect(await Promise.all(ask(rig.pod))).toEqual(await right);
  const before = livesOf(rig);
  flip(rig, 1);
  while (livesOf(rig).some((life, worker) => life === before[worker])) await sleep(5);
  expect(await Promise.all(ask(rig.pod))).toEqual(await right);
  expect((await rig.pod.stats()).recoveries.map(({ reason }) => reason)).toContainEqual(expect.stringMatching(/weights of NPU 1 do not hold/));
  await expectNothingLeft(rig.pod);
});
