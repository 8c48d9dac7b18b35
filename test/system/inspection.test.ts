/** Pods under XState's own tools: what `@statelyai/inspect` 0.7.2 takes, of live pods, virtual ones and recorded runs; and looking on changes nothing. */

import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { createActor, createMachine } from 'xstate';
import * as z from 'zod';
import { expert } from '../../actors/expert.ts';
import { createPod, type InspectionEvent, inspectTrace, type Pod, type PodOptions } from '../../src/index.ts';
import { loaded } from '../../src/protocol/constructors.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { cases } from '../property-runs.ts';
import { traceFolder } from '../trace/files.ts';
import { sleep, withPod } from './pods.ts';
import { openRig } from './rig.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

/** As `dist/index.d.mts` of @statelyai/inspect 0.7.2 declares them; of XState's snapshots, what an inspector shows. */
const session = { rootId: z.string(), sessionId: z.string(), createdAt: z.string().regex(/^\d+$/), id: z.string(), _version: z.literal('0.7.2') };
const message = z.looseObject({ type: z.string() });
const snapshot = z.looseObject({ status: z.enum(['active', 'done']), output: z.undefined(), error: z.undefined() });
const statelyEvent = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('@xstate.actor'), ...session, name: z.string(), parentId: z.string().optional(), definition: z.string(), snapshot }),
  z.strictObject({ type: z.literal('@xstate.event'), ...session, sourceId: z.string().optional(), event: message }),
  z.strictObject({ type: z.literal('@xstate.snapshot'), ...session, event: message, snapshot }),
]);

/** Thousands of events are compared at once, for which toEqual takes seconds: it is asked where they differ. */
function expectEqual(found: unknown, expected: unknown): void {
  if (!isDeepStrictEqual(found, expected)) expect(found).toEqual(expected);
}

/** Each is of the protocol, is JSON, and speaks of actors that were registered before. */
function expectProtocol(events: readonly InspectionEvent[]): void {
  const registered = new Set<string>();
  const early = events.filter((event) => {
    statelyEvent.parse(event);
    const parent = event.type === '@xstate.actor' ? event.parentId : event.type === '@xstate.event' ? event.sourceId : undefined;
    const named = [parent, event.type === '@xstate.actor' ? undefined : event.sessionId];
    if (event.type === '@xstate.actor') registered.add(event.sessionId);
    return named.some((name) => name !== undefined && !registered.has(name));
  });
  expect(early).toEqual([]);
  expectEqual(JSON.parse(JSON.stringify(events)), events);
  expect(new Set(events.map(({ id }) => id)).size).toBe(events.length);
}

/** What sends and is sent to, and is no machine. */
const isHand = (actor: string): boolean => /^(?:frontend|output)\//.test(actor);

/** Of one actor: what was told, shortly. */
const lifeOf = (events: readonly InspectionEvent[], actor: string): string[] =>
  events.flatMap((event) => {
    if (event.sessionId !== actor) return [];
    const type = event.type.slice('@xstate.'.length);
    return [event.type === '@xstate.actor' ? type : `${type} ${event.event.type}`];
  });

const use = async (pod: Pod, calls = 5): Promise<number[][]> => {
  const ask = (index: number) => pod.complete([1, 86, 1461, 613 + index], { max_tokens: 6 + index, seed: index, ignore_eos: true, n: 1 + (index % 2) });
  const completions = await Promise.all(Array.from({ length: calls }, (_, index) => ask(index)));
  return completions.flatMap(({ choices }) => choices.map(({ token_ids }) => [...token_ids]));
};

const PODS = [
  { clock: 'virtual', npus: 2, workers: 2 },
  { clock: 'live', npus: 2, workers: 2 },
] as const satisfies PodOptions[];

describe.each(PODS)('an inspected pod, %o', (options) => {
  const path = folder.file(`${options.clock}.trace`);

  it('tells what its actors do in Stately’s protocol, with its own tokens; and its trace tells the same', async () => {
    const events: InspectionEvent[] = [];
    const tokens = await withPod({ ...options, record: path, inspect: (event) => events.push(event) }, use);
    expectProtocol(events);
    const replayed = [...inspectTrace(path)];
    expectProtocol(replayed);
    // Threads are told of in another order, each in its own; and a trace knows no time of day.
    const ofActors = (all: readonly InspectionEvent[]): Map<string, unknown[]> =>
      Map.groupBy(
        all.map((event) => ({ ...event, createdAt: null, id: null })),
        ({ sessionId }) => sessionId,
      );
    const [told, again] = [ofActors(events), ofActors(replayed)];
    expect([...again.keys()].toSorted()).toEqual([...told.keys()].toSorted());
    for (const [actor, life] of told) if (!isHand(actor)) expectEqual(again.get(actor), life);
    expect(tokens).toEqual(await withPod({ ...options, clock: 'virtual' }, use));
  });
});

describe('an inspected trace', () => {
  it('that does not hold its whole run tells what it holds, then that this is not all', async () => {
    const path = folder.file('long.trace');
    await withPod({ clock: 'virtual', kernels: 'hash', record: path }, (pod) => use(pod, 40));
    const whole = [...inspectTrace(path)];
    writeFileSync(folder.file('cut.trace'), readFileSync(path).subarray(0, statSync(path).size * 0.7));
    const events: InspectionEvent[] = [];
    expect(() => {
      for (const event of inspectTrace(folder.file('cut.trace'))) events.push(event);
    }).toThrow(expect.objectContaining({ code: 'invalid_trace', message: expect.stringContaining('cut.trace') }));
    expect(events.length).toBeGreaterThan(1_000);
    expectEqual(events, whole.slice(0, events.length));
  });
});

