/** The output shortcut: tokens go from their DP group to the caller's thread, and are delivered there once each and in order, whoever sends them. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BEAT_MS } from '../../actors/policies/heartbeats.ts';
import { CallCounts } from '../../src/calls/call-counts.ts';
import { Delivery } from '../../src/calls/delivery.ts';
import { LiveGeneration } from '../../src/calls/generation.ts';
import type { DeliveredRecords } from '../../src/flowserve/records/delivered-records.ts';
import type { Chunk, LinkStats, Pod } from '../../src/index.ts';
import type { ChunkRecord } from '../../src/protocol/caller.ts';
import type { MinipodError } from '../../src/protocol/errors.ts';
import { requestId } from '../../src/protocol/request-ids.ts';
import { runs } from '../property-runs.ts';
import { expectNothingLeft, sharedPod, sleep } from './pods.ts';
import { readNothingFrom } from './reading-nothing.ts';
import { openRig } from './rig.ts';

describe('the control thread', () => {
  const pod = sharedPod({ npus: 2, workers: 2, job_executors: 1 });

  const framesOf = async (of: Pod): Promise<{ control: number; caller: number }> => {
    const { fabric } = await of.stats();
    const sum = (to: string): number =>
      fabric.links
        .filter((link: LinkStats) => link.lane === 'data' && link.from.startsWith('worker/') && link.to === to)
        .reduce((frames, link) => frames + link.frames, 0);
    return { control: sum('control'), caller: sum('caller') };
  };
  /** DP groups and NPUs of two workers, which answer their task executor once a beat, however many tokens there are. */
  const MEMBERS = 4;
  const during = async (max_tokens: number): Promise<{ control: number; caller: number; beats: number }> => {
    const before = await framesOf(pod());
    const begun_ms = performance.now();
    const calls = Array.from({ length: 6 }, (_, seed) => pod().complete([7, 8, 9 + seed], { max_tokens, seed, ignore_eos: true, stop: ['no such text'] }));
    await Promise.all(calls);
    await expectNothingLeft(pod());
    const after = await framesOf(pod());
    const beats = MEMBERS * (1 + Math.ceil((performance.now() - begun_ms) / BEAT_MS));
    return { control: after.control - before.control, caller: after.caller - before.caller, beats };
  };

  it('should hear of a request a few times, and of no token', async () => {
    const [few, many] = [await during(2), await during(150)];
    // Of each: SCHEDULED, DECODING, GENERATED.
    expect(few.control).toBeGreaterThanOrEqual(18);
    // A frame for each step of either DP group would be 300.
    expect(many.control).toBeLessThan(few.control + 18 + many.beats);
    expect(many.caller).toBeGreaterThan(few.caller + 130);
  });
});

describe('a caller’s thread that does something else', () => {
  it('should have all of it when it is back, however much more than its rings hold', async () => {
    await using rig = await openRig({ npus: 1, workers: 1 });
    const ask = () => rig.pod.complete('Once upon a time', { seed: 5, n: 16, logprobs: 20, max_tokens: 60, ignore_eos: true });
    const right = (await ask()).choices;
    const call = ask();
    while ((await rig.pod.stats()).requests_running === 0) await sleep(1);
    readNothingFrom(rig, 0, ({ isFull }) => isFull);
    expect((await call).choices).toEqual(right);
    await expectNothingLeft(rig.pod);
  });
});

