/** What replays, whatever was done to it: parts, spoilt files, walks forth and back; and where each act came from. */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { npu } from '../../actors/npu.ts';
import type { Address } from '../../src/protocol/address.ts';
import { launchDone, started, step } from '../../src/protocol/constructors.ts';
import type { Message } from '../../src/protocol/messages.ts';
import { Cast, type CastPorts, firstAct, type Witness } from '../../src/runtime/cast.ts';
import { type ActRecord, actRecord, lifeOf } from '../../src/trace/act-record.ts';
import { causalChain, consequencesOf, findAct } from '../../src/trace/act-search.ts';
import { actsOf, type Pause, type TracedAct } from '../../src/trace/acts.ts';
import { type Cut, cutTrace } from '../../src/trace/cut-trace.ts';
import { grouped } from '../../src/trace/damage.ts';
import { inspectTrace } from '../../src/trace/inspect-trace.ts';
import { Replay } from '../../src/trace/replay.ts';
import { type ReplayReport, replayTrace } from '../../src/trace/replay-trace.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { StepWalk } from '../../src/trace/step-walk.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { runs } from '../property-runs.ts';
import { draws, traceFolder } from './files.ts';
import { recordDeaths, recordPreemptions } from './recorded-runs.ts';
import { allActs, rewrite } from './rewritten.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());
const [virtual, live] = [folder.file('virtual.trace'), folder.file('live.trace')];

beforeAll(async () => {
  await recordPreemptions(virtual);
  await recordDeaths(live);
});

async function replayed(path: string): Promise<ReplayReport> {
  using reader = TraceReader.open(path);
  return await replayTrace(reader, parseRunHeader(reader.header, path));
}

describe('a replay', () => {
  it('of a part of a trace diverges nowhere, whichever part it is', async () => {
    const below = draws(5);
    for (const path of [virtual, live]) {
      using reader = TraceReader.open(path);
      const acts = allActs(path);
      const requests = [...new Set(acts.map(({ to }) => to).filter((to) => to.startsWith('request/')))];
      for (let round = 0; round < runs(8); round++) {
        const [from, to] = [below(acts.length), below(acts.length)].sort((a, b) => a - b);
        const window = round % 3 === 0 ? { from: null, to: null } : { from: { record: from ?? 0 }, to: round % 3 === 1 ? { record: to ?? 0 } : null };
        const cut: Cut = { ...window, requests: round % 2 === 0 ? [requests[below(requests.length)] ?? 'request/1'] : [] };
        const part = folder.file('part.trace');
        const report = await cutTrace(reader, part, cut, { overwrite: true }).catch((error: Error) => error);
        // Where the request does not act within the window.
        if (report instanceof Error) expect(report.message).toContain('nothing acts there');
        else expect(await replayed(part), JSON.stringify(cut)).toMatchObject({ outcome: 'reproduced', acts: report.acts });
      }
    }
  });

  it('of a spoilt or cut-off file ends where the damage is, and all before it is the same', async () => {
    const whole = readFileSync(virtual);
    const below = draws(9);
    using reader = TraceReader.open(virtual);
    const { header } = reader;
    const headerBytes = 20 + Buffer.byteLength(JSON.stringify(header));
    for (let round = 0; round < runs(40); round++) {
      const at = headerBytes + below(whole.length - headerBytes);
      const spoilt = Buffer.from(round % 2 === 0 ? whole.subarray(0, at) : whole);
      if (round % 2 === 1) spoilt[at] = (spoilt[at] ?? 0) ^ (1 << below(8));
      const path = folder.file('spoilt.trace');
      writeFileSync(path, spoilt);
      const report = await replayed(path);
      expect(report, `byte ${at}`).toMatchObject({ outcome: 'incomplete', divergence: null, damage: { message: expect.stringMatching(/byte|ends without/) } });
    }
  });

  it('names the act that is not as it was, whatever of it is another', async () => {
    const acts = allActs(virtual);
    const at = acts.findIndex(({ to, message }) => to.startsWith('task/') && message?.type === 'DECODING');
    const changes: readonly [string, Partial<ActRecord>][] = [
      ['it is decoding afterwards, and was asleep', { state: 'asleep' }],
      ['the message is expected now, and was not', { is_expected: false }],
      ['command 1 of 1 is another', { commands: [1] }],
      ['it asks for 1 thing now, and asked for 0', { commands: [] }],
      ['it asks for 1 thing now, and asked for 3', { commands: [...(acts[at]?.commands ?? []), 2, 3] }],
    ];
    for (const [difference, change] of changes) {
      const path = rewrite(virtual, folder.file(`${difference}.trace`), { act: (act, index) => (index === at ? { ...act, ...change } : act) });
      const { outcome, divergence } = await replayed(path);
      expect(outcome).toBe('diverged');
      expect(divergence).toMatchObject({
        record: at,
        actor: acts[at]?.to,
        state: 'prefilling',
        message: { type: 'DECODING' },
        difference,
        chain: expect.arrayContaining([expect.objectContaining({ to: 'dp-group/0', type: 'STEP_DONE' })]),
      });
      // An expected command whose words the trace has by what it led to.
      if (change.commands?.length === 0) expect(divergence).toMatchObject({ expected: null, actual: { name: 'send', message: { type: 'TASK_STREAMING' } } });
    }
  });
});

