/** Prefill and decode joined by sockets in place of a shared memory: the same tokens, whatever is cancelled, dies or breaks, and nothing left. */
import { Worker } from 'node:worker_threads';
import { afterAll, describe, expect, it } from 'vitest';
import { type Completion, createPod, type GenerateOptions, type Pod, type PodOptions } from '../../src/index.ts';
import { networkThreadOf } from '../../src/runtime/directory.ts';
import { replayTrace } from '../../src/trace/replay-trace.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { cases } from '../property-runs.ts';
import { traceFolder } from '../trace/files.ts';
import { expectNothingLeft, fingerprint, sleep, withPod } from './pods.ts';
import { openRig } from './rig.ts';

/** Node ends a terminated thread; Deno lets it run: what that may still write nobody else may have. */
const TERMINATION_IS_PROOF = !('Deno' in globalThis);

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

const PD: PodOptions = { topology: 'pd:prefill=1,decode=1', workers: 2, kv_fabric: 'tcp' };
type Call = { readonly prompt: readonly number[]; readonly options: GenerateOptions };
const CALLS: readonly Call[] = Array.from({ length: 6 }, (_, call) => ({
  prompt: Array.from({ length: 5 + 23 * call }, (_, index) => 3 + ((call * 7_919 + index * 104_729) % 1_900)),
  options: { max_tokens: 3 + 4 * (call % 3), temperature: call % 2, seed: call, ignore_eos: true },
}));

let known: Promise<string[][]> | null = null;
/** What one NPU answers to each of the calls. */
const answers = (): Promise<string[][]> => {
  known ??= withPod({ clock: 'virtual' }, (pod) =>
    Promise.all(CALLS.map(async ({ prompt, options }) => fingerprint(await pod.complete([...prompt], options)))),
  );
  return known;
};
const ask = (pod: Pod, { prompt, options }: Call, signal?: AbortSignal): Promise<Completion> =>
  pod.complete([...prompt], { ...options, ...(signal && { signal }) });
/** Every second one is left by its caller, after 0 to some tens of milliseconds: waiting, computed, lent, pulled or decoded by then. */
const askAll = (pod: Pod, cancels_after_ms: number | null): Promise<(string[] | string)[]> =>
  Promise.all(
    CALLS.map((call, index) => {
      const abort = new AbortController();
      if (cancels_after_ms !== null && index % 2 === 0) setTimeout(() => abort.abort(), index * cancels_after_ms);
      return ask(pod, call, abort.signal).then(fingerprint, ({ code }) => String(code));
    }),
  );
async function expectAnswers(outcomes: readonly (string[] | string)[], may: readonly string[] = []): Promise<void> {
  const right = await answers();
  for (const [index, outcome] of outcomes.entries())
    if (typeof outcome === 'string') expect(may).toContain(outcome);
    else expect(outcome).toEqual(right[index]);
}

describe('KV over sockets', () => {
  it.each(
    cases<[string, number]>([
      ['pd:prefill=2xdp1tp2,decode=1xdp2', 2],
      ['pd:prefill=1,decode=1', 1],
    ]),
  )('should give the tokens of one NPU, whoever goes away meanwhile, and leave nothing: %s on %i workers', async (topology, workers) => {
    await withPod({ topology, workers, kv_fabric: 'tcp' }, async (pod) => {
      await expectAnswers(await askAll(pod, 4), ['cancelled']);
      await expectAnswers(await askAll(pod, null));
      const { kv_links } = await pod.stats();
      expect(kv_links.length).toBeGreaterThan(0);
      expect(kv_links.map(({ fabric }) => fabric)).toEqual(kv_links.map(() => 'tcp'));
      expect(kv_links.reduce((sum, { done }) => sum + done, 0)).toBeGreaterThanOrEqual(CALLS.length);
    });
  });

  it('should be computed anew where a side dies with it on its way, or the card does; then its thread ends with the pod, and the run replays', async () => {
    const path = folder.file('deaths.trace');
    await using rig = await openRig({ ...PD, record: path }, { card_entry: new URL('dying-card.ts', import.meta.url) });
    for (const worker of [0, 1]) {
      const calls = askAll(rig.pod, null);
      await sleep(15);
      rig.killWorker(worker);
      await expectAnswers(await calls);
      await expectNothingLeft(rig.pod);
      // Of what a decode side has pulled before it died nobody knows.
      const { kv_links } = await rig.pod.stats();
      if (worker === 0) expect(kv_links[0]?.failed['link_broken']).toBeGreaterThan(0);
    }
    await rig.pod.close();
    expect(rig.space.control.hasAcknowledged(networkThreadOf(rig.plan.hosting))).toBe(true);
    using reader = TraceReader.open(path);
    expect((await replayTrace(reader, parseRunHeader(reader.header, path))).outcome).toBe('reproduced');
  });

  it('should be computed anew where the card hangs and is stopped, and another one takes its place; where it cannot be, the pod fails and says so', async () => {
    if (!TERMINATION_IS_PROOF) {
      const thread = new Worker(new URL('hanging-card-pod.ts', import.meta.url));
      const { message } = await new Promise<Error>((resolve) => thread.once('error', resolve));
      expect(message).toContain('the network card hangs, and does not stop');
      return;
    }
    await using rig = await openRig(PD, { card_entry: new URL('hanging-card.ts', import.meta.url), card_deadline_ms: 500 });
    await expectAnswers(await askAll(rig.pod, null));
    await expectNothingLeft(rig.pod);
    const { kv_links } = await rig.pod.stats();
    expect(kv_links[0]?.failed['link_broken']).toBeGreaterThan(0);
    await expectAnswers(await askAll(rig.pod, null));
    expect((await rig.pod.stats()).kv_links[0]?.done).toBeGreaterThan(kv_links[0]?.done as number);
    await expectNothingLeft(rig.pod);
  });

  it('should cost more on a virtual clock, and nothing else', async () => {
    const run = (kv_fabric: 'memory' | 'tcp'): Promise<readonly [string[], number]> =>
      withPod({ clock: 'virtual', kernels: 'hash', seed: 3, topology: 'pd:prefill=1,decode=1', kv_fabric }, async (pod) => {
        const completion = await pod.complete([...Array(200).keys()], { max_tokens: 4, seed: 1 });
        expect((await pod.stats()).kv_links.map(({ fabric, done }) => [fabric, done])).toEqual([[kv_fabric, 1]]);
        return [fingerprint(completion), (await pod.stats()).uptime_seconds];
      });
    const [[tokens, memory_s], [same, tcp_s]] = [await run('memory'), await run('tcp')];
    expect(same).toEqual(tokens);
    expect(tcp_s).toBeGreaterThan(memory_s);
  });

  it('should be refused where nothing is to be joined, saying what would be right', async () => {
    await expect(createPod({ kv_fabric: 'tcp', npus: 2 })).rejects.toMatchObject({
      code: 'invalid_request',
      param: 'kv_fabric',
      message: expect.stringMatching(/'colocated:dp=2' has one; with several, such as 'pd:prefill=1,decode=1'/),
    });
  });
});
