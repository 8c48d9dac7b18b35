/** What is written is what is read, by whichever runtime, and has one identity. */
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MinipodError } from '../../src/protocol/errors.ts';
import { canonicalJson } from '../../src/trace/canonical-json.ts';
import { FORMAT_VERSION, HEADER as HEADER_FIELDS, INDEX_ENTRIES_MAX } from '../../src/trace/file-layout.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { TraceWriter } from '../../src/trace/trace-writer.ts';
import { runs } from '../property-runs.ts';
import { draws, HEADER, range, readTrace, recordsLikeARuns, traceFolder, writeTrace } from './files.ts';

/** Of the records below, on every runtime: SHA-256 of header and records, each with its length. */
const GOLDEN_HASH = '7a7fcd32a77264113bca5915a35aa65a0b188427403aea0e6e0cd9f8febebae8';
const goldenRecords = (): Uint8Array[] => [new Uint8Array(0), ...recordsLikeARuns(200, 1), new Uint8Array(70_000).fill(3)];

const errorOf = (work: () => unknown): MinipodError => {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(MinipodError);
    return error as MinipodError;
  }
  throw new Error('no error');
};

describe('a trace', () => {
  it('gives back every record, in order, for any records and any size of block', () => {
    using folder = traceFolder();
    const path = folder.file('any.trace');
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 60 }), fc.integer({ min: 1, max: 2000 }), (records, block_bytes) => {
        const identity = writeTrace(path, records, { block_bytes, overwrite: true });
        const read = readTrace(path);
        expect(read.records.map((bytes) => [...bytes])).toEqual(records.map((bytes) => [...bytes]));
        expect(read.indices).toEqual(range(0, records.length));
        expect(read).toMatchObject({ header: HEADER, damage: null, identity, totals: { records: records.length, hash: identity.hash } });
        expect(statSync(path).size).toBe(identity.file_bytes);
      }),
      { numRuns: runs(100) },
    );
  });

  it('carries records of 5 MiB between small ones, whether they can be compressed or not', () => {
    using folder = traceFolder();
    const noise = new Uint8Array(5 * 2 ** 20);
    const below = draws(5);
    for (let i = 0; i < noise.length; i++) noise[i] = below(256);
    const records = [Uint8Array.of(1), noise, new Uint8Array(0), new Uint8Array(5 * 2 ** 20), Uint8Array.of(2)];
    const { file_bytes } = writeTrace(folder.file('large.trace'), records);
    expect(file_bytes).toBeLessThan(noise.length + 2000);
    const read = readTrace(folder.file('large.trace'));
    expect(read.damage).toBe(null);
    expect(read.records.map((record, i) => Buffer.compare(record, records[i] ?? new Uint8Array()))).toEqual([0, 0, 0, 0, 0]);
  });

  it('refuses a record of more than 64 MiB, and goes on', () => {
    using folder = traceFolder();
    using writer = TraceWriter.create(folder.file('huge.trace'), {});
    expect(errorOf(() => writer.append(new Uint8Array(64 * 2 ** 20 + 1))).message).toMatch('a record of 67,108,865 bytes; 67,108,864 are allowed');
    writer.append(Uint8Array.of(1));
    expect(writer.close().records).toBe(1);
  });

  it('keeps what was flushed, whatever becomes of the writer', () => {
    using folder = traceFolder();
    const path = folder.file('flushed.trace');
    const records = recordsLikeARuns(10, 2);
    using writer = TraceWriter.create(path, HEADER);
    for (const record of records) writer.append(record);
    expect(readTrace(path).records).toEqual([]);
    expect(writer.buffered_bytes).toBeGreaterThan(400);
    writer.flush();
    expect(writer).toMatchObject({ buffered_bytes: 0, records: 10, file_bytes: statSync(path).size });
    const read = readTrace(path);
    expect(read.records.map((record) => [...record])).toEqual(records.map((record) => [...record]));
    expect(read).toMatchObject({ totals: null, damage: { kind: 'unfinished', record: 10, byte: statSync(path).size } });
    expect(read.damage?.message).toBe('the trace ends without its end mark: the run was killed, or still runs');
    // Only what is there has an identity: the same as that of a run which ended there.
    expect(read.identity?.hash).toBe(writeTrace(folder.file('ended.trace'), records).hash);
  });

  it('that nobody closed has its records and no end mark', () => {
    using folder = traceFolder();
    const path = folder.file('dropped.trace');
    {
      using writer = TraceWriter.create(path, HEADER);
      writer.append(Uint8Array.of(1));
    }
    expect(readTrace(path)).toMatchObject({ indices: [0], damage: { kind: 'unfinished' } });
  });

  it('once closed takes no more', () => {
    using folder = traceFolder();
    const writer = TraceWriter.create(folder.file('closed.trace'), {});
    writer.close();
    for (const call of [() => writer.append(new Uint8Array(1)), () => writer.flush(), () => writer.close()]) expect(errorOf(call).code).toBe('closed');
    writer[Symbol.dispose]();
    const reader = TraceReader.open(folder.file('closed.trace'));
    reader[Symbol.dispose]();
    expect(errorOf(() => [...reader.records()]).code).toBe('closed');
  });
});

