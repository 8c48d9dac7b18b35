/** The control thread is lost at any moments of a virtual run, and all others with it: every call goes on with the same tokens in the pod that begins in its place. */
import { existsSync, writeFileSync, writeSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Completion, createPod, type GenerateOptions, type Pod, type PodOptions } from '../../src/index.ts';
import { createVirtualPod, type VirtualPod } from '../../src/pod/virtual-pod.ts';
import type { TraceDisk } from '../../src/trace/output-file.ts';
import { runs } from '../property-runs.ts';
import { readTrace, traceFolder } from '../trace/files.ts';
import { expectNothingLeft, fingerprint, sleep } from './pods.ts';

const CALLS: readonly { readonly prompt: readonly number[]; readonly options: GenerateOptions }[] = Array.from({ length: 6 }, (_, index) => ({
  prompt: Array.from({ length: 3 + index * 9 }, (_, at) => 5 + ((index * 31 + at * 17) % 900)),
  options: { max_tokens: 5 + index * 5, n: 1 + (index % 3), seed: index, ignore_eos: true },
}));
const SHAPES: readonly PodOptions[] = [
  { npus: 3, workers: 3 },
  { topology: 'pd:prefill=1xdp1tp2,decode=1xdp2', workers: 2, job_executors: 3 },
];
const EVENTS_MAX = 900;

const generateAll = (pod: Pod): Promise<Completion[]> => Promise.all(CALLS.map(({ prompt, options }) => pod.complete(prompt, options)));
const open = async (options: PodOptions): Promise<VirtualPod> => (await createPod({ clock: 'virtual', kernels: 'hash', ...options })) as VirtualPod;

/** Loses it before each of these events, counted from here on, or from when the last one's successor began. */
function loseAt(pod: VirtualPod, [first, ...others]: readonly number[]): void {
  if (first === undefined) return;
  const { control } = pod;
  const step = control.step.bind(control);
  let count = 0;
  control.step = () => {
    if (++count === first) pod.loseControl();
    return step();
  };
  pod.onSucceeded = () => loseAt(pod, others);
}

describe.each(SHAPES)('a virtual pod whose control thread is lost: %o', (shape) => {
  it('at any moments: the tokens are those of the undisturbed run, and nothing is left', async () => {
    await using undisturbed = await open(shape);
    const right = (await generateAll(undisturbed)).map(fingerprint);
    const events = fc.array(fc.integer({ min: 1, max: EVENTS_MAX }), { minLength: 1, maxLength: 2 });
    await fc.assert(
      fc.asyncProperty(events, fc.nat(1_000), async (moments, seed) => {
        await using pod = await open({ ...shape, seed });
        loseAt(pod, moments);
        expect((await generateAll(pod)).map(fingerprint)).toEqual(right);
        // A second round, in case something was left behind.
        expect((await generateAll(pod)).map(fingerprint)).toEqual(right);
        await expectNothingLeft(pod, moments.length);
        for (let waited = 0; waited < 2_000 && pod.control.choicesHeld > 0; waited++) await sleep(1);
        expect([pod.control.choicesHeld, pod.control.frontend.recordsUsed]).toEqual([0, { calls: 0, records: 0, pages: 0 }]);
      }),
      { numRuns: runs(12) },
    );
  });
});

it('keeps contexts as they were, and has calls that come meanwhile wait', async () => {
  await using pod = await open({ npus: 2 });
  const prompt = Array.from({ length: 40 }, (_, at) => 5 + at);
  const right = fingerprint(await pod.complete([...prompt, 504], { max_tokens: 8, seed: 3, ignore_eos: true }));
  const { created } = await pod.createContext(prompt, { id: 'kept', expires_s: 60 });
  await pod.createContext(prompt, { id: 'deleted' });
  await pod.deleteContext('deleted');
  const drawn = await pod.createContext(prompt);
  await pod.deleteContext(drawn.id);
  const { life } = await pod.kvEvents(0);
  expect(await pod.kvEvents(0)).toMatchObject({ life });
  pod.loseControl();
  const late = await pod.complete([504], { max_tokens: 8, seed: 3, ignore_eos: true, context_id: 'kept' });
  expect(fingerprint(late)).toEqual(right);
  expect(await pod.listContexts()).toMatchObject([{ id: 'kept', created, expires: created + 60 }]);
  expect(await pod.stats()).toMatchObject({ control_recoveries: [{ start_ms: expect.any(Number) }], control_threads_lost: 1 });
  // Who still asks for the deleted one is not to find somebody else's.
  expect((await pod.createContext(prompt)).id).not.toBe(drawn.id);
  // What whoever follows the cache knows of it is no more.
  expect((await pod.kvEvents(0)).life).toBeGreaterThan(life);
});