describe('a delivery', () => {
  const CHOICES = 3;
  const TOKENS = 6;
  const textOf = (choice: number, index: number): string => `${choice}.${index} `;
  const chunkOf = (attempt: number, choice: number, index: number): ChunkRecord => ({
    ...{ request: requestId(attempt, attempt, 9), choice, index, text: textOf(choice, index), token_ids: [index], logprobs: null },
    ...{ finish: index === TOKENS - 1 ? 'length' : null, stop_string: null, stop_token: -1, cached: 0, drafted: 0, parsed: null },
  });

  /** What one sender says, in its order. */
  type Said = { readonly group: number; readonly chunk: ChunkRecord } | 'PROMPT' | 'ENDED';
  const streams: fc.Arbitrary<readonly (readonly Said[])[]> = fc.array(fc.nat(TOKENS), { minLength: CHOICES, maxLength: CHOICES }).map((cuts) => {
    const of = (attempt: number, group: number, from: (choice: number) => number, to: (choice: number) => number): Said[] =>
      Array.from({ length: TOKENS }, (_, index) => index).flatMap((index) =>
        cuts.flatMap((_, choice) => (index >= from(choice) && index < to(choice) ? [{ group, chunk: chunkOf(attempt, choice, index) }] : [])),
      );
    const cutOf = (choice: number): number => cuts[choice] as number;
    return [
      ['PROMPT', 'ENDED'],
      // A group that had it first, the one that went on, and one that computes part of it a second time for the same owner.
      of(0, 0, () => 0, cutOf),
      of(
        1,
        1,
        () => 0,
        () => TOKENS,
      ),
      of(1, 2, cutOf, () => TOKENS),
    ];
  });

  it('should give each token once and in order, whatever the order of senders, and end when all is there', async () => {
    await fc.assert(
      fc.asyncProperty(streams, fc.array(fc.nat(3), { minLength: 60, maxLength: 60 }), async (said, order) => {
        const kept: number[][] = Array.from({ length: CHOICES }, () => []);
        let closed = 0;
        const records = {
          of: () => ({
            append: (choice: number, token: number, isLast: boolean) => kept[choice]?.push(isLast ? -token : token),
            close: () => closed++,
          }),
        } as unknown as DeliveredRecords;
        const counts = new CallCounts();
        const terms = { id: 'x', seed: 0, choices: CHOICES, wantsPromptLogprobs: false };
        const generation = new LiveGeneration(terms, { clock: { now_ms: () => 1 }, cancel: () => {}, ended: () => {} });
        const delivery = new Delivery(generation, terms, { counts, records, tell: () => {} });
        const queues = said.map((stream) => [...stream]);
        for (let at = 0; queues.some(({ length }) => length > 0); at++) {
          const next = (queues[order[at % order.length] as number] ?? []).shift() ?? queues.find(({ length }) => length > 0)?.shift();
          if (next === 'PROMPT') delivery.hear({ type: 'PROMPT', request: 9, token_ids: [1, 2], records: [] });
          else if (next === 'ENDED') delivery.hear({ type: 'ENDED', request: 9, error: null });
          else if (next !== undefined) delivery.push(next.chunk, next.group);
        }
        expect([delivery.isOver, closed]).toEqual([true, 1]);
        const chunks: Chunk[] = [];
        for await (const chunk of generation) chunks.push(chunk);
        for (let choice = 0; choice < CHOICES; choice++) {
          const of = chunks.filter((chunk) => chunk.choice === choice);
          expect(of.map(({ text }) => text)).toEqual(Array.from({ length: TOKENS }, (_, index) => textOf(choice, index)));
          expect(kept[choice]).toEqual([0, 1, 2, 3, 4, -5]);
        }
        expect(counts.all).toEqual({ finished: { stop: 0, length: CHOICES, cancelled: 0, failed: 0 }, prompt_tokens: 2, generation_tokens: CHOICES * TOKENS });
        expect([...counts.groups.values()].reduce((sum, { generation_tokens }) => sum + generation_tokens, 0)).toBe(CHOICES * TOKENS);
      }),
      { numRuns: runs(200) },
    );
  });

  const openDelivery = (choices: number, wantsPromptLogprobs = false) => {
    const seen = { cancels: 0, fails: 0, resumes: 0, closes: 0 };
    const kept: number[] = [];
    const call = {
      append: (_: number, token: number) => kept.push(token),
      tokenAt: (_: number, index: number) => kept[index] ?? -1,
      close: () => seen.closes++,
    };
    const records = { of: () => call } as unknown as DeliveredRecords;
    const terms = { id: 'x', seed: 0, choices, wantsPromptLogprobs };
    const generation = new LiveGeneration(terms, { clock: { now_ms: () => 1 }, cancel: () => delivery.cancel(), ended: () => {} });
    const counts = new CallCounts();
    const tell = (what: string): number => seen[({ CANCEL_CALL: 'cancels', FAIL_CALL: 'fails' } as const)[what] ?? 'resumes']++;
    const delivery: Delivery = new Delivery(generation, terms, { counts, records, tell });
    return { generation, counts, seen, delivery };
  };
  const PROMPT = { type: 'PROMPT', request: 9, token_ids: [1], records: [4] } as const;
  const ENDED = { type: 'ENDED', request: 9, error: null } as const;
  /** What a caller gets, and how it ends. */
  const readAll = async (generation: LiveGeneration): Promise<{ chunks: Chunk[]; error: string | null }> => {
    const chunks: Chunk[] = [];
    try {
      for await (const chunk of generation) chunks.push(chunk);
    } catch (error) {
      return { chunks, error: (error as MinipodError).code };
    }
    return { chunks, error: null };
  };

  it.each(['before', 'after'])('should fail with the error of its text, which comes %s the end, once nothing of it is left', async (order) => {
    const { delivery, generation, counts, seen } = openDelivery(1);
    delivery.hear(PROMPT);
    delivery.push(chunkOf(0, 0, 0), 0);
    const isBefore = order === 'before';
    const steps = [
      () => delivery.failText({ code: 'internal', message: 'no JSON', param: null }),
      () => delivery.hear(isBefore ? { ...ENDED, error: { code: 'cancelled', message: 'x', param: null } } : ENDED),
    ];
    const [first, second] = isBefore ? steps : steps.toReversed();
    first?.();
    expect([delivery.isOver, seen.closes]).toEqual([false, 0]);
    second?.();
    expect([delivery.isOver, seen.closes, seen.fails]).toEqual([true, 1, isBefore ? 1 : 0]);
    expect(counts.all.finished).toMatchObject({ failed: 1, cancelled: 0 });
    expect(await readAll(generation)).toMatchObject({ chunks: [{}], error: 'internal' });
  });

  it.each([
    ['overloaded', 0],
    ['worker_failed', 1],
  ] as const)('should count what has failed, and nothing that was refused: %s', (code, failed) => {
    const { delivery, counts } = openDelivery(1);
    delivery.hear(PROMPT);
    delivery.hear({ ...ENDED, error: { code, message: 'x', param: null } });
    expect(counts.all.finished['failed']).toBe(failed);
  });

  it('should drop what an earlier owner says once a later one has spoken', () => {
    const { delivery, generation } = openDelivery(1);
    delivery.hear(PROMPT);
    delivery.push(chunkOf(1, 0, 0), 1);
    delivery.push({ ...chunkOf(0, 0, 1), text: 'of a zombie' }, 0);
    delivery.push(chunkOf(1, 0, 1), 1);
    expect(generation.usage().completion_tokens).toBe(2);
  });

  it.each(['a later owner', 'its end'])('should be recalled where what goes on without some experts goes on from another token, after %s', async (after) => {
    const { delivery, generation, seen } = openDelivery(1);
    const degraded = (attempt: number, index: number, token: number): ChunkRecord => ({ ...chunkOf(attempt, 0, index), token_ids: [token], degraded: true });
    delivery.hear(PROMPT);
    // What overtook others is no news either, once another owner has spoken.
    for (const index of [0, 1, 4]) delivery.push(chunkOf(0, 0, index), 0);
    delivery.push(degraded(1, 0, 0), 1);
    expect(seen.cancels).toBe(0);
    if (after === 'its end') delivery.hear(ENDED);
    for (let index = 1; index < TOKENS; index++) delivery.push(degraded(1, index, 70 + index), 1);
    if (after !== 'its end') {
      expect([seen.cancels, seen.resumes]).toEqual([1, 0]);
      delivery.hear({ ...ENDED, error: { code: 'cancelled', message: 'x', param: null } });
    }
    expect([delivery.isOver, seen.resumes]).toEqual([false, 1]);
    // It has all experts again; what it goes on from had not.
    delivery.push(degraded(2, 2, 82), 1);
    for (let index = 3; index < TOKENS; index++) delivery.push({ ...chunkOf(2, 0, index), token_ids: [80 + index] }, 1);
    delivery.hear(ENDED);
    const { chunks, error } = await readAll(generation);
    expect([error, chunks.flatMap(({ token_ids }) => token_ids)]).toEqual([null, [0, 1, 82, 83, 84, 85]]);
    expect(chunks.map(({ degraded: isMarked = false }) => isMarked)).toEqual([false, false, true, true, true, true]);
  });

  it('should wait for its last tokens as long as it takes, and be resumed without them only when a worker was lost', () => {
    const { delivery, seen } = openDelivery(1);
    delivery.hear(PROMPT);
    delivery.push(chunkOf(0, 0, 0), 0);
    delivery.hear(ENDED);
    for (let look = 0; look < 100; look++) delivery.look();
    expect(seen.resumes).toBe(0);
    delivery.losePeer();
    for (let look = 0; look < 2; look++) delivery.look();
    delivery.push(chunkOf(0, 0, 1), 0);
    for (let look = 0; look < 2; look++) delivery.look();
    expect(seen.resumes).toBe(0);
    delivery.look();
    expect(seen.resumes).toBe(1);
    for (let look = 0; look < 100; look++) delivery.look();
    for (let index = 2; index < TOKENS; index++) delivery.push(chunkOf(1, 0, index), 1);
    expect(delivery.isOver).toBe(false);
    delivery.hear(ENDED);
    expect([delivery.isOver, seen]).toEqual([true, { cancels: 0, fails: 0, resumes: 1, closes: 1 }]);
  });

  it('should fail where its prompt’s scores were lost with their worker, and the choice that is scored has ended: nobody computes them again', async () => {
    const { delivery, generation, seen } = openDelivery(1, true);
    delivery.hear({ ...PROMPT, token_ids: [1, 2] });
    for (let index = 0; index < TOKENS; index++) delivery.push(chunkOf(0, 0, index), 1);
    delivery.hear(ENDED);
    delivery.losePeer();
    for (let look = 0; look < 3; look++) delivery.look();
    expect([delivery.isOver, seen.resumes]).toEqual([true, 0]);
    expect(await readAll(generation)).toMatchObject({ error: 'worker_failed' });
  });

  it('should be resumed where a token was lost with its worker, and only there, whatever the order of senders', async () => {
    const cut = fc.record({
      cuts: fc.array(fc.nat(TOKENS), { minLength: CHOICES, maxLength: CHOICES }),
      /** Of prefill's chunks, so many last ones stay unread. */
      lost: fc.nat(4),
      looks: fc.nat(5),
      order: fc.array(fc.nat(3), { minLength: 40, maxLength: 40 }),
    });
    await fc.assert(
      fc.asyncProperty(cut, async ({ cuts, lost, looks, order }) => {
        const { delivery, generation, counts, seen } = openDelivery(CHOICES);
        const said = (group: number, isOf: (index: number, cut: number) => boolean) =>
          Array.from({ length: TOKENS }, (_, index) => index).flatMap((index) =>
            cuts.flatMap((cut, choice) => (isOf(index, cut) ? [() => delivery.push(chunkOf(0, choice, index), group)] : [])),
          );
        const prefill = said(0, (index, cut) => index < cut);
        const missing = Math.min(lost, prefill.length);
        const waits = Array.from({ length: looks }, () => () => delivery.look());
        const queues = [
          [() => delivery.hear(PROMPT), () => delivery.hear(ENDED)],
          [...prefill.slice(0, prefill.length - missing)],
          said(1, (index, cut) => index >= cut),
          [...waits, () => delivery.losePeer()],
        ];
        for (let at = 0; queues.some(({ length }) => length > 0); at++) {
          const queue = queues[order[at % order.length] as number] ?? [];
          (queue.length > 0 ? queue : queues.find(({ length }) => length > 0))?.shift()?.();
        }
        expect(delivery.isOver).toBe(missing === 0);
        for (let look = 0; look < 3; look++) delivery.look();
        expect([delivery.isOver, seen.resumes]).toEqual([missing === 0, missing === 0 ? 0 : 1]);
        // Whoever goes on begins with what the caller has, or before.
        if (missing > 0) {
          delivery.hear(ENDED);
          for (let index = 0; index < TOKENS; index++) for (let choice = 0; choice < CHOICES; choice++) delivery.push(chunkOf(1, choice, index), 2);
        }
        expect([delivery.isOver, seen.closes]).toEqual([true, 1]);
        const { chunks, error } = await readAll(generation);
        expect([error, counts.all.finished]).toEqual([null, { stop: 0, length: CHOICES, cancelled: 0, failed: 0 }]);
        for (let choice = 0; choice < CHOICES; choice++) {
          const texts = chunks.filter((chunk) => chunk.choice === choice).map(({ text }) => text);
          expect(texts).toEqual(Array.from({ length: TOKENS }, (_, index) => textOf(choice, index)));
        }
      }),
      { numRuns: runs(200) },
    );
  });

  it.each(['goes on', 'is left by its caller', 'has no record'])(
    'should be recalled while decode goes on behind a token that was lost, and %s',
    async (how) => {
      const { delivery, generation, counts, seen } = openDelivery(1);
      const LONG = 100;
      const long = (index: number): ChunkRecord => ({ ...chunkOf(0, 0, index), finish: null });
      delivery.hear(how === 'has no record' ? { ...PROMPT, records: [] } : PROMPT);
      for (let index = 1; index < LONG; index++) {
        delivery.push(long(index), 1);
        delivery.look();
      }
      expect([seen.cancels, generation.usage().completion_tokens]).toEqual([0, 0]);
      delivery.losePeer();
      // Nothing goes on: somebody may be computing it again.
      for (let look = 0; look < 10; look++) delivery.look();
      expect(seen.cancels).toBe(0);
      for (let index = LONG; index < LONG + 3; index++) {
        delivery.push(long(index), 1);
        delivery.look();
      }
      expect(seen).toEqual({ cancels: 1, fails: 0, resumes: 0, closes: 0 });
      if (how === 'is left by its caller') generation.cancel();
      delivery.hear({ type: 'ENDED', request: 9, error: { code: 'cancelled', message: 'the caller cancelled the request', param: null } });
      if (how === 'goes on') {
        expect([delivery.isOver, seen.resumes]).toEqual([false, 1]);
        delivery.push({ ...chunkOf(1, 0, 0), finish: 'length' }, 1);
        delivery.hear(ENDED);
      }
      const code = { 'goes on': null, 'is left by its caller': 'cancelled', 'has no record': 'worker_failed' }[how];
      expect([delivery.isOver, seen.closes, (await readAll(generation)).error]).toEqual([true, 1, code]);
      const end = code === null ? 'length' : code === 'cancelled' ? 'cancelled' : 'failed';
      expect(counts.all.finished).toEqual({ stop: 0, length: 0, cancelled: 0, failed: 0, [end]: 1 });
    },
  );

  it('should go on when the missing token comes after a loss', () => {
    const { delivery, generation, seen } = openDelivery(1);
    delivery.hear(PROMPT);
    delivery.losePeer();
    for (let index = 1; index < 3; index++) {
      delivery.push(chunkOf(0, 0, index), 1);
      delivery.look();
    }
    delivery.push(chunkOf(0, 0, 0), 0);
    for (let look = 0; look < 10; look++) delivery.look();
    expect([seen.cancels, generation.usage().completion_tokens]).toEqual([0, 3]);
  });
});
