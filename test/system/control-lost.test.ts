/** The control thread is lost, and all others with it: the pod goes on, and no caller notices more than the time that it takes. */
import { existsSync, writeFileSync } from 'node:fs';
import { afterAll, expect, it } from 'vitest';
import { serve } from '../../src/api/index.ts';
import type { GenerateOptions, InspectionEvent } from '../../src/index.ts';
import { createLivePod, type LivePod } from '../../src/pod/live-pod.ts';
import { epoch_ms, monotonicClock } from '../../src/runtime/clock.ts';
import { actsOf } from '../../src/trace/acts.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { traceFolder } from '../trace/files.ts';
import { expectWhole } from '../trace/whole-run.ts';
import { askServer, liveBytes } from './clients.ts';
import { expectNothingLeft, fingerprint, sleep } from './pods.ts';
import { BEGINS_NOT, CONTROL_ORDERS, MUTE, ROGUE_CONTROL } from './rogue-control-order.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

const CALLS: readonly { readonly prompt: readonly number[]; readonly options: GenerateOptions }[] = Array.from({ length: 6 }, (_, index) => ({
  prompt: Array.from({ length: 3 + index * 40 }, (_, at) => 5 + ((index * 31 + at * 17) % 900)),
  options: { max_tokens: 20 + index * 12, n: 1 + (index % 2), seed: index, temperature: 1, logprobs: 2, ignore_eos: true },
}));

const completeAll = async (pod: LivePod): Promise<string[][]> =>
  (await Promise.all(CALLS.map(({ prompt, options }) => pod.complete(prompt, options)))).map(fingerprint);

/** By then a busy machine has come to it, too. */
const POLL_MS = 20_000;
/** A thread that there is not. */
const NOBODY = 120;

/** It has told so many tokens since `from`. */
async function untilTold(pod: LivePod, from: number, tokens: number): Promise<void> {
  while ((await pod.stats()).generation_tokens - from < tokens) await sleep(1);
}

// Amid prefill, and when all but the longest have ended; amid decode.
it.each([
  ['colocated:dp=2', [0, 250]],
  ['pd:prefill=1xdp1,decode=1xdp1', [30]],
])('goes on with every call, whatever it was at, and with what is kept for callers: %s', async (topology, moments) => {
  await using pod = await createLivePod({ topology, workers: 2 });
  const right = await completeAll(pod);
  const story = await pod.createContext([1, 86, 1461, 613, 265, 531, 460, 315], { id: 'story' });
  const onward = fingerprint(await pod.complete([504], { max_tokens: 8, seed: 3, context_id: 'story' }));
  const lost: WeakRef<object>[] = [];
  for (const [losses, tokens] of moments.entries()) {
    const from = (await pod.stats()).generation_tokens;
    const running = completeAll(pod);
    await untilTold(pod, from, tokens);
    lost.push(new WeakRef(pod.space.control));
    await pod.killControl();
    // Asked while nobody is there to answer.
    const [tokenized, late] = [pod.tokenize('Once upon a time'), pod.complete([504], { max_tokens: 8, seed: 3, context_id: 'story' })];
    expect(await running).toEqual(right);
    expect((await tokenized).token_ids.length).toBeGreaterThan(0);
    expect(fingerprint(await late)).toEqual(onward);
    const { control_recoveries } = await pod.stats();
    expect(control_recoveries).toHaveLength(losses + 1);
    expect(control_recoveries.at(-1)).toMatchObject({ reason: expect.stringContaining('exited'), start_ms: expect.any(Number) });
  }
  expect(await pod.listContexts()).toEqual([story]);
  expect(await pod.deleteContext('story')).toBe(true);
  await expectNothingLeft(pod, moments.length);
  // Nobody keeps their memory.
  const kept = async (): Promise<number> => {
    await liveBytes();
    return lost.filter((control) => control.deref() !== undefined).length;
  };
  await expect.poll(kept, { timeout: POLL_MS }).toBe(0);
});