describe('the identity', () => {
  it('is the same for every size of block, every flush and every runtime', () => {
    using folder = traceFolder();
    const hashes = [1, 100, 4096, 65_536, 2 ** 20].map((block_bytes) => writeTrace(folder.file(`${block_bytes}.trace`), goldenRecords(), { block_bytes }).hash);
    using writer = TraceWriter.create(folder.file('flushed.trace'), HEADER);
    for (const [i, record] of goldenRecords().entries()) {
      writer.append(record);
      if (i % 7 === 0) writer.flush();
    }
    expect(new Set([...hashes, writer.close().hash])).toEqual(new Set([GOLDEN_HASH]));
  });

  it('does not depend on the order of the header’s keys, and on everything else', () => {
    using folder = traceFolder();
    const hashOf = (header: object, records: Uint8Array[]): string => writeTrace(folder.file('x.trace'), records, { overwrite: true }, header).hash;
    const one = hashOf({ a: 1, b: { c: [1, 'é'], d: null } }, [Uint8Array.of(1), Uint8Array.of(2)]);
    expect(hashOf({ b: { d: null, c: [1, 'é'] }, a: 1, left_out: undefined }, [Uint8Array.of(1), Uint8Array.of(2)])).toBe(one);
    const others = [
      hashOf({ a: 2, b: { c: [1, 'é'], d: null } }, [Uint8Array.of(1), Uint8Array.of(2)]),
      hashOf({ a: 1, b: { c: [1, 'é'], d: null } }, [Uint8Array.of(2), Uint8Array.of(1)]),
      hashOf({ a: 1, b: { c: [1, 'é'], d: null } }, [Uint8Array.of(1, 2)]),
      hashOf({ a: 1, b: { c: [1, 'é'], d: null } }, [Uint8Array.of(1), Uint8Array.of(2), new Uint8Array(0)]),
    ];
    expect(new Set([one, ...others]).size).toBe(5);
  });
});

describe('the header', () => {
  it('comes back as any JSON, in one spelling', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const text = canonicalJson(value);
        expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(value)));
        expect(canonicalJson(JSON.parse(text))).toBe(text);
      }),
    );
  });

  it('is refused where JSON would bend it, and the file is not made', () => {
    using folder = traceFolder();
    const path = folder.file('none.trace');
    const cycle: Record<string, unknown> = {};
    cycle['self'] = cycle;
    const message = (header: object): string => errorOf(() => TraceWriter.create(path, header)).message;
    expect(message({ a: { b: [0, Number.NaN] } })).toMatch("the trace's header at .a.b[1] is NaN");
    expect(message({ a: 1n })).toMatch('at .a is of type bigint');
    expect(message({ a: [undefined] })).toMatch('at .a[0] is of type undefined');
    expect(message({ a: new Map() })).toMatch('at .a is no plain object');
    expect(message(cycle)).toMatch('is nested deeper than 64 levels');
    expect(errorOf(() => TraceReader.open(path)).message).toMatch('no such file');
  });
});