it('asks anew what was not answered, and has the shape again that it was asked for', async () => {
  await using pod = await open({ topology: 'colocated:dp=3', workers: 3, scale_max: { attention: 3 }, expert_balancing: { redundant_slots: 2 } });
  const serving = async () => (await pod.stats()).scaling?.attention.serving;
  await pod.scale({ attention: 2 });
  loseAt(pod, [2]);
  const asked = [pod.scale({ attention: 1 }), pod.rebalance({ force: true })] as const;
  const [shape, reports] = await Promise.all(asked);
  expect([shape.attention, reports.length, await serving()]).toEqual([1, 1, 1]);
  pod.loseControl();
  await pod.rest();
  expect([await serving(), (await pod.stats()).control_recoveries.length]).toEqual([1, 2]);
});

it('answers whoever has asked for another shape when it is closed', async () => {
  const pod = await open({ npus: 2, scale_max: { attention: 2 } });
  const asked = pod.scale({ attention: 1 });
  await Promise.all([pod.close(), expect(asked).rejects.toMatchObject({ code: 'closed' })]);
});

it('leaves a trace of each control thread that there was, and none of another run is replaced', async () => {
  using folder = traceFolder();
  const record = folder.file('run.trace');
  writeFileSync(folder.file('run.2.trace'), 'of another run');
  {
    await using pod = await open({ npus: 2, record });
    loseAt(pod, [60]);
    await pod.complete([5, 6, 7], { max_tokens: 8 });
  }
  const [first, second] = [readTrace(record), readTrace(folder.file('run.3.trace'))];
  expect([first.damage, second.damage, first.records.length > 0, second.records.length > 0]).toEqual([null, null, true, true]);
});

it('goes on without a trace where its disk has become full, and says so', async () => {
  using folder = traceFolder();
  const ended: string[] = [];
  let isFull = false;
  const disk: TraceDisk = {
    write: (...written) => {
      if (isFull) throw new Error('ENOSPC: no space left on device, write');
      return writeSync(...written);
    },
    onEnded: ({ message }) => ended.push(message),
  };
  await using undisturbed = await open({ npus: 2 });
  const right = fingerprint(await undisturbed.complete([5, 6, 7], { max_tokens: 8 }));
  const record = { record: folder.file('run.trace'), record_routing: folder.file('run.routing') };
  await using pod = await createVirtualPod({ npus: 2, kernels: 'hash', clock: 'virtual', ...record }, undefined, disk);
  pod.onLost = () => {
    isFull = true;
  };
  loseAt(pod, [60, 20]);
  expect(fingerprint(await pod.complete([5, 6, 7], { max_tokens: 8 }))).toEqual(right);
  expect((await pod.stats()).control_threads_lost).toBe(2);
  // That of the lost one cannot be ended either; after that nobody tries any more.
  expect(ended).toEqual(
    ['run.2.trace', 'run.trace', 'run.routing'].map((file) => expect.stringMatching(RegExp(`${file}: cannot be written at byte .*ENOSPC`))),
  );
  expect(existsSync(folder.file('run.3.trace'))).toBe(false);
});

it('fails a request that it is lost with three times before a token comes, and no other', async () => {
  await using pod = await open({ npus: 1 });
  const first = pod.complete([5, 6, 7], { max_tokens: 8 });
  const second = pod.complete([5, 6, 8], { max_tokens: 8, ignore_eos: true });
  // Both are asked for, then one after the other.
  loseAt(pod, [5, 1, 1]);
  await expect(first).rejects.toMatchObject({ code: 'worker_failed' });
  expect((await second).choices[0]?.token_ids).toHaveLength(8);
  expect((await pod.stats()).control_recoveries).toHaveLength(3);
});
