/** Whatever becomes of a trace's bytes: the reader never crashes or hangs, says where, and gives all that is before. */
import { readFileSync, writeFileSync } from 'node:fs';
import { crc32, zstdCompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MinipodError } from '../../src/protocol/errors.ts';
import { packBlock } from '../../src/trace/block.ts';
import type { TraceDamage } from '../../src/trace/damage.ts';
import { BLOCK, COMPRESSOR } from '../../src/trace/file-layout.ts';
import { packHeader } from '../../src/trace/trace-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { runs, SEED } from '../property-runs.ts';
import { draws, HEADER, type ReadTrace, range, readTrace, recordsLikeARuns, traceFolder, writeTrace } from './files.ts';

const RECORDS = 200;
const TRIALS = runs(300);

type Block = { readonly offset: number; readonly first: number };
/** A sound trace, its records, and where its parts lie; `end` is the offset of the end mark. */
type Sound = { bytes: Buffer; records: Uint8Array[]; header: number; blocks: Block[]; end: number };
let sound: Sound;
const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

beforeAll(() => {
  const records = recordsLikeARuns(RECORDS, 11);
  writeTrace(folder.file('sound.trace'), records, { block_bytes: 1200 });
  using reader = TraceReader.open(folder.file('sound.trace'));
  const blocks = [...reader.records()].map(({ index, offset }) => ({ offset, first: index })).filter(({ offset }, i, all) => offset !== all[i - 1]?.offset);
  const bytes = readFileSync(folder.file('sound.trace'));
  sound = { bytes, records, blocks, header: blocks[0]?.offset ?? 0, end: bytes.length - bytes.readUInt32LE(bytes.length - 12) };
  expect(blocks.length).toBeGreaterThan(15);
});

/** Reads the spoilt file, stopping at the first damage, and passing over all. */
function readSpoilt(bytes: Uint8Array): { strict: ReadTrace; lenient: ReadTrace; lost: TraceDamage[] } {
  writeFileSync(folder.file('spoilt.trace'), bytes);
  const lost: TraceDamage[] = [];
  return {
    strict: readTrace(folder.file('spoilt.trace')),
    lenient: readTrace(folder.file('spoilt.trace'), 0, { onDamage: (damage) => lost.push(damage) }),
    lost,
  };
}

type Spoilt = {
  readonly how: string;
  readonly bytes: Buffer /** The only bytes that changed, where all others are at their places. */;
  readonly within?: readonly [number, number];
};

/** One of the things that happen to files, at a random place. */
function spoil({ bytes, blocks, end }: Sound, below: (limit: number) => number): Spoilt {
  const [from, to] = [below(bytes.length), below(bytes.length)].sort((a, b) => a - b) as [number, number];
  const copy = Buffer.from(bytes);
  const block = (i: number): Buffer => bytes.subarray(blocks[i]?.offset, blocks[i + 1]?.offset ?? end);
  const withBlocks = (order: readonly number[]): Buffer => Buffer.concat([bytes.subarray(0, blocks[0]?.offset), ...order.map(block), bytes.subarray(end)]);
  const order = range(0, blocks.length);
  const [a, b] = [below(blocks.length), below(blocks.length)];
  switch (below(9)) {
    case 0:
      return { how: `cut off at ${from}`, bytes: copy.subarray(0, from) };
    case 1: {
      const bit = below(8);
      copy[from] = (copy[from] ?? 0) ^ (1 << bit);
      return { how: `bit ${bit} of byte ${from} flipped`, bytes: copy, within: [from, from + 1] };
    }
    case 2: {
      const length = 1 + below(600);
      return { how: `${length} bytes from ${from} zeroed`, bytes: copy.fill(0, from, from + length), within: [from, from + length] };
    }
    case 3: {
      const length = 1 + below(600);
      for (let at = from; at < Math.min(bytes.length, from + length); at++) copy[at] = below(256);
      return { how: `${length} bytes from ${from} overwritten with noise`, bytes: copy, within: [from, from + length] };
    }
    case 4:
      return { how: `bytes ${from} to ${to} taken out`, bytes: Buffer.concat([bytes.subarray(0, from), bytes.subarray(to)]) };
    case 5:
      return { how: `bytes ${from} to ${to} doubled`, bytes: Buffer.concat([bytes.subarray(0, to), bytes.subarray(from)]) };
    case 6:
      [order[a], order[b]] = [b, a];
      return { how: `blocks ${a} and ${b} swapped`, bytes: withBlocks(order) };
    case 7:
      order.splice(a, 0, b);
      return { how: `block ${b} put before block ${a} once more`, bytes: withBlocks(order) };
    default:
      order.splice(a, 1);
      return { how: `block ${a} taken out`, bytes: withBlocks(order) };
  }
}

