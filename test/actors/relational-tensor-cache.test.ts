/** The relational tensor cache against a memory that knows what lies in each block: nothing is lost, doubled, or taken for what it is not. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PrefixTree } from '../../actors/policies/prefix-tree.ts';
import { type Holding, RelationalTensorCache } from '../../actors/policies/relational-tensor-cache.ts';

const BLOCK = 4;

type Sequence = { readonly holding: Holding; readonly tokens: readonly number[]; computed: number };

/** The cache, and what its blocks hold: all tokens up to the end of the block, as KV depends on them. */
class Memory {
  readonly cache: RelationalTensorCache;
  readonly running: Sequence[] = [];
  readonly #contents = new Map<number, string>();

  constructor(blocks: number) {
    this.cache = new RelationalTensorCache({ blocks, block_size: BLOCK });
  }

  /** How many blocks it found, or null where there is no room for one more. */
  begin(space: string, tokens: readonly number[]): number | null {
    const holding = this.cache.matchByPrefixToken(space, tokens, tokens.length - 1);
    const found = holding.blocks.length;
    holding.blocks.forEach((block, index) => {
      expect(this.#contents.get(block)).toBe(contentOf(space, tokens, index));
    });
    if (!this.cache.canAllocate(1)) {
      this.cache.free(holding);
      return null;
    }
    this.running.push({ holding, tokens, computed: found * BLOCK });
    return found;
  }

  /** Computes up to `count` more tokens, as far as there is room. */
  compute(sequence: Sequence, count: number): void {
    const { holding, tokens } = sequence;
    const to = Math.min(sequence.computed + count, tokens.length);
    const missing = this.cache.blocksFor(to) - holding.blocks.length;
    if (missing > 0) {
      if (!this.cache.canAllocate(missing)) return;
      const others = new Set(this.running.filter((other) => other !== sequence).flatMap((other) => other.holding.blocks));
      for (const block of this.cache.allocBlocks(holding, missing)) {
        expect(others.has(block)).toBe(false);
        this.#contents.delete(block);
      }
    }
    for (let index = Math.floor(sequence.computed / BLOCK); (index + 1) * BLOCK <= to; index++)
      this.#contents.set(holding.blocks[index] as number, contentOf(holding.space, tokens, index));
    sequence.computed = to;
    this.cache.publish(holding, tokens, to);
  }

  end(sequence: Sequence): void {
    this.running.splice(this.running.indexOf(sequence), 1);
    this.cache.free(sequence.holding, sequence.tokens, sequence.computed);
  }

  check(): void {
    const held = new Set(this.running.flatMap(({ holding }) => holding.blocks));
    expect(this.cache.used).toBe(held.size);
    expect(this.cache.canAllocate(this.cache.blocks - held.size)).toBe(true);
    expect(this.cache.canAllocate(this.cache.blocks - held.size + 1)).toBe(false);
  }
}

const contentOf = (space: string, tokens: readonly number[], index: number): string => `${space}:${tokens.slice(0, (index + 1) * BLOCK).join()}`;

/** Few tokens and few lengths, so that prefixes meet. */
const prompt = fc.array(fc.integer({ min: 0, max: 1 }), { minLength: 1, maxLength: 24 });
const step = fc.record({
  act: fc.constantFrom('begin', 'compute', 'compute', 'end', 'drop'),
  space: fc.constantFrom('', 'tenant'),
  prompt,
  at: fc.nat(20),
  count: fc.nat(12),
});

describe('the relational tensor cache', () => {
  it('finds only what was computed of the very same tokens, gives nobody a block that another uses, and keeps exact accounts', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 14 }), fc.array(step, { maxLength: 120 }), (blocks, steps) => {
        const memory = new Memory(blocks);
        for (const { act, space, prompt: tokens, at, count } of steps) {
          const sequence = memory.running[at % Math.max(1, memory.running.length)];
          if (act === 'begin') memory.begin(space, tokens);
          else if (act === 'drop') memory.cache.drop();
          else if (sequence !== undefined && act === 'compute') memory.compute(sequence, count);
          else if (sequence !== undefined) memory.end(sequence);
          memory.check();
        }
        while (memory.running[0] !== undefined) memory.end(memory.running[0]);
        expect(memory.cache.used).toBe(0);
        memory.cache.drop();
        expect(memory.cache.cached).toBe(0);
        memory.check();
      }),
      { numRuns: 500 },
    );
  });

  it('finds the longest prefix of whole blocks that anybody computed, of its own space, and leaves a token to compute', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom('', 'tenant'), prompt), { minLength: 1, maxLength: 20 }), ([...prompts]) => {
        const memory = new Memory(1_000);
        const known = new Set<string>();
        for (const [space, tokens] of prompts) {
          let expected = 0;
          while ((expected + 1) * BLOCK < tokens.length && known.has(contentOf(space, tokens, expected))) expected++;
          expect(memory.begin(space, tokens)).toBe(expected);
          const sequence = memory.running.at(-1) as Sequence;
          memory.compute(sequence, tokens.length);
          for (let index = 0; (index + 1) * BLOCK <= tokens.length; index++) known.add(contentOf(space, tokens, index));
          if (tokens.length % 2 === 0) memory.end(sequence);
        }
      }),
    );
  });

  it('gives up first what was unused the longest, ends of prefixes before their beginnings', () => {
    const memory = new Memory(6);
    const run = (tokens: readonly number[]): number | null => {
      const found = memory.begin('', tokens);
      const sequence = memory.running.at(-1) as Sequence;
      memory.compute(sequence, tokens.length);
      memory.end(sequence);
      return found;
    };
    const tokensOf = (...firsts: number[]): number[] => firsts.flatMap((first) => [first, first, first, first]);
    run(tokensOf(1, 2, 3));
    run(tokensOf(4, 5));
    expect(memory.cache.cached).toBe(5);
    // Uses the oldest again, all but its last block, and needs two more: one is free, the last block of the oldest prefix is the longest unused.
    expect(run([...tokensOf(1, 2, 6), 0])).toBe(2);
    expect(memory.cache.evictions).toBe(1);
    expect(run([...tokensOf(4, 5), 0])).toBe(2);
    expect(memory.cache.evictions).toBe(1);
  });

  it('keeps nothing of a space whose blocks are gone', () => {
    const tree = new PrefixTree(BLOCK);
    for (let space = 0; space < 100; space++) {
      const tokens = [1, 2, 3, space];
      tree.unpin([tree.add(`tenant ${space}`, [], tokens, 0, 7)]);
      expect(tree.spaces).toBe(1);
      expect(tree.evict()).toBe(7);
    }
    expect([tree.spaces, tree.size]).toEqual([0, 0]);
  });

  it('is told when a block is freed twice, or asked for that is not there', () => {
    const cache = new RelationalTensorCache({ blocks: 2, block_size: BLOCK });
    const holding = cache.matchByPrefixToken('', [1], 0);
    expect(() => cache.allocBlocks(holding, 3)).toThrow(/3 KV blocks asked for, 2 are free and 0 kept/);
    cache.allocBlocks(holding, 1);
    const copy = { ...holding, blocks: [...holding.blocks] };
    cache.free(holding);
    expect(() => cache.free(copy)).toThrow(/freed twice/);
  });
});
