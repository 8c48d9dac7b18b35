/** Sums of blocks: the kernel and its JavaScript agree on every bit, and what differs shows. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { globalAddress } from '../../../src/fabric/address.ts';
import { AddressSpace } from '../../../src/fabric/address-space.ts';
import { kernelChecksum, plainChecksum } from '../../../src/flowserve/distflow/checksum.ts';
import { instantiateKernels, loadKernelModule } from '../../../src/model/kernels/kernels.ts';
import { runs } from '../../property-runs.ts';

const AT = globalAddress(1, 131_072);
const WORDS = 40_000;
const memories = [2, 8].map((pages) => new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }));
const space = new AddressSpace(memories, []);
const module = await loadKernelModule();
const kernel = kernelChecksum(
  space,
  memories.map((memory) => instantiateKernels(module, memory)),
);
const plain = plainChecksum(space);
const words = space.wordsOf(AT);
const first = 131_072 / 4;

const range = fc.record({ skip: fc.nat({ max: 40 }), count: fc.oneof(fc.nat({ max: 200 }), fc.nat({ max: WORDS - 40 })), seed: fc.integer() });

describe('a checksum', () => {
  it('is the same by the kernel and by JavaScript, whatever the length, the alignment and the seed', () => {
    fc.assert(
      fc.property(range, fc.integer(), ({ skip, count, seed }, salt) => {
        for (let at = 0; at < skip + count; at++) words[first + at] = Math.imul(at ^ salt, 0x915f_77f5);
        expect(kernel.sum(seed, AT + 4 * skip, 4 * count)).toBe(plain.sum(seed, AT + 4 * skip, 4 * count));
        expect(kernel.rest(seed, AT + 4 * skip, 4 * count)).toBe(plain.rest(seed, AT + 4 * skip, 4 * count));
      }),
      { numRuns: runs(60) },
    );
  });

  it('is the same of what is copied, within a segment and between two, and the copy is whole', () => {
    fc.assert(
      fc.property(range, ({ skip, count: many, seed }) => {
        const count = Math.min(many, 8_000);
        const to = [AT + 4 * (WORDS + skip), globalAddress(0, 98_304)] as const;
        for (let at = 0; at < skip + count; at++) words[first + at] = Math.imul(at ^ seed, 0x915f_77f5);
        for (const target of to) {
          const { length } = space.bytesAt(target, 4 * count).fill(0);
          expect(kernel.copy(seed, target, AT + 4 * skip, length)).toBe(kernel.sum(seed, AT + 4 * skip, length));
          expect(Buffer.compare(space.bytesAt(target, length), space.bytesAt(AT + 4 * skip, length))).toBe(0);
        }
      }),
      { numRuns: runs(40) },
    );
  });

  it('shows every bit that differs, two words that changed places, and another length of the same zeros', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 300 }), fc.nat(), fc.nat(), fc.nat({ max: 31 }), (count, one, other, bit) => {
        for (let at = 0; at < count; at++) words[first + at] = at * 3 + 1;
        const sum = kernel.sum(0, AT, 4 * count);
        const [i, j] = [first + (one % count), first + (other % count)];
        words[i] = (words[i] as number) ^ (1 << bit);
        expect(kernel.sum(0, AT, 4 * count)).not.toBe(sum);
        words[i] = (words[i] as number) ^ (1 << bit);
        [words[i], words[j]] = [words[j] as number, words[i] as number];
        if (i !== j) expect(kernel.sum(0, AT, 4 * count)).not.toBe(sum);
        words.fill(0, first, first + count);
        expect(kernel.sum(0, AT, 4 * count)).not.toBe(kernel.sum(0, AT, 4 * (count - 1)));
      }),
      { numRuns: runs(200) },
    );
  });

  it('of memory at rest shows every bit that differs, and another length of the same zeros', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 300 }), fc.nat(), fc.nat({ max: 31 }), (count, one, bit) => {
        for (let at = 0; at < count; at++) words[first + at] = at * 3 + 1;
        const sum = kernel.rest(0, AT, 4 * count);
        words[first + (one % count)] = (words[first + (one % count)] as number) ^ (1 << bit);
        expect(kernel.rest(0, AT, 4 * count)).not.toBe(sum);
        words.fill(0, first, first + count);
        expect(kernel.rest(0, AT, 4 * count)).not.toBe(kernel.rest(0, AT, 4 * (count - 1)));
      }),
      { numRuns: runs(200) },
    );
  });

  // What sums of words modulo 2³² miss: signs of floats that flip in pairs.
  it('shows signs that flip in pairs', () => {
    for (let at = 0; at < 256; at++) words[first + at] = at;
    const sum = kernel.sum(0, AT, 1_024);
    for (let other = 1; other < 256; other++) {
      for (const at of [0, other]) words[first + at] = (words[first + at] as number) ^ (1 << 31);
      expect(kernel.sum(0, AT, 1_024)).not.toBe(sum);
      for (const at of [0, other]) words[first + at] = (words[first + at] as number) ^ (1 << 31);
    }
  });
});
