/** Prefill and decode apart, and a side breaks, falls silent or is left by its callers, at any of the eight steps: the same tokens, and nothing left. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Completion, GenerateOptions, Pod, PodOptions } from '../../src/index.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig, type Rig, ROGUE } from './rig.ts';

const PREFILL = 0;
const DECODE = 1;
const PD: PodOptions = { topology: 'pd:prefill=1,decode=1', workers: 2 };

const words = (seed: number, length: number): number[] => Array.from({ length }, (_, index) => 3 + ((seed * 7_919 + index * 104_729) % 1_900));
type Call = { readonly prompt: readonly number[]; readonly options: GenerateOptions };
const CALLS: readonly Call[] = Array.from({ length: 8 }, (_, index) => ({
  prompt: words(index, 5 + 40 * (index % 4)),
  options: { max_tokens: 2 + 20 * (index % 3), temperature: index % 2, seed: index, logprobs: 1, ignore_eos: true },
}));

let known: Promise<string[][]> | null = null;
/** What one NPU answers to each of the calls. */
const answers = (): Promise<string[][]> => {
  known ??= withPod({ clock: 'virtual' }, (pod) =>
    Promise.all(CALLS.map(async ({ prompt, options }) => fingerprint(await pod.complete([...prompt], options)))),
  );
  return known;
};

const askAll = (pod: Pod): Promise<Completion>[] => CALLS.map(({ prompt, options }) => pod.complete([...prompt], options));
const settled = async (calls: readonly Promise<Completion>[]): Promise<(string[] | string)[]> =>
  Promise.all(calls.map((call) => call.then(fingerprint, ({ code }) => String(code))));

async function until(isTrue: () => Promise<boolean>): Promise<void> {
  for (let wait = 0; !(await isTrue()); wait++) {
    expect(wait).toBeLessThan(2_000);
    await sleep(2);
  }
}
const hasBegun = async ({ pod }: Rig, before: number): Promise<boolean> => (await pod.stats()).generation_tokens > before;

/** Whoever came to its end has the right tokens; the pod serves all again, and holds nothing. */
async function expectRecovery(rig: Rig, outcomes: readonly (string[] | string)[], may: readonly string[]): Promise<void> {
  const right = await answers();
  for (const [index, outcome] of outcomes.entries())
    if (typeof outcome === 'string') expect(may).toContain(outcome);
    else expect(outcome).toEqual(right[index]);
  expect(await settled(askAll(rig.pod))).toEqual(right);
  await expectNothingLeft(rig.pod);
}

describe('a side of prefill and decode', () => {
  let rig: Rig;
  beforeAll(async () => {
    rig = await openRig(PD);
  });
  afterAll(() => rig[Symbol.asyncDispose]());

  it('should come back when its worker dies, and what it held goes on with the same bits', async () => {
    for (const worker of [PREFILL, DECODE]) {
      const { generation_tokens } = await rig.pod.stats();
      const calls = askAll(rig.pod);
      await until(() => hasBegun(rig, generation_tokens));
      rig.killWorker(worker);
      await expectRecovery(rig, await settled(calls), []);
    }
  });

  it('should fail what a step held that throws, and take nothing from its memory', async () => {
    for (const npu of [PREFILL, DECODE]) {
      const { generation_tokens } = await rig.pod.stats();
      const calls = askAll(rig.pod);
      await until(() => hasBegun(rig, generation_tokens));
      rig.poisonBlockTables(npu);
      await expectRecovery(rig, await settled(calls), ['worker_failed']);
    }
  });
});

describe('a side that hangs, is given up and writes on', () => {
  it.each([PREFILL, DECODE])('should go on where its successor sits, on spare dies on Deno, with the same bits: worker %i', async (worker) => {
    await using rig = await openRig({ ...PD, spare_workers: 1, job_executors: 1 }, ROGUE);
    const calls = askAll(rig.pod);
    await until(() => hasBegun(rig, 0));
    rig.goRogue(worker, 600);
    await sleep(20);
    rig.control.giveUp(worker, 'the test says that it hangs');
    await expectRecovery(rig, await settled(calls), []);
  });
});

describe('a decode side that is silent', () => {
  it('should lose what it was lent, and compute it anew with the same bits when it wakes', async () => {
    await using rig = await openRig({ ...PD, kv_lease_ms: 100, job_executors: 1 }, ROGUE);
    // Cold, on a crowded machine, a prompt takes as long as the silence.
    await rig.pod.complete([...words(9, 100)], { max_tokens: 2, ignore_eos: true });
    rig.goRogue(DECODE, 1_500);
    const calls = askAll(rig.pod);
    await expectRecovery(rig, await settled(calls), []);
    const { dp_groups, kv_links } = await rig.pod.stats();
    expect(dp_groups[PREFILL]?.kv_leases_expired).toBeGreaterThan(0);
    const failed = kv_links.map((link) => (link.failed['refused'] ?? 0) + (link.failed['expired'] ?? 0));
    // What it counted is lost with it where it was given up meanwhile.
    expect(failed[0]).toBeLessThanOrEqual(dp_groups[PREFILL]?.kv_leases_expired ?? 0);
  });
});

describe('a caller that goes away', () => {
  it.each(['request', 'layer'] as const)('should leave nothing behind on either side, at whichever of the eight steps, by %s', async (kv_transfer) => {
    await using rig = await openRig({ ...PD, kv_blocks: 40, max_batch_tokens: 32, kv_transfer });
    const right = await answers();
    for (let round = 0; round < 2; round++) {
      const outcomes = await settled(
        CALLS.map(async ({ prompt, options }, index) => {
          const abort = new AbortController();
          // Before it is admitted, while it waits, is computed, lent, awaited, pulled, decoded: whatever it is doing after so long.
          if (index % 2 === 0) setTimeout(() => abort.abort(), 7 * index + 13 * round);
          return rig.pod.complete([...prompt], { ...options, signal: abort.signal });
        }),
      );
      for (const [index, outcome] of outcomes.entries()) if (outcome !== 'cancelled') expect(outcome).toEqual(right[index]);
      await expectNothingLeft(rig.pod);
    }
  });
});
