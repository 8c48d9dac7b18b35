/** Routing traces as files: what is written is read, and what is wrong is named. */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { packRouted, type RoutedStep, type RoutingShape, readRouted, rowsOf } from '../../src/trace/routing-record.ts';
import { RoutingTraceReader, RoutingTraceWriter } from '../../src/trace/routing-trace.ts';
import { encodeRecord } from '../../src/trace/trace-codec.ts';
import { TraceWriter } from '../../src/trace/trace-writer.ts';
import { traceFolder } from './files.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

const HEADER = {
  ...{ clock: 'virtual' as const, seed: 1, kernels: 'hash' as const, model: { name: 'm', digest: 'd' }, topology: 'colocated:dp=1', npus: 1 },
  ...{ layers: [1, 3], experts: 5, top_k: 2 },
};

const word = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const spans = fc.array(
  fc.record({
    phase: fc.constantFrom('prefill' as const, 'decode' as const),
    request: word,
    choice: word,
    position: word,
    rows: fc.integer({ min: 1, max: 4 }),
  }),
  { minLength: 1, maxLength: 4 },
);
const shapes = fc.record({
  layers: fc.uniqueArray(fc.integer({ min: 0, max: 60 }), { maxLength: 4 }),
  experts: fc.constantFrom(4, 256, 257, 60_000),
  top_k: fc.integer({ min: 1, max: 3 }),
});
const routed = fc.tuple(shapes, spans).chain(([shape, spans]) => {
  const pairs = shape.layers.length * rowsOf({ spans }) * shape.top_k;
  return fc.record({
    shape: fc.constant(shape),
    step: fc.record({
      ...{ npu: word, step: word, time_us: fc.double({ noNaN: true }), spans: fc.constant(spans) },
      experts: fc.array(fc.integer({ min: 0, max: shape.experts - 1 }), { minLength: pairs, maxLength: pairs }).map((ids) => Uint16Array.from(ids)),
      weights: fc.array(fc.float({ noNaN: true }), { minLength: pairs, maxLength: pairs }).map((weights) => Float32Array.from(weights)),
    }),
  });
});

const STEP: RoutedStep = {
  ...{ npu: 0, step: 1, time_us: 2.5, spans: [{ phase: 'prefill', request: 7, choice: 0, position: 0, rows: 1 }] },
  ...{ experts: Uint16Array.of(0, 4, 1, 2), weights: Float32Array.of(0.5, 0.25, 1, 2) },
};

function written(name: string, steps: readonly RoutedStep[]): string {
  const path = folder.file(name);
  using writer = RoutingTraceWriter.create(path, HEADER);
  for (const step of steps) writer.append(step);
  writer.close();
  return path;
}

describe('a routed step', () => {
  it('should be read as it was written, bit for bit, at any place in memory', () => {
    fc.assert(
      fc.property(routed, fc.integer({ min: 0, max: 3 }), ({ shape, step }, shift) => {
        const bytes = packRouted(step, shape);
        const moved = new Uint8Array(bytes.length + shift).subarray(shift);
        moved.set(bytes);
        expect(readRouted(moved, shape)).toEqual(step);
      }),
    );
  });

  it('should be refused where its bytes were changed into what cannot be, and never read beyond them', () => {
    fc.assert(
      fc.property(routed, fc.nat(), fc.nat({ max: 255 }), fc.nat({ max: 8 }), ({ shape, step }, at, byte, cut) => {
        const bytes = packRouted(step, shape);
        bytes[at % bytes.length] = byte;
        const read = readRouted(bytes.subarray(0, bytes.length - cut), shape);
        if (typeof read !== 'string') expect(packRouted(read, shape).length).toBe(bytes.length);
        else expect(read).toMatch(/^its|^it |spans/);
      }),
    );
  });

  const wrong: readonly (readonly [Partial<RoutedStep>, RegExp])[] = [
    [{ spans: [] }, /it has no rows/],
    [{ experts: Uint16Array.of(0, 4, 1) }, /3 experts and 4 weights; 2 layers × 1 rows × top 2 are 4/],
    [{ experts: Uint16Array.of(0, 4, 1, 5) }, /it names expert 5; they are 0 to 4/],
    [{ step: -1 }, /whole numbers from 0/],
  ];
  it.each(wrong)('should say what does not fit: %o', (change, says) => {
    const shape: RoutingShape = HEADER;
    expect(() => packRouted({ ...STEP, ...change }, shape)).toThrow(says);
  });
});

describe('a routing trace', () => {
  it('should be read step by step, as often as one likes', () => {
    const steps = [STEP, { ...STEP, step: 2 }];
    using reader = RoutingTraceReader.open(written('two.routing', steps));
    expect(reader.header).toMatchObject({ kind: 'routing', ...HEADER });
    const read = reader.steps();
    expect([[...read], [...read], read.damage, read.stopped]).toEqual([steps, steps, null, null]);
  });

  it('should give what was written before a crash, and say that there is no more', () => {
    const path = folder.file('crashed.routing');
    const writer = RoutingTraceWriter.create(path, HEADER);
    writer.append(STEP);
    writer.flush();
    writer.append({ ...STEP, step: 2 });
    const crashed = folder.file('as-left.routing');
    writeFileSync(crashed, readFileSync(path));
    writer[Symbol.dispose]();
    using reader = RoutingTraceReader.open(crashed);
    const read = reader.steps();
    expect([...read]).toEqual([STEP]);
    expect(read.damage?.kind).toBe('unfinished');
    appendFileSync(crashed, 'x');
    using torn = RoutingTraceReader.open(crashed);
    const tornSteps = torn.steps();
    expect([...tornSteps]).toEqual([STEP]);
    expect(tornSteps.damage).not.toBe(null);
  });

  it('should say why recording stopped, and refuse what is another trace', () => {
    const path = folder.file('stopped.routing');
    using whole = RoutingTraceWriter.create(folder.file('header.routing'), HEADER);
    using writer = TraceWriter.create(path, whole.header);
    writer.append(packRouted(STEP, HEADER));
    writer.append(encodeRecord({ kind: 'stopped', reason: 'too slow' }));
    writer.close();
    using reader = RoutingTraceReader.open(path);
    const steps = reader.steps();
    expect([...steps]).toEqual([STEP]);
    expect(steps.stopped).toBe('too slow');
    const run = folder.file('run.trace');
    TraceWriter.create(run, { clock: 'live' }).close();
    expect(() => RoutingTraceReader.open(run)).toThrow(/run\.trace: is no routing trace: header\.kind/);
    expect(() => RoutingTraceWriter.create(folder.file('x'), { ...HEADER, top_k: 0 })).toThrow(/header\.top_k/);
  });
});