describe('a replay that computes', () => {
  it('takes the result of a thread that was given up for no other’s, however late it wakes', () => {
    const records: ActRecord[] = [];
    const living = (thread: number): ((message: Message, from: Address) => void) => {
      const cast = new Cast(
        silent((act) => records.push(actRecord(act, 1))),
        firstAct(thread, 1),
      );
      cast.spawn('npu/0', { machine: npu, input: { self: 'npu/0', dp_group: 'dp-group/0' } });
      cast.deliver({ to: 'npu/0', from: 'npu/0', message: started(), cause: 0 });
      return (message, from) => cast.deliver({ to: 'npu/0', from, message, cause: 0 });
    };
    const found = (token: number): Message => launchDone(1, [{ token, logprobs: null, more: [], drafts: [], prompt_logprobs: null, error: null }], token, 0, 0);
    const hung = living(2);
    hung(step({ step: 1, after: 0, entries: [], detach: [] }), 'dp-group/0');
    const successor = living(3);
    successor(step({ step: 1, after: 0, entries: [], detach: [] }), 'dp-group/0');
    hung(found(7), 'npu/0');
    successor(found(9), 'npu/0');
    let launches = 0;
    const replay = new Replay({
      at: () => {},
      begin: () => {},
      heard: () => {},
      transfer: () => {},
      launch: (npu, work) => (work.kind === 'step' ? [{ npu, message: found(++launches === 1 ? 7 : 9) }] : []),
    });
    expect(records.map((record, index) => replay.feed(record, index))).toEqual(records.map(() => null));
    expect(replay.launches).toBe(1);
  });
});

const silent = (witness: Witness): CastPorts => ({
  birthOf: () => null,
  hands: new Map(),
  ...{ send: () => {}, startTimer: () => {}, cancelTimer: () => {}, cancelTimers: () => {}, launch: () => {}, transfer: () => {}, onUnexpected: () => {} },
  witness,
});

describe('a trace that lacks an act', () => {
  const lacking = (path: string, isLost: (act: ActRecord, index: number) => boolean): string =>
    rewrite(path, folder.file('lacking.trace'), { act: (act, index) => (isLost(act, index) ? null : act) });
  const inspected = (path: string): void => {
    for (const _event of inspectTrace(path));
  };

  it('is never the same: the replay names the thread and the number, wherever it was', async () => {
    const below = draws(6);
    for (const path of [virtual, live]) {
      const acts = allActs(path);
      for (let round = 0; round < runs(8); round++) {
        const lost = below(acts.length);
        const { thread, number } = acts[lost] as ActRecord;
        // Of the last act of a thread nobody knows, but by what it led to.
        const isKnown = acts.some(
          (act) => (lifeOf(act) === lifeOf(acts[lost] as ActRecord) && act.number > number) || (act.cause === number && act.cause_thread === thread),
        );
        const lacks = lacking(path, (_, index) => index === lost);
        const report = await replayed(lacks);
        if (!isKnown) continue;
        const name = grouped(number);
        expect(report, `record ${lost}`).toMatchObject({
          outcome: 'incomplete',
          divergence: null,
          missing: expect.stringMatching(`\\bact ${name} of thread ${thread} is missing`),
        });
        expect(() => inspected(lacks)).toThrow(`act ${name} of thread ${thread} is missing`);
      }
    }
  });

  it('is noticed where it lacks all of a thread, or has two acts the other way round', async () => {
    const acts = allActs(live);
    const thread = Math.max(...acts.map((act) => act.thread));
    expect(await replayed(lacking(live, (act) => act.thread === thread))).toMatchObject({
      outcome: 'incomplete',
      missing: expect.stringMatching(new RegExp(`^acts 1 to [\\d,]+ of thread ${thread} are missing: what they led to is there$`)),
    });
    const inOrder = allActs(virtual);
    const swapped = new Map([inOrder[101], inOrder[100]].map((act, at) => [100 + at, act]));
    const path = rewrite(virtual, folder.file('swapped.trace'), { act: (act, index) => swapped.get(index) ?? act });
    expect(await replayed(path)).toMatchObject({ outcome: 'incomplete', missing: 'step 100: act 101 of thread 0 is missing before act 102' });
  });

  it('is right to lack it where it is a part of a run', async () => {
    const part = rewrite(virtual, folder.file('part-of.trace'), {
      header: (header) => ({ ...header, cut: {} }),
      act: (act) => (act.message?.type === 'TOKENS' ? null : act),
    });
    expect(await replayed(part)).toMatchObject({ outcome: 'reproduced', missing: null });
  });
});

