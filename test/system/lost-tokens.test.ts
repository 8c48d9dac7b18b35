/** Tokens that were under way from a worker when it died: none is missing and none comes twice, whatever was read, shown or lost by then. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Completion, createPod } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { runs } from '../property-runs.ts';
import { expectNothingLeft, fingerprint } from './pods.ts';
import { readNothingFrom } from './reading-nothing.ts';
import { openRig } from './rig.ts';
import { TokenStreams, tokenOf, WORKERS } from './token-streams.ts';

const TOKENS = 12;
const KINDS = ['compute', 'compute', 'compute', 'flush', 'flush', 'move', 'die', 'giveUp', 'goOn', 'restart', 'turn', 'look'] as const;
type Step = { readonly kind: (typeof KINDS)[number]; readonly at: number; readonly count: number };
const step: fc.Arbitrary<Step> = fc.record({ kind: fc.constantFrom(...KINDS), at: fc.nat(8), count: fc.integer({ min: 1, max: 6 }) });
/** A call is moved three times at most. */
const DEATHS_MAX = 3;

function take(streams: TokenStreams, { kind, at, count }: Step, deaths: { left: number }): void {
  const worker = at % WORKERS;
  switch (kind) {
    case 'compute':
      streams.compute(at, count);
      break;
    case 'flush':
      streams.flush(worker);
      break;
    case 'move':
      streams.move(at, count % WORKERS);
      break;
    case 'die':
    case 'giveUp':
      if (deaths.left-- > 0) streams.die(worker, kind === 'die');
      break;
    case 'goOn':
      streams.goOn(worker);
      break;
    case 'restart':
    case 'turn':
    case 'look':
      streams[kind]();
      break;
  }
}

/** Everything goes its way until all calls have ended. */
function settle(streams: TokenStreams): void {
  for (let round = 0; !streams.isOver && round < 400; round++) {
    for (let worker = 0; worker < WORKERS; worker++) {
      streams.goOn(worker);
      for (let at = 0; at < 6; at++) streams.compute(at, 2);
      streams.flush(worker);
    }
    streams.turn();
    streams.restart();
    streams.look();
  }
  expect(streams.isOver).toBe(true);
}

async function expectWhole(streams: TokenStreams): Promise<void> {
  for (const [call, { generation, choices }] of streams.generations) {
    const got = new Map<number, number[]>();
    for await (const { choice, token_ids } of generation) got.set(choice, [...(got.get(choice) ?? []), ...token_ids]);
    expect([...got.keys()].sort()).toEqual([...Array(choices).keys()]);
    for (const [choice, tokens] of got) expect(tokens).toEqual(Array.from({ length: TOKENS }, (_, index) => tokenOf(call, choice, index)));
    expect(generation.usage().completion_tokens).toBe(choices * TOKENS);
  }
  expect(streams.recordsUsed).toEqual({ calls: 0, records: 0, pages: 0 });
}