const firstDifference = (a: Uint8Array, b: Uint8Array): number => {
  let at = 0;
  while (at < a.length && at < b.length && a[at] === b[at]) at++;
  return at;
};

describe('a trace that was spoilt', () => {
  it(`at ${TRIALS} random places says where, and gives all that is before`, () => {
    const below = draws(SEED);
    const { bytes, blocks, header, end, records } = sound;
    for (let trial = 0; trial < TRIALS; trial++) {
      const spoilt = spoil(sound, below);
      const hint = `SEED=${SEED}, trial ${trial}: ${spoilt.how}`;
      const changed = firstDifference(bytes, spoilt.bytes);
      if (changed < header) {
        expect(() => readSpoilt(spoilt.bytes), hint).toThrow(MinipodError);
        continue;
      }
      const { strict, lenient, lost } = readSpoilt(spoilt.bytes);
      const intact = (read: ReadTrace): boolean =>
        read.records.every((record, i) => Buffer.compare(record, records[read.indices[i] ?? -1] ?? Buffer.from('none')) === 0);
      expect(intact(strict) && intact(lenient), hint).toBe(true);
      if (spoilt.bytes.equals(bytes)) {
        expect(strict.damage, hint).toBe(null);
        continue;
      }
      // The first part with a changed byte is the one that is named: all before it is given, nothing behind it.
      const part = [...blocks, { offset: end, first: RECORDS }].findLast(({ offset }) => offset <= changed);
      expect(strict.indices, hint).toEqual(range(0, part?.first ?? 0));
      expect(strict.damage, hint).toMatchObject({ byte: part?.offset, record: part?.first });
      expect(strict.damage?.message, hint).toMatch(/ at byte |without its end mark/);
      // Who passes over damage gets nothing twice, in order, and is told of each record that is missing.
      expect(
        lenient.indices.every((index, i) => index > (lenient.indices[i - 1] ?? -1)),
        hint,
      ).toBe(true);
      expect(lenient.indices.length, hint).toBeGreaterThanOrEqual(strict.indices.length);
      const missing = lost.reduce((sum, { records_lost }) => sum + (records_lost ?? 0), 0);
      expect(lenient.indices.length + missing, hint).toBe(lenient.damage?.record ?? RECORDS);
      if (!spoilt.within) continue;
      const [from, to] = spoilt.within;
      const whole = blocks.filter(({ offset }, i) => (blocks[i + 1]?.offset ?? end) <= from || offset >= to);
      const kept = whole.flatMap(({ offset, first }) => range(first, blocks.find((other) => other.offset > offset)?.first ?? RECORDS));
      const given = new Set(lenient.indices);
      expect(
        kept.filter((index) => !given.has(index)),
        hint,
      ).toEqual([]);
    }
  });
});

