/** Runs whose KV changes hands between task executors: they are computed again as they were, whichever thread's acts come first. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { actsOf } from '../../src/trace/acts.ts';
import { compareTraces } from '../../src/trace/compare-traces.ts';
import { type Cut, cutTrace } from '../../src/trace/cut-trace.ts';
import { KernelRecomputation } from '../../src/trace/recompute.ts';
import { type ReplayReport, replayTrace } from '../../src/trace/replay-trace.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { traceFolder } from './files.ts';
import { recordHandoffs, recordLiveHandoffs, recordVirtual } from './recorded-runs.ts';
import { allActs, rewrite } from './rewritten.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

/** With all of its kernels: `launched` is how many steps the trace has that came back. */
async function computedAgain(path: string): Promise<ReplayReport & { readonly launched: number }> {
  using reader = TraceReader.open(path);
  const header = parseRunHeader(reader.header, path);
  const launched = [...actsOf(reader)].filter(({ act }) => act.message?.type === 'LAUNCH_DONE').length;
  const report = await replayTrace(reader, header, { recompute: await KernelRecomputation.create(header, undefined) });
  return { ...report, launched };
}

async function cutOut(path: string, cut: Cut): Promise<string> {
  using reader = TraceReader.open(path);
  const part = folder.file('part.trace');
  await cutTrace(reader, part, cut, { overwrite: true });
  return part;
}

describe.each([
  ['virtual', recordHandoffs],
  ['live', recordLiveHandoffs],
])('a %s run of prefill and decode apart', (name, record) => {
  const path = folder.file(`${name}.trace`);
  beforeAll(() => record(path));

  it('should be computed again without a difference, every launch', async () => {
    const { outcome, divergence, launches, launched } = await computedAgain(path);
    expect({ outcome, divergence, launches }).toEqual({ outcome: 'reproduced', divergence: null, launches: launched });
    const pulled = allActs(path).filter(({ from, to, message }) => message?.type === 'TRANSFER_DONE' && from === to);
    expect(pulled.length).toBeGreaterThan(20);
  });

  it('should be so in every part that is cut out of it: who lent what the part goes on with comes along', async () => {
    const acts = allActs(path);
    const decoded = acts.find(({ message }) => message?.type === 'DECODE_CHOSEN')?.to.replace('job', 'request');
    const parts: readonly Cut[] = [
      { from: null, to: null, requests: [decoded as `request/${string}`] },
      { from: { record: acts.length - 40 }, to: null, requests: [] },
      { from: { record: Math.floor(acts.length / 2) }, to: { record: Math.floor(acts.length / 2) + 60 }, requests: [] },
    ];
    // Kernels of the live run take their time.
    for (const cut of name === 'live' ? parts.slice(0, 1) : parts) {
      const { outcome, divergence, launches, launched } = await computedAgain(await cutOut(path, cut));
      expect({ cut, outcome, divergence, launches }).toEqual({ cut, outcome: 'reproduced', divergence: null, launches: launched });
    }
  });
});

describe('a run whose KV moves by layer', () => {
  // One rank's step may be told of before the other's has begun: what is lent then is not there yet.
  it('should be computed again as it was, with ranks that begin one after the other', async () => {
    const path = folder.file('layers.trace');
    await recordVirtual(path, { topology: 'pd:prefill=1xdp1tp2,decode=1xdp2', npus: undefined, kv_transfer: 'layer', kv_blocks: 8, max_batch_tokens: 32 }, 12);
    const { outcome, divergence, launches, launched } = await computedAgain(path);
    expect({ outcome, divergence, launches }).toEqual({ outcome: 'reproduced', divergence: null, launches: launched });
    expect(allActs(path).filter(({ message }) => message?.type === 'LENT').length).toBeGreaterThan(5);
  });
});

describe('a live run of prefill and decode apart', () => {
  // By the order of time prefill may then have given its blocks to others long before decode asks for them.
  it('should be computed again as it was also where the decode thread says that it acted an hour later', async () => {
    const path = folder.file('live.trace');
    const threadOf = (group: string): number | undefined => allActs(path).find(({ to, message }) => to === group && message === null)?.thread;
    const decode = threadOf('dp-group/2');
    expect(threadOf('dp-group/0')).not.toBe(decode);
    const skewed = rewrite(path, folder.file('skewed.trace'), {
      act: (act) => (act.thread === decode ? { ...act, time_us: act.time_us + 3_600e6 } : act),
    });
    const { outcome, divergence, launches, launched } = await computedAgain(skewed);
    expect({ outcome, divergence, launches }).toEqual({ outcome: 'reproduced', divergence: null, launches: launched });
  });
});

describe('two traces of prefill and decode apart', () => {
  it('should be equal where the seed is, and differ by name where KV blocks are fewer', async () => {
    const again = folder.file('again.trace');
    await recordHandoffs(again);
    const compared = async (other: string) => {
      using a = TraceReader.open(folder.file('virtual.trace'));
      using b = TraceReader.open(other);
      return await compareTraces(a, b);
    };
    expect(await compared(again)).toMatchObject({ is_equal: true, first: null, counts: [], ends: [] });
    const late = rewrite(again, folder.file('late.trace'), {
      act: (act) => (act.message?.type === 'TRANSFERRED' ? { ...act, message: { type: 'ABANDONED' } } : act),
    });
    const { is_equal, first, counts } = await compared(late);
    expect({ is_equal, fields: first?.fields }).toEqual({ is_equal: false, fields: ['message'] });
    expect(counts.map(({ type }) => type)).toEqual(['ABANDONED', 'TRANSFERRED']);
  });
});
