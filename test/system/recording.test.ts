/** Live runs, recorded: every trace replays without a difference, whatever happened to the pod, and recording changes no token. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { releaseProxy } from 'comlink';
import { afterAll, describe, expect, it } from 'vitest';
import { createPod, type Pod } from '../../src/index.ts';
import { resolveModel } from '../../src/model/registry.ts';
import { parseOptions, podOptionsSchema } from '../../src/options/options.ts';
import { Control } from '../../src/platform/control.ts';
import { LivePod } from '../../src/pod/live-pod.ts';
import { colocated } from '../../src/protocol/topology.ts';
import { monotonicClock } from '../../src/runtime/clock.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { traceFolder } from '../trace/files.ts';
import { expectWhole } from '../trace/whole-run.ts';
import { sleep, withPod } from './pods.ts';
import { openRig } from './rig.ts';
import sameBits from './same-bits.json' with { type: 'json' };
import { virtualCalls } from './virtual-calls.ts';
import { digest, run } from './workload.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

const use = async (pod: Pod, calls: number): Promise<void> => {
  await Promise.all(
    Array.from({ length: calls }, async (_, index) => {
      const abort = new AbortController();
      if (index % 4 === 1) setTimeout(() => abort.abort(), 3 * index);
      await pod
        .complete([1, 86, 1461, 613 + index], {
          ...{ max_tokens: 8 + (index % 9) * 4, seed: index, n: 1 + (index % 2), stop: index % 3 === 0 ? ['e'] : [], signal: abort.signal },
        })
        .catch((error: { code: string }) => {
          if (!['cancelled', 'worker_failed', 'out_of_memory'].includes(error.code)) throw error;
        });
    }),
  );
};

describe('a recorded run', () => {
  it('replays without a difference, and the cause of every message is known', async () => {
    const path = folder.file('run.trace');
    await withPod({ npus: 3, workers: 3, kv_blocks: 6, max_batch_tokens: 32, record: path }, (pod) => use(pod, 14));
    expect(expectWhole(path).length).toBeGreaterThan(200);
  });

  it('has the tokens of one that is not recorded', async () => {
    const results = await withPod({ npus: 2, workers: 2, record: folder.file('bits.trace') }, (pod) => run(pod, 'all at once'));
    expect(digest(results)).toEqual(sameBits['tiny-deepseek-v3']);
    expectWhole(folder.file('bits.trace'));
  });

  it('in which workers died replays too: their last acts, and their successors’', async () => {
    const path = folder.file('deaths.trace');
    await using rig = await openRig({ npus: 4, workers: 2, record: path });
    const deaths = async (): Promise<number> => (await rig.pod.stats()).fabric.threads.reduce((sum, { epoch }) => sum + epoch - 1, 0);
    for (const [before, worker] of [0, 1].entries()) {
      const running = use(rig.pod, 10);
      await sleep(40);
      rig.killWorker(worker);
      await running;
      await expect.poll(async () => (await rig.pod.stats()).npus.every(({ state }) => state === 'idle')).toBe(true);
      expect(await deaths()).toBeGreaterThan(before);
    }
    await rig.pod.close();
    const acts = expectWhole(path);
    const births = acts.filter(({ machine, to }) => machine === 'npu' && to === 'npu/0');
    expect(births.length).toBeGreaterThanOrEqual(2);
  });

  it('is closed even where its recorder’s disk hangs, so that its thread cannot be stopped', async () => {
    const { model, npus: _, kv_blocks, memory_bytes, ...numbers } = parseOptions(podOptionsSchema, {}, 'test');
    const origin_ms = performance.timeOrigin + performance.now();
    const control = await Control.create(
      { ...numbers, topology: colocated(1), job_executors: 1, kv_blocks, memory_bytes, folder: resolveModel(model), origin_ms },
      { onProgress: async () => {} },
    );
    const remote = { close: async () => ({ value: await control.close() }), [releaseProxy]: () => {} };
    const thread = { terminate: () => new Promise(() => {}) };
    const pod = new LivePod(
      { handle: control.handle, thread: thread as never, remote: remote as never, died: new Promise<never>(() => {}) },
      monotonicClock(origin_ms),
    );
    await pod.close();
  });

  it('on a virtual clock loses its trace where the disk is full, and no token: a warning says so, once', async () => {
    const path = folder.file('full.trace');
    const run = [process.execPath, ...('Deno' in globalThis ? ['run', '-A'] : []), fileURLToPath(new URL('./virtual-run.ts', import.meta.url)), path];
    // Ignored, the signal of a file that grows too large leaves the error of the write.
    const { stdout, stderr } = await promisify(execFile)('bash', ['-c', 'trap "" XFSZ; ulimit -f 4; exec "$@"', 'bash', ...run]);
    expect(stderr.match(/RecordingEnded: \S*full\.trace: cannot be written at byte/g)?.length).toBe(1);
    await using pod = await createPod({ clock: 'virtual' });
    expect(JSON.parse(stdout)).toEqual(await virtualCalls(pod));
    using reader = TraceReader.open(path);
    expect(reader.totals).toBeNull();
  });

  it('on a virtual clock is never too slow: what to do then is refused', async () => {
    await expect(createPod({ clock: 'virtual', record_when_full: 'stop' })).rejects.toMatchObject({ code: 'invalid_request', param: 'record_when_full' });
  });

  it('is not begun where its file exists, or cannot be', async () => {
    const path = folder.file('bits.trace');
    const before = readFileSync(path);
    await expect(createPod({ record: path })).rejects.toMatchObject({ code: 'trace_not_written' });
    expect(readFileSync(path).equals(before)).toBe(true);
    await expect(createPod({ record: folder.file('nowhere/x.trace') })).rejects.toMatchObject({ code: 'trace_not_written' });
    await expect(createPod({ clock: 'virtual', record: path })).rejects.toMatchObject({ code: 'trace_not_written' });
  });
});
