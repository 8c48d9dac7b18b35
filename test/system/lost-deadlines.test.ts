/** A request whose step waits for an NPU that is lost ends when its time is over, and not when the step does; those who wait beside it lose nothing. */
import { describe, expect, it, vi } from 'vitest';
import { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import type { PodOptions } from '../../src/index.ts';
import { APART, answersOf, loseAfter, open, right } from './lost-npus.ts';
import { expectNothingLeft } from './pods.ts';

const DEADLINE_MS = 400;

describe('the deadline of a request whose step waits for a lost NPU', () => {
  it.each<[string, PodOptions, number]>([
    ['NPUs with experts alone', APART, 1],
    ['two micro-batches', { ...APART, micro_batches: 2, max_batch_tokens: 64 }, 1],
    ['domains that take turns', { ...APART, schedule: 'domains', micro_batches: 2, max_batch_tokens: 64 }, 1],
    ['colocated', { topology: 'colocated:dp=3', workers: 3 }, 2],
    ['tensor parallel', { topology: 'colocated:dp=2,tp=2', npu_workers: [0, 0, 1, 1], workers: 2 }, 1],
    ['shared output projections', { topology: 'colocated:dp=2,oproj=2', workers: 2 }, 1],
  ])('should end it in time, and have the others go on: %s', async (_, options, worker) => {
    await using pod = await open(options);
    const { control } = pod;
    const now_ms = (): number => control.host.clock.now_ms();
    const restart = control.workers.deafen();
    loseAfter(pod, worker, 60);
    // All of its ranks are kept from a step's end by one that waits.
    const [late, patient] = [
      [1, 86, 1461, 700],
      [1, 86, 1461, 800],
    ].map((prompt, index) =>
      pod.complete(prompt, { max_tokens: 40, ignore_eos: true, temperature: 0, data_parallel_rank: 0, ...(index === 0 && { deadline_ms: DEADLINE_MS }) }),
    ) as [ReturnType<typeof pod.complete>, ReturnType<typeof pod.complete>];
    const began_ms = now_ms();
    await expect(late).rejects.toMatchObject({ code: 'deadline_exceeded', param: 'deadline_ms' });
    expect(control.workers.isLost(worker)).toBe(true);
    expect(now_ms() - began_ms).toBeLessThan(DEADLINE_MS + 5);
    // Nothing of it is held while the other still waits.
    expect(control.choicesHeld).toBe(1);
    const others = answersOf(pod);
    restart();
    expect((await patient).choices[0]?.token_ids).toEqual(await alone([1, 86, 1461, 800]));
    expect(await others).toEqual(await right);
    await expectNothingLeft(pod);
  });

  it('should cost nobody a step where it waits for nobody who is lost', async () => {
    await using pod = await open(APART);
    const undone = vi.spyOn(StepScheduler.prototype, 'mend');
    const late = pod.complete([1, 2, 3], { max_tokens: 1_000, ignore_eos: true, deadline_ms: 2 });
    await expect(late).rejects.toMatchObject({ code: 'deadline_exceeded' });
    expect(await answersOf(pod)).toEqual(await right);
    expect(undone).not.toHaveBeenCalled();
    undone.mockRestore();
    await expectNothingLeft(pod);
  });
});

async function alone(prompt: number[]): Promise<readonly number[] | undefined> {
  await using one = await open({});
  return (await one.complete(prompt, { max_tokens: 40, ignore_eos: true, temperature: 0 })).choices[0]?.token_ids;
}