describe('a seek', () => {
  it('to record N gives what iteration gives from there, with an end mark and without', () => {
    using folder = traceFolder();
    const records = recordsLikeARuns(500, 3);
    writeTrace(folder.file('closed.trace'), records, { block_bytes: 700 });
    {
      using writer = TraceWriter.create(folder.file('open.trace'), HEADER, { block_bytes: 700 });
      for (const record of records) writer.append(record);
    }
    for (const path of [folder.file('closed.trace'), folder.file('open.trace')])
      for (const from of [0, 1, 6, 7, 8, 250, 499, 500, 501, 10_000]) {
        const read = readTrace(path, from);
        expect(read.indices).toEqual(range(from, 500));
        expect(Buffer.concat(read.records).equals(Buffer.concat(records.slice(from)))).toBe(true);
      }
  });

  it('finds its block in an index that stays small however many blocks there are', () => {
    using folder = traceFolder();
    const path = folder.file('many-blocks.trace');
    const blocks = INDEX_ENTRIES_MAX * 2 + 3;
    const { file_bytes } = writeTrace(
      path,
      range(0, blocks).map((i) => Buffer.from([i & 255, i >>> 8])),
      { block_bytes: 1 },
    );
    expect(file_bytes).toBeLessThan(blocks * 43 + INDEX_ENTRIES_MAX * 16 + 300);
    using reader = TraceReader.open(path);
    for (const from of [0, 1, 4095, 4096, 8191, 8192, blocks - 1]) {
      expect(reader.records(from)[Symbol.iterator]().next().value).toMatchObject({ index: from, bytes: Uint8Array.of(from & 255, from >>> 8) });
    }
  });

  it('may be under way several times at once', () => {
    using folder = traceFolder();
    writeTrace(folder.file('twice.trace'), recordsLikeARuns(100, 4), { block_bytes: 500 });
    using reader = TraceReader.open(folder.file('twice.trace'));
    const ahead = reader.records(50)[Symbol.iterator]();
    for (const { index } of reader.records()) {
      const next = ahead.next();
      expect(next.done ? 'end' : next.value.index).toBe(index < 50 ? index + 50 : 'end');
    }
  });

  it('to no record is refused', () => {
    using folder = traceFolder();
    writeTrace(folder.file('x.trace'), []);
    using reader = TraceReader.open(folder.file('x.trace'));
    for (const from of [-1, 0.5, Number.NaN]) expect(errorOf(() => reader.records(from)).param).toBe('from');
  });
});

