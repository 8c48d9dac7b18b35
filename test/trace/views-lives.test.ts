/** The lives of requests as told from a trace, against what the trace's messages say by themselves. */
import { copyFileSync, statSync, truncateSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { idOf } from '../../src/protocol/address.ts';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { actsOf } from '../../src/trace/acts.ts';
import { inCausalOrder } from '../../src/trace/causal-order.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import type { PhaseSlice } from '../../src/trace/views/choice-track.ts';
import { lifeLines } from '../../src/trace/views/life-text.ts';
import { PHASES, type RequestLife, sumOf } from '../../src/trace/views/request-life.ts';
import { RequestLives } from '../../src/trace/views/request-lives.ts';
import { openRig } from '../system/rig.ts';
import { traceFolder } from './files.ts';
import { recordDeaths, recordHandoffs, recordLive, recordLiveHandoffs, recordPreemptions, recordVirtual } from './recorded-runs.ts';
import { rewrite } from './rewritten.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

type Told = { readonly acts: readonly ActRecord[]; readonly lives: readonly RequestLife[]; readonly slices: readonly PhaseSlice[] };

function told(path: string): Told {
  using reader = TraceReader.open(path);
  const slices: PhaseSlice[] = [];
  const lives = new RequestLives(parseRunHeader(reader.header, path).options, { keepsEvents: () => true, onPhase: (slice) => slices.push(slice) });
  const acts = [...inCausalOrder(actsOf(reader))].map(({ act }) => act);
  const ended = acts.flatMap((act) => lives.feed(act) ?? []);
  const last_us = Math.max(...acts.map(({ time_us }) => time_us));
  return { acts, lives: [...ended, ...lives.unfinished(last_us)], slices };
}

/** What the messages say of a request, without any of the views. */
function saidOf(acts: readonly ActRecord[], id: number) {
  const of = acts.filter(({ to }) => to === `request/${id}` || /^(?:frontend|output)\//.test(to));
  const submit = of.find(({ to, message }) => to === `request/${id}` && message?.type === 'SUBMIT');
  const ended = of.find(({ message }) => message?.type === 'REQUEST_ENDED' && idOf(message.request) === id);
  const whileOpen = of.slice(0, ended === undefined ? of.length : of.indexOf(ended));
  // Those that a lost worker had told of may be computed again.
  const tokens = whileOpen.flatMap(({ message }) =>
    message?.type === 'TOKENS'
      ? message.tokens.filter(({ request, token }) => request === id && token >= 0).map(({ choice, index }) => `${choice} ${index}`)
      : [],
  );
  return { received_us: submit?.time_us, ended_us: ended?.time_us, tokens: new Set(tokens).size };
}

describe.each([
  ['a virtual run', recordVirtual],
  ['a virtual run with preemptions', recordPreemptions],
  ['a virtual run of prefill and decode apart', recordHandoffs],
  ['a live run of prefill and decode apart', recordLiveHandoffs],
  ['a live run', recordLive],
  ['a live run whose workers die', recordDeaths],
])('of %s', (name, record) => {
  const path = folder.file(`${name.replaceAll(' ', '-')}.trace`);
  let run: Told;
  beforeAll(async () => {
    await record(path);
    run = told(path);
  });

  it('each request has one life, from its SUBMIT to its REQUEST_ENDED, with all of its tokens', () => {
    const submitted = run.acts.flatMap(({ to, message }) => (message?.type === 'SUBMIT' ? [to] : []));
    expect(run.lives.map(({ request }) => request).toSorted()).toEqual(submitted.toSorted());
    expect(submitted.length).toBeGreaterThan(10);
    for (const { request, received_us, ended_us, tokens } of run.lives) {
      const said = saidOf(run.acts, idOf(request));
      expect({ request, received_us, tokens }).toEqual({ request, received_us: said.received_us, tokens: said.tokens });
      // Clocks of threads differ by a little, and time never goes back.
      expect(ended_us).toBeGreaterThanOrEqual(said.ended_us ?? Number.NaN);
      expect(ended_us - (said.ended_us ?? Number.NaN)).toBeLessThan(1_000);
    }
  });

  it('the parts of each breakdown sum to the total exactly, and so do the slices', () => {
    for (const { request, total_us, breakdown_us, choices, received_us } of run.lives) {
      expect(sumOf(breakdown_us)).toBe(total_us);
      expect(PHASES.every((phase) => breakdown_us[phase] >= 0)).toBe(true);
      for (const { choice, ended_us, breakdown_us } of choices) {
        expect(sumOf(breakdown_us)).toBe(ended_us - received_us);
        const slices = run.slices.filter((slice) => slice.request === idOf(request) && slice.choice === choice);
        expect(slices.reduce((sum, { from_us, to_us }) => sum + to_us - from_us, 0)).toBe(ended_us - received_us);
        for (const [index, { from_us }] of slices.entries()) expect(from_us).toBe(slices[index - 1]?.to_us ?? received_us);
      }
    }
  });

  it('a step lasts for each of its sequences as long as for its NPU', () => {
    const steps = run.slices.flatMap(({ share, from_us, to_us }) => (share?.outcome === 'done' ? [to_us - from_us - share.duration_us] : []));
    expect(steps.length).toBeGreaterThan(10);
    expect(steps.filter((difference_us) => difference_us !== 0)).toEqual([]);
  });

  it('each gap between tokens is where its parts say', () => {
    for (const { slowest_gaps } of run.lives) for (const { duration_us, breakdown_us } of slowest_gaps) expect(sumOf(breakdown_us)).toBe(duration_us);
  });

  it('each step that computed for a request is in its events once', () => {
    const planned = run.acts.flatMap(({ to, message }) => (message?.type === 'STEP' ? message.plan.entries.map(() => to) : []));
    const inEvents = run.lives.flatMap(({ events }) => events.filter(({ what }) => what === 'step'));
    // Steps that die with their worker end nobody's wait, and a request may be over before its last step is.
    const isSure = name !== 'a live run whose workers die';
    if (isSure) expect(inEvents.length).toBeGreaterThan(0.9 * planned.length);
    expect(inEvents.length).toBeLessThanOrEqual(planned.length);
  });

  it('the text of each life names its request, and its shares are all of it', () => {
    for (const life of run.lives) {
      const lines = lifeLines(life, true);
      // Whoever is slow on a crowded machine may be given up, and what it had goes on under another name.
      expect(lines[0]).toMatch(new RegExp(`^${[life.request, ...life.moved_to].join(', then ')} `));
      const shares = lines.flatMap((line) => /^ {2}[a-zKV ]+[\d.]+ ms +([\d.]+) % {2}█+$/.exec(line)?.[1] ?? []).map(Number);
      expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(100, 0);
      expect(lines.join('\n')).not.toMatch(/undefined|NaN|null/);
    }
  });
});

describe('the runs of these tests', () => {
  it('hold what they are for', () => {
    const endings = (name: string) =>
      new Set(told(folder.file(name)).lives.flatMap(({ ending, choices }) => [ending, ...choices.map((choice) => choice.ending)]));
    expect(endings('a-virtual-run.trace')).toEqual(new Set(['length', 'stop', 'stop_string', 'cancelled', 'finished']));
    const deaths = 'a-live-run-whose-workers-die.trace';
    const { lives: lost } = told(folder.file(deaths));
    // What was lost with a worker is computed elsewhere.
    const failed = lost.filter(({ ending, choices }) => [ending, ...choices.map((choice) => choice.ending)].includes('failed'));
    expect(failed.map((life) => lifeLines(life, true))).toEqual([]);
    expect(lost.some(({ events }) => events.some((event) => event.what === 'goes_on' && event.tokens > 0))).toBe(true);
    expect(lost.some(({ events }) => events.some((event) => event.what === 'step' && event.outcome === 'lost'))).toBe(true);
    for (const apart of ['a-virtual-run-of-prefill-and-decode-apart.trace', 'a-live-run-of-prefill-and-decode-apart.trace']) {
      const lives = told(folder.file(apart)).lives;
      for (const phase of ['transferring', 'deferred', 'receiving'] as const) expect(lives.some(({ breakdown_us }) => breakdown_us[phase] > 0)).toBe(true);
    }
    const { lives } = told(folder.file('a-virtual-run-with-preemptions.trace'));
    expect(lives.some(({ choices }) => choices.some(({ preemptions, breakdown_us }) => preemptions > 0 && breakdown_us.recompute > 0))).toBe(true);
    expect(lives.some(({ events }) => events.some((event) => event.what === 'scheduled' && event.passed_over.kv_blocks))).toBe(true);
  });
});

describe('of a run of prefill and decode apart, a life', () => {
  const lives = (): readonly RequestLife[] => told(folder.file('a-virtual-run-of-prefill-and-decode-apart.trace')).lives;
  const alone = (): RequestLife => lives().find(({ choices, ending }) => choices.length === 1 && ending === 'length') as RequestLife;

  const HANDOVER = ['prefilled', 'decode_chosen', 'deferred', 'receiving', 'kv_received'];

  it('goes through the handover in order, each part of it once, and ends when decode does', () => {
    const order = [...HANDOVER, 'choice_ended', 'ended'];
    expect(alone().events.flatMap(({ what }) => (order.includes(what) ? [what] : []))).toEqual(order);
    const { choices, events } = alone();
    const [prefill, decode] = events.flatMap((event) => (event.what === 'placed' ? [event.group] : []));
    expect(choices[0]?.npus).toEqual([prefill, decode]);
    expect(events.find(({ what }) => what === 'receiving')).toMatchObject({ from: prefill, group: decode });
    const steps = events.filter((event) => event.what === 'step');
    expect(new Set(steps.map(({ kind, group }) => `${kind} ${group}`))).toEqual(new Set([`prefill ${prefill}`, `decode ${decode}`]));
  });

  it('says in words who gave its KV to whom, and how long that took', () => {
    const text = lifeLines(alone(), true).join('\n');
    expect(text).toMatch(/prefilled {6}its first token is out; dp-group\/[01] lends 1 KV block to whoever goes on/);
    expect(text).toMatch(/decode chosen {2}task-executor\/[23]/);
    expect(text).toMatch(/handed over {4}to npu\/[23], where (?:no step|step \d+) runs/);
    expect(text).toMatch(/receiving {6}1 KV block from dp-group\/[01] to dp-group\/[23], for which there was room (?:at once|after [\d.]+ ms)/);
    expect(text).toMatch(/received {7}after [\d.]+ ms; it decodes at npu\/[23]/);
    expect(text).toMatch(/^ {2}transferring +[\d.]+ ms/m);
  });

  it('of one whose first token is its last has no handover', async () => {
    const path = folder.file('one-token.trace');
    {
      await using pod = await createPod({ clock: 'virtual', kernels: 'hash', seed: 7, topology: 'pd:prefill=1,decode=1', record: path });
      await pod.complete([1, 86, 1461], { max_tokens: 1, n: 2 });
    }
    const [life] = told(path).lives;
    expect(life?.choices.map(({ tokens, ending }) => [tokens, ending])).toEqual([
      [1, 'length'],
      [1, 'length'],
    ]);
    const whats = new Set(life?.events.map(({ what }) => what));
    expect(['step', 'choice_ended', ...HANDOVER].filter((what) => whats.has(what as never))).toEqual(['step', 'choice_ended']);
  });
});

describe('of a DP group of several ranks, a life', () => {
  it('has each step once, named by the group, which is said to be on its NPUs', async () => {
    const path = folder.file('ranks.trace');
    await recordVirtual(path, { topology: 'pd:prefill=1xdp1tp2,decode=1xdp2', npus: undefined, workers: 2 }, 4);
    const { lives, acts } = told(path);
    const planned = acts.flatMap(({ to, message }) => (message?.type === 'STEP' && to !== 'npu/1' ? message.plan.entries : []));
    const steps = lives.flatMap(({ events }) => events.filter((event) => event.what === 'step'));
    expect(steps.length).toBeGreaterThan(0.8 * planned.length);
    expect(steps.length).toBeLessThanOrEqual(planned.length);
    expect(new Set(steps.map(({ kind, site, npu }) => `${kind} at ${site}, npu/${npu}`))).toEqual(
      new Set(['prefill at dp-group/0, npu/0', 'decode at npu/2, npu/2', 'decode at npu/3, npu/3']),
    );
    expect(lifeLines(lives[0] as RequestLife, true).join('\n')).toContain('on dp-group/0: npu/0 and npu/1');
  });
});

describe('a request that another job executor takes over', () => {
  it('has one life under its first name, which goes on behind the tokens that it had', async () => {
    const path = folder.file('moved.trace');
    {
      await using rig = await openRig({ npus: 2, workers: 2, job_executors: 2, record: path });
      const { promise: hasBegun, resolve } = Promise.withResolvers<void>();
      const calls = Array.from({ length: 12 }, async (_, seed) => {
        for await (const _chunk of rig.pod.generate([1, 86, 1461, 613 + seed], { max_tokens: 40, seed, ignore_eos: true })) resolve();
      });
      await hasBegun;
      rig.killWorker(rig.control.directory.hostOf('job-executor/1'));
      await Promise.all(calls);
    }
    const { lives, acts } = told(path);
    expect(lives).toHaveLength(12);
    expect(lives.every(({ ending }) => ending !== 'open' && ending !== 'failed')).toBe(true);
    const resumed = acts.flatMap(({ to, message }) => (message?.type === 'RESUME' ? [to] : []));
    expect(resumed.length).toBeGreaterThan(0);
    expect(lives.flatMap(({ moved_to }) => moved_to).toSorted()).toEqual(resumed.toSorted());
    const moved = lives.find(({ request, moved_to }) => moved_to.length > 0 && !resumed.includes(request)) as RequestLife;
    expect(lifeLines(moved, true).join('\n')).toMatch(/goes on +(?:choice \d: )?as request\/\d+, behind \d+ tokens?: its job executor was lost/);
  });
});

describe('a request whose worker dies in the moment in which it is over', () => {
  it.each([
    ['all of it has come', 'length'],
    ['it is cancelled', 'cancelled'],
  ])('has not failed: %s', async (_when, ending) => {
    const path = folder.file(`${ending}-when-lost.trace`);
    {
      await using pod = (await createPod({ clock: 'virtual', kernels: 'hash', npus: 1, record: path })) as VirtualPod;
      const abort = new AbortController();
      const call = async (): Promise<void> => {
        for await (const { finish_reason } of pod.generate([1, 2, 3], { max_tokens: 5, ignore_eos: true, signal: abort.signal })) {
          if (ending === 'length' && finish_reason === null) continue;
          if (ending === 'cancelled') abort.abort();
          pod.control.workers.lose(0, 'the test killed it');
        }
      };
      if (ending === 'cancelled') await expect(call()).rejects.toMatchObject({ code: 'cancelled' });
      else await call();
    }
    const [life] = told(path).lives;
    // Its task has: the news that it was over was lost with its worker.
    expect(life?.events.flatMap((event) => (event.what === 'choice_ended' ? event.ending : []))).toEqual(['failed']);
    expect([life?.ending, life?.choices[0]?.ending]).toEqual([ending, ending]);
  });
});

describe('a trace that ends too early', () => {
  it('has lives that had not ended, whose parts sum to what is there', () => {
    const path = folder.file('short.trace');
    // Of a live one nobody knows what is in which half: threads that begin slowly fill pages.
    copyFileSync(folder.file('a-virtual-run.trace'), path);
    truncateSync(path, Math.floor(statSync(path).size / 2));
    const { lives } = told(path);
    const open = lives.filter(({ ending }) => ending === 'open');
    expect(open.length).toBeGreaterThan(0);
    for (const { total_us, breakdown_us, ended_us, received_us } of open) {
      expect(sumOf(breakdown_us)).toBe(total_us);
      expect(total_us).toBe(ended_us - received_us);
    }
  });
});

describe('of a run whose prompts begin alike, a life', () => {
  const prompt = Array.from({ length: 100 }, (_, index) => index + 1);

  /** Three choices of one prompt come while a step runs: the first is computed, then the others, which were left out of the step planned meanwhile too. */
  async function toldChoices(name: string, options: PodOptions): Promise<{ readonly told: Told; readonly life: RequestLife }> {
    const path = folder.file(name);
    {
      await using pod = await createPod({ clock: 'virtual', kernels: 'hash', seed: 3, npus: 1, ...options, record: path });
      const other = pod.complete([1, 2, 3], { max_tokens: 60, ignore_eos: true });
      let more: Promise<unknown> | null = null;
      for await (const _ of pod.generate([9, 9], { max_tokens: 12, ignore_eos: true }))
        more ??= pod.complete(prompt, { n: 3, max_tokens: 6, ignore_eos: true });
      await Promise.all([other, more]);
    }
    const all = told(path);
    return { told: all, life: all.lives.find(({ prompt_tokens }) => prompt_tokens === prompt.length) as RequestLife };
  }

  const scheduledOf = ({ events }: RequestLife) => events.filter((event) => event.what === 'scheduled');

  it('says that a choice waited for another to compute its prompt, and how much of it was cached', async () => {
    const { life } = await toldChoices('alike.trace', {});
    expect(scheduledOf(life).map(({ passed_over, cached_tokens }) => [passed_over, cached_tokens])).toEqual([
      [{}, 0],
      [{ prefix: 2, kv_blocks: 1 }, 99],
      [{ prefix: 2, kv_blocks: 1 }, 99],
    ]);
    const lines = lifeLines(life, true).filter((line) => line.includes('scheduled'));
    expect(lines[0]).not.toContain('cached');
    expect(lines[1]).toMatch(/; left out of 2 steps: another computed its prefix at the time.*; 99 tokens of its prompt were cached$/);
  });

  it('names KV blocks where they are why, also where another computes the same', async () => {
    const { life } = await toldChoices('apart.trace', { prefix_caching: false, kv_blocks: 12 });
    const [first, second, ...others] = scheduledOf(life).map(({ passed_over, cached_tokens }) => [...Object.keys(passed_over), cached_tokens]);
    expect([first, second]).toEqual([[0], ['kv_blocks', 0]]);
    expect(others.flat()).not.toContain('prefix');
  });

  it('says each time that it is scheduled, also after a preemption that its task has not heard of, with its prefix still there', async () => {
    const path = folder.file('long-prefixes.trace');
    {
      await using pod = await createPod({ clock: 'virtual', kernels: 'hash', seed: 3, npus: 1, kv_blocks: 9, record: path });
      const prompts = [1, 2, 3].map((first) => Array.from({ length: 40 }, (_, index) => first + index));
      await Promise.all(prompts.map((prompt) => pod.complete(prompt, { max_tokens: 60, ignore_eos: true })));
    }
    const unheard = rewrite(path, folder.file('unheard.trace'), { act: (act) => (act.message?.type === 'PREEMPTED' ? null : act) });
    for (const { acts, lives } of [told(path), told(unheard)]) {
      const attached = acts.flatMap(({ message }) => (message?.type === 'STEP' ? message.plan.entries.filter(({ attach }) => attach !== null) : []));
      expect(attached.some(({ start, output }) => start > 0 && output.length > 0)).toBe(true);
      const said = lives.flatMap(scheduledOf).toSorted((a, b) => a.at_us - b.at_us);
      expect(said.map(({ cached_tokens }) => cached_tokens)).toEqual(attached.map(({ start, attach }) => Math.min(start, attach?.prompt.length ?? 0)));
    }
  });
});
