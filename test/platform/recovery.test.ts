/** Whichever recovery is chosen, callers get the same tokens: where all begin anew with a lost worker, and in which order. */
import { describe, expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import { restartStages } from '../../src/platform/restart-stages.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { deploy, parseTopology } from '../../src/protocol/topology.ts';
import { expectNothingLeft, fingerprint } from '../system/pods.ts';

const VIRTUAL: PodOptions = { clock: 'virtual', kernels: 'hash' };
const CALLS = Array.from({ length: 6 }, (_, index) => ({
  prompt: Array.from({ length: 5 + index * 9 }, (_, at) => 7 + ((index * 37 + at * 13) % 900)),
  options: { max_tokens: 6 + index * 3, seed: index, ignore_eos: true },
}));

/** `event`: counted while all workers live; or amid a restart, when the first has begun. */
type Loss = { readonly worker: number; readonly event: number | 'amid' };
/** `lives`: how many each worker has had; `began`: which workers' successors began, in their order. */
type Run = { readonly answers: string[][]; readonly lives: number[]; readonly began: number[]; readonly ended_ms: number };

/** `successor_s`: what a stage of all takes to begin; missing: as ever. */
async function runWith(options: PodOptions, losses: readonly Loss[] = [], successor_s?: number): Promise<Run> {
  await using pod = (await createPod({ ...VIRTUAL, ...options })) as VirtualPod;
  const { control } = pod;
  if (successor_s !== undefined) control.workers.successorTime = () => successor_s * 1e9;
  const began: number[] = [];
  const restart = control.npus.restart.bind(control.npus);
  control.npus.restart = (worker) => {
    began.push(worker);
    restart(worker);
  };
  const step = control.step.bind(control);
  const workers = Array.from({ length: options.workers ?? 1 }, (_, worker) => worker);
  let living = 0;
  const amid = losses.filter(({ event }) => event === 'amid');
  control.step = () => {
    const allLive = !workers.some((worker) => control.workers.isLost(worker));
    if (allLive) living++;
    if (began.length === 1 && !allLive) for (const { worker } of amid.splice(0)) control.workers.lose(worker, 'the test killed it');
    for (const { worker, event } of losses) if (allLive && event === living) control.workers.lose(worker, 'the test killed it');
    return step();
  };
  const answers = (await Promise.all(CALLS.map(({ prompt, options: asked }) => pod.complete(prompt, asked)))).map(fingerprint);
  const ended_ms = control.host.now_ns / 1e6;
  await expectNothingLeft(pod);
  const lives = workers.map((worker) => control.space.control.lifeOf(worker));
  return { answers, lives, began, ended_ms };
}

describe("recovery: 'restart'", () => {
  it.each<[string, PodOptions]>([
    ['colocated', { topology: 'colocated:dp=4', workers: 2 }],
    ['ranks', { topology: 'colocated:dp=2,tp=2', workers: 4 }],
    ['prefill and decode', { topology: 'pd:prefill=1,decode=2', workers: 3, kv_transfer: 'layer' }],
    ['experts apart', { topology: 'moe-attention:domains=1x2,experts=2', workers: 3 }],
    ['domains in turn', { topology: 'moe-attention:domains=2x1,experts=2', workers: 2, schedule: 'domains' }],
  ])('should begin all workers anew with a lost one, whose requests go on with the same tokens: %s', async (_, options) => {
    const right = (await runWith({})).answers;
    const workers = options.workers as number;
    const { answers, lives } = await runWith({ ...options, recovery: 'restart' }, [{ worker: workers - 1, event: 150 }]);
    expect(answers).toEqual(right);
    expect(lives).toEqual(Array.from({ length: workers }, () => 2));
  });

  it('should have those that decode begin before those that only prefill', async () => {
    const options: PodOptions = { topology: 'pd:prefill=2,decode=1', npu_workers: [0, 1, 2], workers: 3, recovery: 'restart' };
    const { began } = await runWith(options, [{ worker: 0, event: 150 }]);
    expect(began).toEqual([2, 0, 1]);
  });

  it('should take as long as it takes, and nobody who waits for experts is told that they are lost', async () => {
    const options: PodOptions = { topology: 'colocated:dp=2', workers: 2, expert_balancing: { redundant_slots: 4, period_ms: 1_000_000 }, recovery: 'restart' };
    const { answers, ended_ms } = await runWith(options, [{ worker: 1, event: 150 }], 60);
    expect(answers).toEqual((await runWith({})).answers);
    expect(ended_ms).toBeGreaterThan(60_000);
  });

  it('should speak against nobody whom the lost worker did not hold, however often', async () => {
    const losses = [100, 150, 200, 250].map((event) => ({ worker: 1, event }));
    const options = { topology: 'colocated:dp=2', workers: 2, load_balancing: 'packed', recovery: 'restart' } as const;
    const { answers, lives } = await runWith(options, losses);
    expect(answers).toEqual((await runWith({})).answers);
    expect(lives).toEqual([5, 5]);
  });

  it('should begin once more where a worker is lost while all begin anew', async () => {
    const options = { topology: 'pd:prefill=1,decode=1', workers: 2, recovery: 'restart' } as const;
    const losses: Loss[] = [
      { worker: 0, event: 120 },
      { worker: 1, event: 'amid' },
    ];
    const { answers, began } = await runWith(options, losses);
    expect(answers).toEqual((await runWith({})).answers);
    expect(began).toEqual([1, 1, 0]);
  });

  it('should take longer than the loss of one alone, for whom it does not wait', async () => {
    const options = { topology: 'pd:prefill=1,decode=1', workers: 2 } as const;
    const loss = [{ worker: 0, event: 150 }];
    const [alone, all] = [await runWith({ ...options, recovery: 'fine-grained' }, loss), await runWith({ ...options, recovery: 'restart' }, loss)];
    expect(alone.lives).toEqual([2, 1]);
    expect(all.ended_ms).toBeGreaterThan(alone.ended_ms);
  });

  it('should be refused where one worker is all there is or experts are to be loaded elsewhere meanwhile, and by a name that there is not', async () => {
    const rehoming = { workers: 2, npus: 2, expert_balancing: { redundant_slots: 4 }, rehome_after_ms: 9 };
    await expect(createPod({ ...VIRTUAL, ...rehoming, recovery: 'restart' })).rejects.toMatchObject({ code: 'invalid_request', param: 'rehome_after_ms' });
    await expect(createPod({ ...VIRTUAL, recovery: 'restart' })).rejects.toMatchObject({ code: 'invalid_request', param: 'recovery' });
    await expect(createPod({ ...VIRTUAL, workers: 2, npus: 2, recovery: 'reboot' as never })).rejects.toMatchObject({
      code: 'invalid_request',
      param: 'recovery',
    });
  });
});

it('should name the stages in which all begin anew: workers that decode, then those that only prefill', () => {
  const deployment = deploy(parseTopology('pd:prefill=2,decode=1xdp2'));
  const stages = (worker_of_npu: number[]): unknown => restartStages({ deployment, workers: 3, spare_workers: 0, job_executors: 1, worker_of_npu });
  expect(stages([0, 1, 2, 2])).toEqual([[2], [0, 1]]);
  expect(stages([0, 1, 1, 2])).toEqual([[1, 2], [0]]);
});