it('goes on where the control thread hangs, and where it throws in its loop', async () => {
  await using pod = await createLivePod({ npus: 2, workers: 2 }, undefined, { entry: ROGUE_CONTROL, hung_ms_max: 1_000 });
  const right = await completeAll(pod);
  for (const order of [CONTROL_ORDERS.spin, CONTROL_ORDERS.throw]) {
    const from = (await pod.stats()).generation_tokens;
    const running = completeAll(pod);
    await untilTold(pod, from, 30);
    const { control } = pod.space;
    control.stop(order);
    // Who hangs answers nothing.
    const tokenized = pod.tokenize('Once upon a time');
    expect(await running).toEqual(right);
    expect((await tokenized).token_ids.length).toBeGreaterThan(0);
    // Where nobody can write there any more it is the same memory.
    control.stop(NOBODY);
    expect(pod.space.control.isStopped(NOBODY)).toBe(!('Deno' in globalThis));
  }
  const reasons = [/has not turned its loop for/, /failed: the test wants it so/].map((reason) => ({ reason: expect.stringMatching(reason) }));
  expect((await pod.stats()).control_recoveries).toMatchObject(reasons);
  await expectNothingLeft(pod, 2);
});

it('goes on where one who lives on the control thread is silent for too long', async () => {
  await using pod = await createLivePod({ npus: 2, workers: 2 }, undefined, { entry: ROGUE_CONTROL });
  const right = await completeAll(pod);
  pod.space.control.stop(CONTROL_ORDERS.mute);
  expect(await completeAll(pod)).toEqual(right);
  expect((await pod.stats()).control_recoveries).toMatchObject([{ reason: expect.stringMatching(RegExp(`${MUTE} has not answered for \\d{5} ms`)) }]);
  await expectNothingLeft(pod, 1);
});

it('gives up whoever comes no further while it begins: at first with an error, later for another one', async () => {
  const order = folder.file('begins.not');
  process.env[BEGINS_NOT] = order;
  try {
    writeFileSync(order, '');
    const open = (beginning_ms_max: number): Promise<LivePod> => createLivePod({ npus: 1 }, undefined, { entry: ROGUE_CONTROL, beginning_ms_max });
    const why = /control thread has not begun: for \d+\.\d s it has not run/;
    await expect(open(500)).rejects.toMatchObject({ code: 'deadline_exceeded', message: expect.stringMatching(why) });
    // Whoever is well comes further by then, on a busy machine, too.
    const beginning_ms_max = 8_000;
    await using pod = await open(beginning_ms_max);
    const right = await completeAll(pod);
    const warned: string[] = [];
    const hear = ({ message }: Error): number => warned.push(message);
    process.on('warning', hear);
    const from = (await pod.stats()).generation_tokens;
    const running = completeAll(pod);
    await untilTold(pod, from, 30);
    writeFileSync(order, '');
    await pod.killControl();
    expect(await running).toEqual(right);
    process.off('warning', hear);
    expect(warned.at(-1)).toMatch(why);
    const [recovery, ...others] = (await pod.stats()).control_recoveries;
    expect([others, existsSync(order)]).toEqual([[], false]);
    expect(recovery?.start_ms).toBeGreaterThan(beginning_ms_max);
  } finally {
    delete process.env[BEGINS_NOT];
  }
});

it('ends where one control thread after the other is lost, and says so to all', async () => {
  await using pod = await createLivePod({ npus: 1 });
  const running = pod.complete('Once upon a time', { max_tokens: 200, ignore_eos: true });
  running.catch(() => {});
  let asked: Promise<unknown> = Promise.resolve();
  for (let losses = 0; losses < 5; losses++) {
    // Each has begun, and its calls go on.
    await asked;
    const killed = pod.killControl();
    // Asked before, it may be answered.
    asked = pod.tokenize('Once upon a time');
    asked.catch(() => {});
    await killed;
  }
  const why = { code: 'worker_failed', message: expect.stringContaining('lost again and again') };
  await expect(asked).rejects.toMatchObject(why);
  await expect(running).rejects.toMatchObject({ code: 'worker_failed' });
  await expect(pod.stats()).rejects.toMatchObject(why);
  await expect(pod.complete('x')).rejects.toMatchObject({ ...why, code: 'closed' });
  await pod.close();
});