describe('damage is named:', () => {
  /** The trace with its parts in another order, or with bytes of theirs changed. */
  const parts = (): Buffer[] => {
    const { bytes, blocks, end } = sound;
    return [...blocks.map(({ offset }, i) => Buffer.from(bytes.subarray(offset, blocks[i + 1]?.offset ?? end))), Buffer.from(bytes.subarray(end))];
  };
  const joined = (all: readonly Uint8Array[]): Buffer => Buffer.concat([sound.bytes.subarray(0, sound.header), ...all]);
  const flip = (part: Buffer | undefined, at: number): void => {
    if (part) part[at] = (part[at] ?? 0) ^ 0x10;
  };
  const firstOf = (i: number): number => sound.blocks[i]?.first ?? RECORDS;
  const byteOf = (i: number): string => String(sound.blocks[i]?.offset ?? sound.end).replace(/(\d)(\d{3})$/, '$1,$2');

  it('a changed payload, a changed header', () => {
    for (const [at, what] of [
      [BLOCK.bytes + 30, 'its checksum does not match'],
      [BLOCK.payload_checksum, 'its checksum does not match'],
      [BLOCK.stored_bytes, 'the checksum of its header does not match'],
      [BLOCK.marker, 'no block begins there, and no end mark'],
    ] as const) {
      const all = parts();
      flip(all[7], at);
      const { strict, lenient, lost } = readSpoilt(joined(all));
      expect(strict.damage?.message).toBe(`block 7 at byte ${byteOf(7)}: ${what}`);
      expect(lenient.damage).toBe(null);
      expect(lenient.identity).toBe(null);
      expect(lenient.indices).toEqual([...range(0, firstOf(7)), ...range(firstOf(8), RECORDS)]);
      expect(lost).toMatchObject([{ block: 7, record: firstOf(7), bytes_lost: all[7]?.length, records_lost: firstOf(8) - firstOf(7) }]);
    }
  });

  it('a block that is missing, comes twice, or changed places', () => {
    const without = parts();
    without.splice(7, 1);
    expect(readSpoilt(joined(without)).strict.damage?.message).toBe(`block 8 follows 6 at byte ${byteOf(7)}: a block is missing or was moved`);
    const twice = parts();
    twice.splice(8, 0, twice[7] as Buffer);
    const repeated = readSpoilt(joined(twice));
    expect(repeated.strict.damage?.message).toBe(`block 7 follows 7 at byte ${byteOf(8)}: it was repeated or moved`);
    expect(repeated.lost).toMatchObject([{ records_lost: 0, bytes_lost: twice[7]?.length }]);
    expect(repeated.lenient.indices).toEqual(range(0, RECORDS));
    const swapped = parts();
    [swapped[0], swapped[1]] = [swapped[1] as Buffer, swapped[0] as Buffer];
    expect(readSpoilt(joined(swapped)).strict.damage?.message).toBe(`block 1 comes first at byte ${byteOf(0)}: a block is missing or was moved`);
  });

  it('a trace that was cut off, at its end and inside', () => {
    const all = parts();
    const last = all.length - 2;
    const killed = '(.*): the run was killed, or still runs';
    expect(readSpoilt(joined(all.slice(0, -1))).strict.damage?.message).toMatch(/^the trace ends without its end mark: the run was killed, or still runs$/);
    expect(readSpoilt(joined([...all.slice(0, last), all[last]?.subarray(0, 20) ?? Buffer.alloc(0)])).strict.damage?.message).toMatch(
      new RegExp(`^the trace ends inside block ${last} at byte ${byteOf(last)}${killed}`),
    );
    expect(readSpoilt(joined(all).subarray(0, -1)).strict).toMatchObject({ indices: range(0, RECORDS), damage: { kind: 'unfinished' }, totals: null });
    // The end mark is there, so nobody was killed: bytes are missing before it.
    all[last] = all[last]?.subarray(0, 20) as Buffer;
    expect(readSpoilt(joined(all)).strict.damage?.kind).toBe('damaged');
  });

  it('an end mark that is damaged, counts other blocks, or does not end the file', () => {
    const all = parts();
    flip(all.at(-1), 8);
    expect(readSpoilt(joined(all)).strict.damage).toMatchObject({
      message: `the end mark at byte ${byteOf(99)}: its checksum does not match`,
      record: RECORDS,
    });
    const without = parts();
    without.splice(-2, 1);
    const { strict, lenient, lost } = readSpoilt(joined(without));
    expect(strict.damage?.message).toMatch(/the end mark at byte .*: it counts \d+ blocks with 200 records, but \d+ blocks with \d+ are before it/);
    expect(lost).toMatchObject([{ records_lost: RECORDS - lenient.indices.length }]);
    expect(readSpoilt(joined([...parts(), Buffer.from('more')])).strict.damage?.message).toMatch(/: 4 bytes follow it, where the file must end$/);
  });

  it('a block of another run, though its header is the same', () => {
    writeTrace(folder.file('other.trace'), recordsLikeARuns(RECORDS, 12), { block_bytes: 1200 }, { ...HEADER, seed: 8 });
    writeFileSync(folder.file('spliced.trace'), joined([...parts().slice(0, 3), readFileSync(folder.file('other.trace')).subarray(sound.blocks[3]?.offset)]));
    expect(readTrace(folder.file('spliced.trace')).damage).toMatchObject({ kind: 'damaged', byte: sound.blocks[3]?.offset });
    // With an equal header only the whole can tell.
    const records = sound.records.map((record) => Uint8Array.from(record));
    records[0]?.set([1, 2, 3]);
    writeTrace(folder.file('same.trace'), records, { block_bytes: 1200 });
    const first = readFileSync(folder.file('same.trace')).subarray(sound.header);
    const length = BLOCK.bytes + first.readUInt32LE(BLOCK.stored_bytes);
    writeFileSync(folder.file('spliced.trace'), joined([first.subarray(0, length), ...parts().slice(1)]));
    const { damage } = readTrace(folder.file('spliced.trace'));
    expect(damage?.message).toMatch('its hash is not that of the records before it, though each block is sound: they are of another run');
  });
});

