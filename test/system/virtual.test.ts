/** The pod on its virtual clock: the live pod's tokens, and one run for one seed, on every runtime. */
import { afterAll, describe, expect, it } from 'vitest';
import { type Chunk, createPod, type Pod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { breathe } from '../../src/runtime/event-loop.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { cases } from '../property-runs.ts';
import { traceFolder } from '../trace/files.ts';
import { withPod } from './pods.ts';
import sameBits from './same-bits.json' with { type: 'json' };
import { digest, run } from './workload.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

const SMALL_PROMPT = (index: number): number[] => [1, 86, 1461, 613, 265, 531 + index];

/** Callers that come, read, go away early and come again: each chunk they get decides what they do next. */
async function useAll(pod: Pod, calls: number): Promise<Chunk[][]> {
  const use = async (index: number): Promise<Chunk[]> => {
    const abort = new AbortController();
    const chunks: Chunk[] = [];
    try {
      const options = { max_tokens: 4 + (index % 7) * 3, n: 1 + (index % 3), seed: index, signal: abort.signal, ignore_eos: true };
      for await (const chunk of pod.generate(SMALL_PROMPT(index), options)) if (chunks.push(chunk) === 9 && index % 4 === 1) abort.abort();
    } catch (error) {
      expect(error).toMatchObject({ code: 'cancelled' });
    }
    return index % 5 === 0 && index > 0 ? [...chunks, ...(await use(index + 101)).flat()] : chunks;
  };
  return Promise.all(Array.from({ length: calls }, (_, index) => use(index)));
}

/** The tokens, and the hash of the run's trace. */
async function record(options: PodOptions, calls = 12): Promise<{ tokens: number[][]; hash: string }> {
  const path = folder.file(`${Math.random()}.trace`);
  const chunks = await withPod({ clock: 'virtual', record: path, ...options }, (pod) => useAll(pod, calls));
  using reader = TraceReader.open(path);
  // Choices come in any order: by choice, each has its own.
  return {
    tokens: chunks.map((all) => [0, 1, 2].flatMap((choice) => all.filter((chunk) => chunk.choice === choice).flatMap(({ token_ids }) => token_ids))),
    hash: reader.totals?.hash ?? 'none',
  };
}

describe('a virtual pod', () => {
  it.each(
    cases([{ npus: 3, workers: 3, seed: 2, kv_blocks: 128, max_batch_tokens: 64, segment_bytes: 25_165_824 }, { npus: 4, workers: 2, seed: 7 }, { npus: 1 }]),
  )('generates the live pod’s tokens, bit for bit: %o', async (options) => {
    const results = await withPod({ clock: 'virtual', ...options }, (pod) => run(pod, 'all at once'));
    expect(digest(results)).toEqual(sameBits['tiny-deepseek-v3']);
  });

  it.each(['real', 'hash'] as const)(
    'is one run for one seed, whatever else happens, and another for another, with the same tokens: %s kernels',
    async (kernels) => {
      const options = { npus: 4, workers: 2, kernels, seed: 3 };
      const first = await record(options);
      const [again] = await Promise.all([record(options), busyBeside()]);
      const other = await record({ ...options, seed: 4 });
      expect(again).toEqual(first);
      expect(other.hash).not.toBe(first.hash);
      // Who goes away early has read more or less of the same.
      const wholes = ({ tokens }: typeof first): number[][] => tokens.filter((_, index) => index % 4 !== 1 && index % 5 !== 0);
      expect(wholes(other)).toEqual(wholes(first));
    },
  );

  it('is the same run on every runtime', async () => {
    expect((await record({ npus: 2, kernels: 'hash', seed: 1 }, 6)).hash).toBe(HASH_KERNELS);
    expect((await record({ npus: 2, workers: 2, seed: 1 }, 6)).hash).toBe(REAL_KERNELS);
  });

  it('reads no clock and draws no chance while it runs', async () => {
    await using pod = await createPod({ clock: 'virtual', npus: 2, kernels: 'hash' });
    const poison = (): never => {
      throw new Error('a virtual run touched the real world');
    };
    const real = { now: Date.now, random: Math.random, performance: performance.now, timeout: globalThis.setTimeout, interval: globalThis.setInterval };
    Object.assign(Date, { now: poison });
    Object.assign(Math, { random: poison });
    Object.assign(performance, { now: poison });
    Object.assign(globalThis, { setTimeout: poison, setInterval: poison });
    try {
      await useAll(pod, 6);
    } finally {
      Object.assign(Date, { now: real.now });
      Object.assign(Math, { random: real.random });
      Object.assign(performance, { now: real.performance });
      Object.assign(globalThis, { setTimeout: real.timeout, setInterval: real.interval });
    }
    expect((await pod.stats()).unexpected_messages).toEqual([]);
  });

  it('tells virtual times', async () => {
    await using pod = await createPod({ clock: 'virtual' });
    const generation = pod.generate(SMALL_PROMPT(0), { max_tokens: 8 });
    for await (const _ of generation);
    const { received, scheduled, first_token, finished } = generation.times();
    expect([received, scheduled, first_token, finished]).toEqual([received, scheduled, first_token, finished].toSorted((a, b) => Number(a) - Number(b)));
    expect(finished - received).toBeLessThan(1);
    expect(pod.model.created).toBe(0);
  });

  it('refuses what only the other clock has', async () => {
    await expect(createPod({ clock: 'live', seed: 1 })).rejects.toMatchObject({ code: 'invalid_request', param: 'seed' });
    await expect(createPod({ kernels: 'hash' })).rejects.toMatchObject({ code: 'invalid_request', param: 'kernels' });
    await expect(createPod({ clock: 'virtual', kernels: 'hash', enforce_eager: true })).rejects.toMatchObject({
      code: 'invalid_request',
      param: 'enforce_eager',
    });
    await expect(createPod({ clock: 'virtual', spare_workers: 1 })).rejects.toMatchObject({ code: 'invalid_request', param: 'spare_workers' });
    await using pod = await createPod({ clock: 'virtual', kernels: 'hash' });
    await expect(pod.complete('x', { logprobs: 1 })).rejects.toMatchObject({ code: 'invalid_request', param: 'logprobs' });
  });

  it('fails what runs when it is closed, and what comes later', async () => {
    const pod = await createPod({ clock: 'virtual', kernels: 'hash' });
    const running = pod.complete(SMALL_PROMPT(0), { max_tokens: 500 });
    await pod.close();
    await pod.close();
    await expect(running).rejects.toMatchObject({ code: 'closed' });
    await expect(pod.complete('x')).rejects.toMatchObject({ code: 'closed' });
    await expect(pod.stats()).rejects.toMatchObject({ code: 'closed' });
  });

  it.each([
    ['closed', true],
    ['waited for no longer', false],
  ])('holds nobody up where much virtual time is left and it is %s', async (_, isToClose) => {
    // A byte a virtual second: while a block moves, thousands of leases are renewed.
    await using pod = (await createPod({ clock: 'virtual', kernels: 'hash', kv_blocks: 4, dram_blocks: 8, dram_bytes_per_s: 1 })) as VirtualPod;
    const { control } = pod;
    const step = control.step.bind(control);
    let events = 0;
    control.step = () => {
      events++;
      return step();
    };
    await pod.complete(SMALL_PROMPT(0), { max_tokens: 40, seed: 0, ignore_eos: true });
    const told = events;
    if (isToClose) await pod.close();
    await breathe();
    await breathe();
    if (isToClose) expect(events).toBe(told);
    // What is left goes on beside whatever else there is to do.
    expect(step()).toBe(true);
  });
});

/** They change with the messages, the machines and the costs: then the failed test prints the new ones, which must be the same on both runtimes. */
const HASH_KERNELS = '1a238de3614100119b90aeb2407d09b12564a6b01c4b11dd81acadfca2294041';
const REAL_KERNELS = '3a5a59440bb8541db05d9ad29d8b7ca4e85f38ecfb09ec224d1000a5e1e74f1f';

/** Keeps the event loop and the processor busy. */
async function busyBeside(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) {
    await new Promise((resolve) => setTimeout(resolve, turn % 4));
    const until = performance.now() + 3;
    while (performance.now() < until);
  }
}
