/** A DP group that holds a prefix is lost, or falls silent, when another asks for it, or that one is lost: it is computed, the tokens are the same, nothing is left. */
import { describe, expect, it } from 'vitest';
import type { Pod, PodOptions } from '../../src/index.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig, ROGUE } from './rig.ts';

const HOLDER = 0;
const ASKER = 1;
const SHARING: PodOptions = { topology: 'colocated:dp=2', workers: 2, job_executors: 1, prefix_sharing: true };
const prefixOf = (round: number): number[] => Array.from({ length: 320 }, (_, at) => 3 + ((round * 7_919 + at * 31) % 1_900));
const options = { max_tokens: 3, seed: 5, temperature: 1, logprobs: 1, ignore_eos: true };
const SUFFIXES = [3, 4];

const ask = (pod: Pod, round: number): Promise<string[]>[] =>
  SUFFIXES.map(async (last) => fingerprint(await pod.complete([...prefixOf(round), last], { ...options, data_parallel_rank: ASKER })));
const keep = (pod: Pod, round: number): Promise<unknown> => pod.complete([...prefixOf(round), 9], { max_tokens: 1, data_parallel_rank: HOLDER });
/** By round. */
const right = (rounds: number): Promise<string[][][]> =>
  withPod({ clock: 'virtual' }, (pod) =>
    Promise.all(
      Array.from({ length: rounds }, (_, round) =>
        Promise.all(SUFFIXES.map(async (last) => fingerprint(await pod.complete([...prefixOf(round), last], options)))),
      ),
    ),
  );

describe('a prefix', () => {
  it('should be computed with the same bits where its holder or its asker is lost while it is asked for or pulled, and nobody keeps what was lent', async () => {
    await using rig = await openRig(SHARING);
    const expected = await right(2);
    for (const [round, lost] of [HOLDER, ASKER].entries()) {
      await keep(rig.pod, round);
      const calls = ask(rig.pod, round);
      await sleep(1);
      rig.killWorker(lost);
      expect(await Promise.all(calls)).toEqual(expected[round]);
      await expectNothingLeft(rig.pod);
    }
  });

  it('should be computed before a holder that is silent speaks again', async () => {
    await using rig = await openRig(SHARING, ROGUE);
    const [expected] = await right(1);
    await keep(rig.pod, 0);
    rig.goRogue(HOLDER, 700);
    const start = performance.now();
    expect(await Promise.all(ask(rig.pod, 0))).toEqual(expected);
    const { npus } = await rig.pod.stats();
    expect(npus[ASKER]?.remote_hits).toBe(0);
    expect(npus[ASKER]?.remote_hits_missed).toBeGreaterThan(0);
    expect(performance.now() - start).toBeGreaterThan(200);
    await expectNothingLeft(rig.pod);
  });
});