describe('a file', () => {
  it('that exists is not replaced unless told', () => {
    using folder = traceFolder();
    const path = folder.file('kept.trace');
    writeTrace(path, recordsLikeARuns(3, 5));
    expect(errorOf(() => TraceWriter.create(path, {}))).toMatchObject({
      code: 'trace_not_written',
      message: `${path}: exists already; name another file, or remove it`,
    });
    expect(readTrace(path).indices).toEqual([0, 1, 2]);
    writeTrace(path, [], { overwrite: true });
    expect(readTrace(path).indices).toEqual([]);
  });

  it('that is no trace is named as what it is', () => {
    using folder = traceFolder();
    const path = folder.file('x');
    const message = (content: Uint8Array | string): string => {
      writeFileSync(path, content);
      const error = errorOf(() => TraceReader.open(path));
      expect(error.code).toBe('invalid_trace');
      expect(error.message.startsWith(`${path}: `)).toBe(true);
      return error.message;
    };
    expect(message('')).toMatch('is empty');
    expect(message('{"a":1,"some":"json"}')).toMatch('is not a trace: it begins with 7b 22 61 22 3a 31 2c 22, a trace with 89 4d 50 54 0d 0a 1a 0a');
    expect(message(new Uint8Array(100))).toMatch('is not a trace');
    expect(errorOf(() => TraceReader.open(folder.file('missing'))).message).toMatch('no such file');
    mkdirSync(folder.file('folder'));
    expect(errorOf(() => TraceReader.open(folder.file('folder'))).message).toMatch('is a directory; a trace is a file');
    expect(errorOf(() => TraceReader.open('/dev/null')).message).toMatch('is not a regular file');
    expect(errorOf(() => TraceWriter.create(folder.file('missing/x.trace'), {})).message).toMatch('missing/x.trace: cannot be made: ENOENT');
  });

  it('of a newer format is named as such, and a damaged header is not taken for one', () => {
    using folder = traceFolder();
    const path = folder.file('newer.trace');
    writeTrace(path, []);
    expect(FORMAT_VERSION).toBe(1);
    const newer = Buffer.from(traceOfVersion(2));
    writeFileSync(path, newer);
    expect(errorOf(() => TraceReader.open(path)).message).toBe(
      `${path}: names trace format 2, and this minipod reads format 1: read it with the minipod that wrote it, or a newer one`,
    );
    newer.writeUInt32LE(3, HEADER_FIELDS.version);
    writeFileSync(path, newer);
    expect(errorOf(() => TraceReader.open(path)).message).toMatch('names trace format 3, and this minipod reads format 1; or it is damaged: the checksum');
  });

  it('that another runtime wrote is read', () => {
    using folder = traceFolder();
    for (const [name, base64] of Object.entries(WRITTEN_BY)) {
      writeFileSync(folder.file(name), Buffer.from(base64, 'base64'));
      const read = readTrace(folder.file(name));
      expect(read, name).toMatchObject({ header: { by: 'another runtime' }, damage: null });
      expect(read.records.map((record) => Buffer.from(record).toString())).toEqual(['', 'pod '.repeat(40), 'x']);
    }
  });
});

const WRITTEN_BY = {
  node: 'iU1QVA0KGgoBAAAAGAAAAI5+1ut7ImJ5IjoiYW5vdGhlciBydW50aW1lIn1NUFRCAAAAAAAAAAAAAAAAAwAAAKUAAAAZAAAAAQAAAI/UlrQNaY+MKLUv/SClhQAASACgAXBvZCABeAEAmSlnBE1QVEVoAAAAAwAAAAAAAAABAAAAAAAAAL4AAAAAAAAAXGZp/raf1Fb5HxEFAN1UP4xgrggi710z5uqz2++LADcBAAAAAQAAACwAAAAAAAAAAAAAAAAAAAAJy9SKaAAAAE1QVC1FTkQK',
  deno: 'iU1QVA0KGgoBAAAAGAAAAI5+1ut7ImJ5IjoiYW5vdGhlciBydW50aW1lIn1NUFRCAAAAAAAAAAAAAAAAAwAAAKUAAAAZAAAAAQAAAI/UlrRsUSUJKLUv/QBYhQAASACgAXBvZCABeAEAmSlnBE1QVEVoAAAAAwAAAAAAAAABAAAAAAAAAL4AAAAAAAAAXGZp/raf1Fb5HxEFAN1UP4xgrggi710z5uqz2++LADcBAAAAAQAAACwAAAAAAAAAAAAAAAAAAAAJy9SKaAAAAE1QVC1FTkQK',
};

/** The head that stays the same in all formats. */
function traceOfVersion(version: number): Uint8Array {
  const bytes = Buffer.alloc(HEADER_FIELDS.bytes + 2);
  Buffer.from('894d50540d0a1a0a', 'hex').copy(bytes);
  bytes.writeUInt32LE(version, HEADER_FIELDS.version);
  bytes.writeUInt32LE(2, HEADER_FIELDS.json_bytes);
  bytes.write('{}', HEADER_FIELDS.bytes);
  bytes.writeUInt32LE(crc32(bytes.subarray(HEADER_FIELDS.bytes), crc32(bytes.subarray(0, HEADER_FIELDS.checksum))), HEADER_FIELDS.checksum);
  return bytes;
}