describe('an inspected pod', () => {
  it('tells of one actor in XState’s order', async () => {
    const events: InspectionEvent[] = [];
    await withPod({ clock: 'virtual', kernels: 'hash', inspect: (event) => events.push(event) }, (pod) => use(pod, 1));
    const hosted: string[] = [];
    const actor = createActor(expert, {
      input: { self: 'expert/1.0' },
      inspect: ({ type, ...event }) => {
        if (['@xstate.actor', '@xstate.event', '@xstate.snapshot'].includes(type))
          hosted.push([type.slice('@xstate.'.length), ...('event' in event ? [event.event.type] : [])].join(' '));
      },
    });
    actor.start();
    actor.send(loaded(0, 1, 1));
    expect(lifeOf(events, 'expert/1.0').slice(0, hosted.length)).toEqual(hosted);
    expect(lifeOf(events, 'request/1').slice(0, 5)).toEqual(['actor', 'event SUBMIT', 'snapshot SUBMIT', 'event ADMITTED', 'snapshot ADMITTED']);
  });

  it('gives machines that can be drawn, in which every snapshot has its place', async () => {
    const events: InspectionEvent[] = [];
    await withPod({ clock: 'virtual', kernels: 'hash', inspect: (event) => events.push(event) }, use);
    const machines = new Map<string, ReturnType<typeof createMachine>>();
    for (const event of events) {
      if (event.type === '@xstate.actor') machines.set(event.sessionId, createMachine(JSON.parse(event.definition)));
      const machine = machines.get(event.sessionId);
      if (event.type === '@xstate.event' || machine === undefined || isHand(event.sessionId)) continue;
      const { value, context } = event.snapshot as unknown as { value: never; context: never };
      expect(machine.resolveState({ value, context }).value).toEqual(value);
    }
    const drawn = new Set([...machines].map(([actor, { id, states }]) => `${actor.split('/')[0]} ${id} ${Object.keys(states).join(' ')}`));
    expect(drawn).toContain('request request born received withdrawing held finished failed cancelled');
    expect(drawn.size).toBe(11);
  });

  it('is the same run as one that is not, on a virtual clock', async () => {
    const hashes = [];
    for (const inspect of [undefined, () => {}]) {
      const record = folder.file(`hash-${hashes.length}.trace`);
      await withPod({ clock: 'virtual', kernels: 'hash', npus: 2, record, inspect }, use);
      using reader = TraceReader.open(record);
      hashes.push(reader.totals?.hash);
    }
    expect(hashes[0]).toBe(hashes[1]);
  });

  it('waits for whoever looks on slowly: nothing is left out', async () => {
    const events: InspectionEvent[] = [];
    const inspect = (event: InspectionEvent): void => {
      const until = performance.now() + 0.1;
      while (performance.now() < until);
      events.push(event);
    };
    const pod = await createPod({ inspect });
    await use(pod, 4);
    await pod.close();
    expectProtocol(events);
    const life = lifeOf(events, 'job-executor/0').filter((told) => !told.endsWith(' PING'));
    expect(life.at(-1)).toBe('snapshot DRAIN');
  });

  it('tells of workers that die, and of their successors', async () => {
    const events: InspectionEvent[] = [];
    await using rig = await openRig({ npus: 2, workers: 2, inspect: (event) => events.push(event) });
    const running = use(rig.pod).catch((error: { code: string }) => expect(error.code).toBe('worker_failed'));
    await sleep(30);
    rig.killWorker(0);
    await running;
    const births = (): number => events.filter(({ type, sessionId }) => type === '@xstate.actor' && sessionId === 'npu/0').length;
    // On a crowded machine the successor may have had one, too.
    await expect.poll(() => Math.min(births(), 2)).toBe(2);
    await use(rig.pod, 2);
    await rig.pod.close();
    for (const event of events) statelyEvent.parse(event);
  });

  it('refuses what cannot be told', async () => {
    for (const inspect of [5, {}, null])
      await expect(createPod({ inspect: inspect as never })).rejects.toMatchObject({ code: 'invalid_request', param: 'inspect' });
  });

  const LOOKERS = [
    ['live', 'at once'],
    ['virtual', 'at once'],
    ['live', 'later'],
    ['virtual', 'later'],
  ] as const;

  it.each(cases(LOOKERS))('goes on where whoever looks on fails, and says so: %s, %s', async (clock, when) => {
    const warnings: Error[] = [];
    const hear = (warning: Error): void => void warnings.push(warning);
    process.on('warning', hear);
    let calls = 0;
    const fail = (): void => {
      if (++calls === 100) throw new Error('the inspector broke');
    };
    const inspect = when === 'at once' ? fail : async (): Promise<void> => fail();
    const tokens = await withPod({ clock, inspect }, (pod) => use(pod, 2));
    await sleep(20);
    process.off('warning', hear);
    expect(tokens.map(({ length }) => length)).toEqual([6, 7, 7]);
    if (when === 'at once') expect(calls).toBe(100);
    expect(warnings.filter(({ name }) => name === 'InspectionEnded').map(String)).toEqual([expect.stringContaining('the inspector broke')]);
  });
});