describe('calls whose workers die', () => {
  it('should have each token once and in order, whenever who dies, is given up, is read and goes on; and nothing is recorded in the end', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 120 }), async (steps) => {
        const streams = new TokenStreams(TOKENS);
        for (const choices of [1, 2, 1]) streams.ask(choices);
        const deaths = { left: DEATHS_MAX };
        for (const one of steps) take(streams, one, deaths);
        settle(streams);
        await expectWhole(streams);
      }),
      { numRuns: runs(150) },
    );
  });

  /** One call, all of whose tokens its worker has computed. */
  function computeAll(records?: number): { streams: TokenStreams; worker: number } {
    const streams = new TokenStreams(TOKENS, records);
    streams.ask(1);
    streams.compute(0, TOKENS);
    return { streams, worker: 1 };
  }

  it('should have what lies in the ring of one that died, and compute nothing again', async () => {
    const { streams, worker } = computeAll();
    streams.flush(worker);
    while (streams.isOwing(worker)) {
      streams.turn();
      streams.flush(worker);
    }
    expect(streams.isOver).toBe(false);
    streams.die(worker, true);
    streams.turn();
    expect(streams.isOver).toBe(true);
    expect(streams.resumed).toBe(0);
    await expectWhole(streams);
  });

  it.each([
    ['was given up', false],
    ['died with more than its ring held', true],
  ])('should be resumed once, where one %s', async (_, hasEnded) => {
    const { streams, worker } = computeAll();
    streams.flush(worker);
    expect(streams.isOwing(worker)).toBe(true);
    streams.die(worker, hasEnded);
    settle(streams);
    expect(streams.resumed).toBe(1);
    await expectWhole(streams);
  });

  it('should not be, while a worker that lives has more for the caller than its ring holds, whoever else is lost', async () => {
    const { streams, worker } = computeAll();
    streams.die(worker + 1, false);
    streams.flush(worker);
    for (let look = 0; look < 20; look++) streams.look();
    expect([streams.isOwing(worker), streams.resumed]).toEqual([true, 0]);
    settle(streams);
    expect(streams.resumed).toBe(0);
    await expectWhole(streams);
  });

  it('should fail where there was no room for their records, and where their callers have left them', async () => {
    for (const [records, code] of [
      [0, 'worker_failed'],
      [4, 'cancelled'],
    ] as const) {
      const { streams, worker } = computeAll(records);
      streams.die(worker, false);
      if (code === 'cancelled') streams.leave();
      settle(streams);
      expect(streams.resumed).toBe(0);
      await expect(expectWhole(streams)).rejects.toMatchObject({ code });
      expect(streams.recordsUsed).toEqual({ calls: 0, records: 0, pages: 0 });
    }
  });
});

it('a call on a virtual clock should go on from its record, where its worker is lost with the tokens of a request that has ended', async () => {
  const [prompt, options] = [[1, 86, 1461], { max_tokens: 3, ignore_eos: true, seed: 5 }] as const;
  // Its job executor lives on: the next one's would take up what its caller has not got.
  const create = async (): Promise<VirtualPod> => (await createPod({ clock: 'virtual', kernels: 'hash', job_executors: 1 })) as VirtualPod;
  await using undisturbed = await create();
  const right = fingerprint(await undisturbed.complete(prompt, options));
  await using pod = await create();
  const { host, workers, frontend } = pod.control;
  const release = host.hold(({ message }) => message.type === 'TOKENS');
  let open = -1;
  host.later(10_000_000, () => {
    open = frontend.open.size;
    workers.lose(0, 'killed');
    release();
  });
  expect(fingerprint(await pod.complete(prompt, options))).toEqual(right);
  expect(open).toBe(0);
  await expectNothingLeft(pod);
});

describe('a pod whose caller does something else while a worker computes, and that dies', () => {
  it.each(['dies', 'is given up'])('should have the same tokens from those who are asked next, where it %s', async (how) => {
    // Requests of a job executor on the other worker end although nobody has read their tokens.
    await using rig = await openRig({ npus: 2, workers: 2, spare_workers: 1, job_executors: 3 });
    const askAll = (): Promise<Completion>[] =>
      Array.from({ length: 4 }, (_, seed) =>
        rig.pod.complete('Once upon a time', { seed, max_tokens: 12 + 4 * seed, ignore_eos: true, logprobs: 2, data_parallel_rank: 0 }),
      );
    const right = (await Promise.all(askAll())).map(fingerprint);
    const calls = askAll();
    const [prompt, options] = ['The wolf', { max_tokens: 24, ignore_eos: true, seed: 9, data_parallel_rank: 0 }] as const;
    const reading = rig.pod.generate(prompt, options)[Symbol.asyncIterator]();
    await reading.next();
    // Some twelve tokens, which are lost with it or lie in its ring.
    readNothingFrom(rig, 0, ({ bytes }) => bytes > 1_024);
    if (how === 'dies') rig.killWorker(0);
    else rig.control.giveUp(0, 'the test says that it hangs');
    expect((await Promise.all(calls)).map(fingerprint)).toEqual(right);
    for (let next = await reading.next(); next.done !== true; next = await reading.next());
    await expectNothingLeft(rig.pod);
  });
});