it('is recorded and told of on, each life by itself', async () => {
  const [path, routing] = [folder.file('run.trace'), folder.file('run.routing')];
  // Another run has left this one.
  writeFileSync(folder.file('run.2.routing'), '');
  const told: InspectionEvent[] = [];
  const pod = await createLivePod({ npus: 2, workers: 2, record: path, record_routing: routing, inspect: (event) => told.push(event) });
  const right = await completeAll(pod);
  const from = (await pod.stats()).generation_tokens;
  const running = completeAll(pod);
  await untilTold(pod, from, 30);
  await pod.killControl();
  expect(await running).toEqual(right);
  await expectNothingLeft(pod, 1);
  await pod.close();
  // It is cut off, and what came to the disk can be read; on Deno who writes may outlive the control thread, and then says why the trace ends.
  using cut = TraceReader.open(path);
  const acts = actsOf(cut);
  expect([...acts].length).toBeGreaterThan(100);
  const isEnded = 'Deno' in globalThis && cut.totals !== null;
  expect([cut.totals === null, acts.stopped]).toEqual(isEnded ? [false, expect.stringContaining('control thread was lost')] : [true, null]);
  // The other one is whole: who went on there, and all that came after.
  expect(expectWhole(folder.file('run.2.trace')).some(({ message }) => message?.type === 'RESUME')).toBe(true);
  using routed = TraceReader.open(folder.file('run.3.routing'));
  expect(routed.totals?.records).toBeGreaterThan(0);
  expect(new Set(told.map(({ id }) => id)).size).toBe(told.length);
  const births = told.filter(({ type, sessionId }) => type === '@xstate.actor' && sessionId === 'npu/0');
  expect(births).toHaveLength(2);
});

it('says while it has no successor that it is not well, and streams over HTTP go on', async () => {
  await using pod = await createLivePod({ npus: 2, workers: 2 });
  const server = await serve({ pod, port: 0 });
  try {
    const ask = () => askServer(server.url)('Once upon a time', { seed: 7, temperature: 1, max_tokens: 120, ignore_eos: true });
    const right = await ask();
    const from = (await pod.stats()).generation_tokens;
    const running = ask();
    await untilTold(pod, from, 20);
    await pod.killControl();
    const health = await fetch(`${server.url}/health`);
    expect([health.status, await health.text()]).toEqual([503, expect.stringMatching(/control thread was lost .* successor does not run yet/)]);
    expect(await running).toBe(right);
    // Where others leave no processor somebody is silent meanwhile.
    await expect.poll(async () => (await fetch(`${server.url}/health`)).status, { timeout: POLL_MS }).toBe(200);
  } finally {
    await server.close();
  }
});

it('is closed while it has no successor', async () => {
  const pod = await createLivePod({ npus: 1 });
  const running = pod.complete('Once upon a time', { max_tokens: 200, ignore_eos: true });
  running.catch(() => {});
  await pod.killControl();
  await pod.close();
  await expect(running).rejects.toMatchObject({ code: 'closed' });
  await expect(pod.stats()).rejects.toMatchObject({ code: 'closed' });
});

it('is closed while its successor begins and comes no further', async () => {
  const order = folder.file('begins.never');
  process.env[BEGINS_NOT] = order;
  try {
    const pod = await createLivePod({ npus: 1 }, undefined, { entry: ROGUE_CONTROL });
    const running = pod.complete('Once upon a time', { max_tokens: 200, ignore_eos: true });
    running.catch(() => {});
    writeFileSync(order, '');
    await pod.killControl();
    await expect.poll(() => existsSync(order), { timeout: POLL_MS }).toBe(false);
    const clock = monotonicClock(epoch_ms());
    await pod.close();
    // It hangs for a minute; on Deno it has 10 s.
    expect(clock.now_ms()).toBeLessThan(POLL_MS);
    await expect(running).rejects.toMatchObject({ code: 'closed' });
  } finally {
    delete process.env[BEGINS_NOT];
  }
});

it('is closed while it hangs, as soon as that is found', async () => {
  const pod = await createLivePod({ npus: 1 }, undefined, { entry: ROGUE_CONTROL, hung_ms_max: 1_000 });
  const { control } = pod.space;
  control.stop(CONTROL_ORDERS.spin);
  await expect.poll(() => control.isStopped(CONTROL_ORDERS.spins), { timeout: POLL_MS }).toBe(true);
  const asked = pod.tokenize('Once upon a time');
  // On a crowded machine that may be found before it is closed.
  await Promise.all([pod.close(), expect(asked).rejects.toMatchObject({ code: expect.stringMatching(/^(closed|deadline_exceeded)$/) })]);
});

it('answers whoever has asked something when it is closed', async () => {
  const pod = await createLivePod({ topology: 'moe-attention:domains=1x1,experts=2', workers: 2, scale_max: { attention: 2 } });
  const asked = Promise.allSettled([pod.scale({ attention: 2 })]);
  await pod.close();
  await asked;
});