describe('a trace made to harm', () => {
  const head = packHeader(HEADER);
  const made = (...rest: Uint8Array[]): ReadTrace => readSpoilt(Buffer.concat([head.bytes, ...rest])).strict;
  /** A block with a sound checksum that says of itself what it likes. */
  const lying = (raw: Uint8Array, field: number, value: number): Uint8Array => {
    const [header, payload] = packBlock(raw, 0, 0, 1, head.checksum);
    const buffer = Buffer.concat([header, payload]);
    buffer.writeUInt32LE(value, field);
    buffer.writeUInt32LE(crc32(buffer.subarray(0, BLOCK.checksum), head.checksum), BLOCK.checksum);
    buffer.writeUInt32LE(crc32(payload, buffer.readUInt32LE(BLOCK.checksum)), BLOCK.payload_checksum);
    return buffer;
  };
  const record = Buffer.concat([Uint8Array.of(0x80, 0x08), new Uint8Array(1024)]);

  it('has its lengths checked before memory is taken', () => {
    expect(made(lying(record, BLOCK.records, 1)).damage?.kind).toBe('unfinished');
    for (const [field, value, what] of [
      [BLOCK.raw_bytes, 2 ** 32 - 1, 'its header says what cannot be'],
      [BLOCK.stored_bytes, 2 ** 31, 'its header says what cannot be'],
      [BLOCK.first_record + 4, 2 ** 31, 'its header says what cannot be'],
      [BLOCK.records, 0, 'its header says what cannot be'],
      [BLOCK.records, 2, 'it does not hold 2 records'],
      [BLOCK.compressor, 9, 'its compressor 9 is not known'],
      // Decompressed it would be more, or less, than it says.
      [BLOCK.raw_bytes, 100, 'it does not decompress to the length that its header says'],
      [BLOCK.raw_bytes, 60 * 2 ** 20, 'it does not decompress to the length that its header says'],
    ] as const)
      expect(made(lying(record, field, value)).damage?.message).toBe(`block 0 at byte ${head.bytes.length}: ${what}`);
  });

  it('cannot make a small block swell: decompression stops at the length that the header says', () => {
    const swelling = zstdCompressSync(Buffer.alloc(256 * 2 ** 20));
    // Stored as it is, then called compressed: a block of 10,000 bytes that would be 256 MiB.
    const noise = Buffer.concat([swelling, Buffer.alloc(10_000 - swelling.length)]);
    const [header] = packBlock(noise, 0, 0, 1, head.checksum);
    const block = Buffer.concat([header, swelling]);
    block.writeUInt32LE(10_000, BLOCK.raw_bytes);
    block.writeUInt32LE(swelling.length, BLOCK.stored_bytes);
    block.writeUInt32LE(COMPRESSOR.zstd, BLOCK.compressor);
    block.writeUInt32LE(crc32(block.subarray(0, BLOCK.checksum), head.checksum), BLOCK.checksum);
    block.writeUInt32LE(crc32(swelling, block.readUInt32LE(BLOCK.checksum)), BLOCK.payload_checksum);
    const before = process.memoryUsage.rss();
    expect(made(block).damage?.message).toMatch('it does not decompress to the length that its header says');
    // 2 MB were seen, and 551 without the bound.
    expect(process.memoryUsage.rss() - before).toBeLessThan(100e6);
  });

  it('has each record’s length checked', () => {
    for (const raw of [
      [5, 1, 2],
      [0x80, 0],
      [0xff, 0xff, 0xff, 0xff, 1],
      [1, 7, 0],
      [0x80, 0x80, 0x80, 0x7f, 0],
    ])
      expect(made(lying(Uint8Array.from(raw), BLOCK.records, 1)).damage?.message).toMatch('it does not hold 1 records');
  });

  it('is gone through once, though it be all markers', () => {
    for (const marker of ['MPTB', 'MPTE']) {
      const started = performance.now();
      const { lenient } = readSpoilt(Buffer.concat([head.bytes, Buffer.alloc(2 ** 20, marker)]));
      expect(lenient).toMatchObject({ indices: [], damage: { kind: 'damaged', byte: head.bytes.length } });
      expect(performance.now() - started).toBeLessThan(10_000);
    }
  });
});