describe('a walk', () => {
  it('sees at a step what it saw there before, whichever way it came', async () => {
    using reader = TraceReader.open(live);
    const walk = new StepWalk(reader, parseRunHeader(reader.header, live));
    const seen = new Map<number, string>();
    const below = draws(3);
    for (let round = 0; round < 30; round++) {
      const step = round < 10 ? 30 * round : 30 * below(10);
      const { traced: _, ...stop } = (await walk.goTo(step)) ?? { traced: null };
      const look = JSON.stringify([stop, walk.look('task-executor/0')]);
      expect(look, `step ${step}`).toBe(seen.get(step) ?? look);
      seen.set(step, look);
    }
    expect(seen.size).toBe(10);
  });
});

describe('causes and consequences', () => {
  it('of every act are found, also where the trace has them the other way round', async () => {
    for (const path of [virtual, live]) {
      using reader = TraceReader.open(path);
      const all = [...actsOf(reader)];
      const below = draws(4);
      for (let round = 0; round < runs(12); round++) {
        const traced = all[below(all.length)] as TracedAct;
        const { thread, number } = traced.act;
        expect((await findAct(reader, { thread, number }, all.length))?.index).toBe(traced.index);
        const { acts } = await causalChain(reader, traced);
        let later = traced.act;
        for (const { act } of acts) {
          expect([act.thread, act.number]).toEqual([later.cause_thread, later.cause]);
          later = act;
        }
        const consequences = await consequencesOf(reader, traced);
        expect(consequences.map(({ index }) => index)).toEqual(
          all.filter(({ act }) => act.cause !== 0 && act.cause_thread === thread && act.cause === number).map(({ index }) => index),
        );
      }
    }
  });

  it('of what a step led to are what launched that very step, also where it was launched while another ran; and of a stop string its tokens', () => {
    let stops = 0;
    for (const path of [virtual, live]) {
      using reader = TraceReader.open(path);
      const causes = new Map<string, string>();
      let ahead = 0;
      for (const { act } of actsOf(reader)) {
        const { thread, number, to, from, state, message } = act;
        const cause = causes.get(`${act.cause_thread}/${act.cause}`);
        if (message?.type === 'STEP') causes.set(`${thread}/${number}`, `${to} ${message.plan.step}`);
        if (message?.type === 'TOKENS') causes.set(`${thread}/${number}`, to);
        if (message?.type === 'LAUNCH_DONE' || message?.type === 'LAUNCH_FAILED') {
          expect(cause).toBe(`${to} ${message.step}`);
          if (state === 'busy') ahead++;
        }
        if (message?.type === 'STOP_FOUND') {
          expect(cause).toBe(from);
          stops++;
        }
      }
      expect(ahead).toBeGreaterThan(0);
    }
    expect(stops).toBeGreaterThan(0);
  });

  it('are sought with a pause now and then, however far back, so that a signal is heard meanwhile', async () => {
    using reader = TraceReader.open(virtual);
    const all = [...actsOf(reader)];
    const traced = all.at(-1) as TracedAct;
    const absent = { ...traced, act: { ...traced.act, cause: 2 ** 33 } };
    let pauses = 0;
    const pause: Pause = () => {
      pauses++;
      return undefined;
    };
    expect(await causalChain(reader, absent, pause)).toEqual({ acts: [], isWhole: false });
    expect(pauses).toBeGreaterThanOrEqual(all.length);
    const stop: Pause = () => Promise.reject(new Error('interrupted'));
    await expect(causalChain(reader, traced, stop)).rejects.toThrow('interrupted');
  });
});
