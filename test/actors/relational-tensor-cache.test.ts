/** The relational tensor cache against a memory that knows what lies at each position of each block: nothing is lost, doubled, or taken for what it is not. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Holding } from '../../actors/policies/cache-holding.ts';
import type { RemoteCopy } from '../../actors/policies/cache-transfers.ts';
import { KvEventLog } from '../../actors/policies/kv-events.ts';
import { PromptTails, type Tail } from '../../actors/policies/prompt-tails.ts';
import { type CacheLimits, RelationalTensorCache } from '../../actors/policies/relational-tensor-cache.ts';
import type { TierCopy } from '../../src/protocol/transfers.ts';
import { runs } from '../property-runs.ts';
import { BLOCK, CacheMemory, HBM_ALONE } from './cache-memory.ts';

/** Few blocks to choose from, so that prefixes meet; the last is not always whole. */
const prompt = fc
  .tuple(fc.array(fc.constantFrom(0, 0, 1), { maxLength: 5, size: 'max' }), fc.integer({ min: 1, max: BLOCK }))
  .map(([blocks, more]) => [...blocks.flatMap((block) => Array.from({ length: BLOCK }, () => block)), ...Array.from({ length: more }, (_, at) => at % 2)]);
const ACTS = [
  ...[
    'begin',
    'run',
    'run',
    'run',
    'run',
    'run',
    'choice',
    'choice',
    'choice',
    'by id',
    'compute',
    'compute',
    'compute',
    'decode',
    'end',
    'end',
    'end',
    'give way',
  ],
  ...['swap out', 'swap out', 'perform', 'arrive', 'arrive', 'arrive', 'arrive', 'arrive', 'fetch', 'rare'],
] as const;
/** Transfers take longer, so that memory goes bad under them. */
const BAD_ACTS = [
  ...['begin', 'run', 'run', 'choice', 'by id', 'bring', 'bring', 'bring', 'share', 'share', 'share', 'compute', 'compute', 'compute', 'compute', 'decode'],
  ...['end', 'end', 'end', 'end', 'give way', 'swap out', 'swap out', 'arrive', 'arrive', 'arrive', 'go bad', 'go bad below', 'rare', 'take all'],
];
const step = { space: fc.constantFrom('', 'tenant'), prompt, at: fc.nat(20), count: fc.nat(12) };
const limits = fc
  .record({
    blocks: fc.integer({ min: 1, max: 16 }),
    dram_blocks: fc.constantFrom(0, 1, 3, 8, 40),
    low: fc.nat(6),
    more: fc.nat(8),
    swap_blocks_max: fc.integer({ min: 1, max: 5 }),
  })
  .map(({ low, more, ...rest }): CacheLimits => ({ ...rest, block_size: BLOCK, swap_low: low, swap_high: low + more, kv_event_batches: 1_000 }));

/** Random lives of a cache of such sizes, which its memory checks after each act. */
function tryLives(sizes: fc.Arbitrary<CacheLimits>, acts: readonly string[], lives: number): void {
  const steps = fc.array(fc.record({ ...step, act: fc.constantFrom(...acts) }), { maxLength: 400, size: 'max' });
  fc.assert(
    fc.property(sizes, fc.array(prompt, { minLength: 3, maxLength: 3 }), steps, (made, prompts, tried) => {
      const memory = new CacheMemory(made, prompts);
      for (const one of tried) {
        memory.act(one);
        memory.check();
      }
      memory.end();
    }),
    { numRuns: runs(lives) },
  );
}

describe('the relational tensor cache', () => {
  it('finds only what was computed of the very same tokens, gives nobody a block that another or a transfer uses, and keeps exact accounts', () =>
    tryLives(limits, ACTS, 50));

  it('gives nobody a block that went bad, whoever had it when, and nobody what lay there', () =>
    tryLives(
      limits.map((sizes) => ({ ...sizes, blocks: sizes.blocks + 8 })),
      BAD_ACTS,
      100,
    ));

  it('finds the longest prefix of whole blocks that anybody computed, of its own space, and leaves a token to compute', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom('', 'tenant'), prompt), { minLength: 1, maxLength: 20 }), fc.boolean(), ([...prompts], swaps) => {
        // With a low mark that is never met, all that is let go of is copied to DRAM, and found there or in HBM.
        const memory = new CacheMemory(
          { ...HBM_ALONE, blocks: 1_000, ...(swaps && { dram_blocks: 1_000, swap_low: 1_000, swap_high: 1_000, swap_blocks_max: 99 }) },
          [],
        );
        const known = new Set<string>();
        for (const [space, tokens] of prompts) {
          let expected = 0;
          const prefix = (blocks: number): string => `${space}:${tokens.slice(0, blocks * BLOCK).join()}`;
          while ((expected + 1) * BLOCK < tokens.length && known.has(prefix(expected + 1))) expected++;
          expect(memory.begin(space, [...tokens])).toBe(expected * BLOCK);
          const sequence = memory.running.at(-1);
          if (sequence === undefined) throw new Error('no room');
          memory.compute(sequence, tokens.length);
          for (let blocks = 1; blocks * BLOCK <= tokens.length; blocks++) known.add(prefix(blocks));
          if (tokens.length % 2 === 0) memory.finish(sequence);
          for (let swap = memory.cache.copy('cold'); swap !== null; swap = memory.cache.copy('cold')) {
            memory.start(swap);
            memory.arrive(0);
          }
        }
      }),
      { numRuns: runs(100) },
    );
  });

  it('gives up first what was unused the longest, ends of prefixes before their beginnings', () => {
    const memory = new CacheMemory({ ...HBM_ALONE, blocks: 6 }, []);
    const run = (tokens: number[]): number | null => {
      const found = memory.begin('', tokens);
      const sequence = memory.running.at(-1);
      if (sequence !== undefined) {
        memory.compute(sequence, tokens.length);
        memory.finish(sequence);
      }
      return found === null ? null : found / BLOCK;
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

  it('is told when a block is freed twice, or asked for that is not there', () => {
    const cache = new RelationalTensorCache({ ...HBM_ALONE, blocks: 2 });
    const holding = cache.matchByPrefixToken('', [1], 0);
    expect(() => cache.allocBlocks(holding, 3)).toThrow(/3 KV blocks asked for, 2 are free and 0 kept/);
    cache.allocBlocks(holding, 1);
    const copy: Holding = { ...holding, blocks: [...holding.blocks] };
    cache.free(holding);
    expect(() => cache.free(copy)).toThrow(/freed twice/);
  });
});

describe('the tiers of the cache', () => {
  const sizes: CacheLimits = { ...HBM_ALONE, blocks: 4, dram_blocks: 4, swap_low: 4, swap_high: 4, swap_blocks_max: 8 };
  const tokens = (first: number, blocks: number): number[] => Array.from({ length: blocks * BLOCK }, (_, at) => first * 100 + at);
  /** A prompt whose last block is not full, which the request has computed and shares. */
  function sharedTailOf(request: number) {
    const cache = new RelationalTensorCache({ ...HBM_ALONE, blocks: 8 });
    const prompt = [...tokens(1, 1), 5, 6];
    const owner = cache.matchByPrefixToken('', prompt, prompt.length - 1, request);
    cache.allocBlocks(owner, 2);
    cache.publish(owner, prompt, prompt.length);
    cache.shareTail(owner, prompt, request, prompt.length);
    return { cache, prompt, owner };
  }
  const keep = (cache: RelationalTensorCache, prompt: readonly number[]): void => {
    const holding = cache.matchByPrefixToken('', prompt, prompt.length);
    cache.allocBlocks(holding, prompt.length / BLOCK - holding.blocks.length);
    cache.free(holding, prompt, prompt.length);
  };
  const peek = (cache: RelationalTensorCache, prompt: readonly number[]) => {
    const holding = cache.matchByPrefixToken('', prompt, prompt.length);
    const seen = { hbm: holding.blocks.length, dram: holding.swapped.length, awaited: holding.awaited };
    cache.free(holding);
    return seen;
  };

  it('should copy what is cold before its room is needed, match it only when that is over, and bring it back', () => {
    const cache = new RelationalTensorCache(sizes);
    keep(cache, tokens(1, 3));
    const out = cache.copy('cold') as TierCopy;
    expect(out).toMatchObject({ kind: 'swap-out', from: { tier: 'hbm' }, to: { tier: 'dram' } });
    expect(peek(cache, tokens(1, 3))).toEqual({ hbm: 0, dram: 0, awaited: out.id });
    cache.transfers.done(out.id);
    expect(peek(cache, tokens(1, 3))).toEqual({ hbm: 3, dram: 0, awaited: 0 });
    keep(cache, tokens(2, 4));
    expect(peek(cache, tokens(1, 3))).toEqual({ hbm: 0, dram: 3, awaited: 0 });

    const holding = cache.matchByPrefixToken('', tokens(1, 3), 3 * BLOCK);
    const back = cache.populate(holding) as TierCopy;
    expect(back).toMatchObject({ kind: 'swap-in', from: { tier: 'dram' }, to: { tier: 'hbm', blocks: holding.blocks } });
    expect([cache.queryPopulate(holding), holding.known]).toEqual(['copying', 0]);
    expect(peek(cache, tokens(1, 3)).awaited).toBe(back.id);
    cache.transfers.done(back.id);
    expect([cache.queryPopulate(holding), holding.known]).toEqual(['done', 3 * BLOCK]);
    expect(peek(cache, tokens(1, 3)).hbm).toBe(3);
  });

  it('should give out at once what is being copied out, and nothing that comes of the copy, when nothing else may go', () => {
    const cache = new RelationalTensorCache(sizes);
    keep(cache, tokens(1, 4));
    const out = cache.copy('cold') as TierCopy;
    expect(out.from).toMatchObject({ blocks: { length: 4 } });
    // In HBM since before: two of the four are needed, then all.
    const [first, second] = [cache.matchByPrefixToken('', tokens(2, 2), 0), cache.matchByPrefixToken('', tokens(3, 2), 0)];
    cache.allocBlocks(first, 2);
    expect([cache.used, cache.cached, cache.dram_blocks_used, cache.canAllocate(3)]).toEqual([2, 2, 4, false]);
    cache.allocBlocks(second, 2);
    expect([cache.used, cache.cached, cache.dram_blocks_used, cache.canAllocate(1)]).toEqual([4, 0, 4, false]);
    cache.transfers.done(out.id);
    expect([cache.used, cache.dram_blocks_used]).toEqual([4, 0]);
    cache.free(first);
    cache.free(second);
    expect(peek(cache, tokens(1, 4))).toEqual({ hbm: 0, dram: 0, awaited: 0 });
    expect([cache.used, cache.cached, cache.canAllocate(4)]).toEqual([0, 0, true]);
  });

  it.each([
    ['cold', 0, { hbm: 3, dram: 0, awaited: 0 }],
    ['cold', 1, { hbm: 3, dram: 1, awaited: 0 }],
    ['kept', 0, { hbm: 3, dram: 0, awaited: 0 }],
    ['kept', 1, { hbm: 3, dram: 1, awaited: 0 }],
  ] as const)('should lose no more than the block that is needed, while what follows it is copied out: %s, %i copies done', (of, copies, left) => {
    const cache = new RelationalTensorCache({ ...sizes, swap_blocks_max: 2 });
    keep(cache, tokens(1, 4));
    if (of === 'kept') cache.createContext('book', '', tokens(1, 4));
    for (let copy = 0; copy < copies; copy++) cache.transfers.done((cache.copy('cold') as TierCopy).id);
    const out = cache.copy('cold') as TierCopy;
    const holding = cache.matchByPrefixToken('', tokens(2, 1), 0);
    cache.allocBlocks(holding, 1);
    cache.transfers.done(out.id);
    expect(peek(cache, tokens(1, 4))).toEqual(left);
    cache.free(holding);
  });

  it('should not bring what is on its way for another, and have room for all once that has come and nobody wants it', () => {
    const cache = new RelationalTensorCache({ ...sizes, blocks: 8, swap_low: 8, swap_high: 8 });
    keep(cache, tokens(1, 3));
    cache.transfers.done((cache.copy('cold') as TierCopy).id);
    keep(cache, tokens(2, 8));
    const [first, second] = [1, 2].map(() => cache.matchByPrefixToken('', tokens(1, 3), 3 * BLOCK)) as [Holding, Holding];
    expect([first.swapped.length, second.swapped.length]).toEqual([3, 3]);
    const back = cache.populate(first) as TierCopy;
    expect(cache.populate(second)).toBeNull();
    expect([second.known, second.blocks]).toEqual([0, []]);
    cache.free(second);
    cache.free(first);
    expect(cache.canAllocate(6)).toBe(false);
    cache.transfers.done(back.id);
    expect(cache.canAllocate(8)).toBe(true);
  });

  it('should give up nothing in DRAM while there is nothing to copy there', () => {
    const cache = new RelationalTensorCache(sizes);
    keep(cache, tokens(1, 4));
    cache.transfers.done((cache.copy('cold') as TierCopy).id);
    const all = cache.matchByPrefixToken('', tokens(2, 4), 0);
    cache.allocBlocks(all, 4);
    expect(cache.copy('cold')).toBeNull();
    expect(peek(cache, tokens(1, 4))).toEqual({ hbm: 0, dram: 4, awaited: 0 });
  });

  it('should go on without what could not be brought, and not try it again', () => {
    const cache = new RelationalTensorCache(sizes);
    keep(cache, tokens(1, 3));
    cache.transfers.done((cache.copy('cold') as TierCopy).id);
    keep(cache, tokens(2, 4));
    const holding = cache.matchByPrefixToken('', tokens(1, 3), 3 * BLOCK);
    cache.transfers.fail((cache.populate(holding) as TierCopy).id);
    expect([cache.queryPopulate(holding), holding.known, holding.blocks]).toEqual(['failed', 0, []]);
    expect(peek(cache, tokens(1, 3))).toEqual({ hbm: 0, dram: 0, awaited: 0 });
  });

  it('should bring nothing to who waits for what was reached by a block that went bad, though it came whole', () => {
    const cache = new RelationalTensorCache({ ...HBM_ALONE, blocks: 4 });
    keep(cache, tokens(1, 1));
    const prompt = [...tokens(1, 1), ...tokens(2, 2)];
    const holding = cache.matchByPrefixToken('', prompt, prompt.length);
    const pull = cache.populate(holding, { tokens: prompt, addresses: [7, 8], generations: [0, 0] }) as RemoteCopy;
    const [bad] = holding.blocks as [number];
    cache.mapOut([bad]);
    cache.transfers.done(pull.id);
    expect([cache.queryPopulate(holding), holding.blocks]).toEqual(['failed', [bad]]);
    cache.free(holding, prompt, BLOCK);
    expect([cache.blocks, cache.used, cache.cached, cache.canAllocate(3)]).toEqual([3, 0, 0, true]);
  });

  it('should keep what a context asks for until nothing else may go, and find it by its id, until that is deleted', () => {
    const cache = new RelationalTensorCache({ ...HBM_ALONE, blocks: 6 });
    keep(cache, tokens(1, 2));
    cache.createContext('book', '', tokens(1, 2));
    keep(cache, tokens(2, 4));
    keep(cache, tokens(3, 4));
    expect(peek(cache, tokens(1, 2)).hbm).toBe(2);
    const found = cache.matchByID('book', '', [...tokens(1, 2), 7], 2 * BLOCK) as Holding;
    expect([found.blocks.length, found.known]).toEqual([2, 2 * BLOCK]);
    cache.free(found);
    expect(cache.matchByID('other', '', [1], 1)).toBeNull();
    expect(cache.matchByID('book', 'tenant', tokens(1, 2), 2 * BLOCK)).toBeNull();
    // The same id, and tokens that are not the context's: nothing is taken for what it is not.
    const wrong = cache.matchByID('book', '', tokens(9, 2), 2 * BLOCK) as Holding;
    expect(wrong.known).toBe(0);
    cache.free(wrong);

    keep(cache, tokens(4, 6));
    expect(peek(cache, tokens(1, 2)).hbm).toBe(0);
    const again = cache.matchByID('book', '', tokens(1, 2), 2 * BLOCK) as Holding;
    cache.allocBlocks(again, 2);
    cache.free(again, tokens(1, 2), 2 * BLOCK);
    keep(cache, tokens(5, 4));
    expect(peek(cache, tokens(1, 2)).hbm).toBe(2);
    expect([cache.deleteContext('book'), cache.deleteContext('book')]).toEqual([true, false]);
    keep(cache, tokens(6, 6));
    expect(peek(cache, tokens(1, 2)).hbm).toBe(0);
  });

  it('should share the tail of a prompt among choices, copied by whoever writes and does not own it', () => {
    const { cache, prompt, owner } = sharedTailOf(1);
    expect(cache.copy(owner)).toBeNull();
    expect(cache.matchByPrefixToken('', prompt, prompt.length - 1, 2).known).toBe(BLOCK);
    const [second, third] = [1, 2].map(() => cache.matchByPrefixToken('', prompt, prompt.length - 1, 1)) as [Holding, Holding];
    expect([second.known, second.blocks]).toEqual([BLOCK + 1, owner.blocks]);
    cache.free(owner);
    // Its owner is gone, and two read it.
    const copy = cache.copy(second) as TierCopy;
    expect(copy).toMatchObject({ kind: 'copy', from: { tier: 'hbm', blocks: [third.blocks[1]] }, to: { tier: 'hbm', blocks: [second.blocks[1]] } });
    cache.transfers.done(copy.id);
    // Alone with it: it need not be copied.
    expect(cache.copy(third)).toBeNull();
    expect(new Set([...second.blocks, ...third.blocks]).size).toBe(3);
    cache.free(second);
    cache.free(third);
    expect(cache.used).toBe(1);
  });

  it('should share no tail with who names no request', () => {
    const { cache, prompt } = sharedTailOf(0);
    cache.createContext('book', '', tokens(1, 1));
    expect(cache.matchByID('book', '', prompt, prompt.length - 1, 0)?.known).toBe(BLOCK + 1);
    expect(cache.matchByID('book', '', prompt, prompt.length - 1)?.known).toBe(BLOCK);
    expect(cache.matchByPrefixToken('', prompt, prompt.length - 1).known).toBe(BLOCK);
  });

  it('should have one tail of a request at a time, and forget it with its last reader, not with that of one before', () => {
    const tails = new PromptTails();
    const first = tails.offer(1, 0, [5, 6], 9) as Tail;
    expect(tails.offer(1, 0, [5, 6], 8)).toBeNull();
    expect([tails.share(1, [5, 7], 0, 2), tails.share(1, [5, 6], 0, 2)]).toEqual([null, first]);
    expect([tails.release(first, true), tails.size, tails.release(first, false), tails.size]).toEqual([false, 1, true, 0]);
    const whole = tails.offer(1, 0, [5, 6], 7) as Tail;
    expect([tails.retire(whole), tails.size]).toEqual([true, 0]);
    const next = tails.offer(1, 2, [8], 6) as Tail;
    expect([tails.release(whole, true), tails.share(1, [5, 6, 8], 2, 3)]).toEqual([true, next]);
  });

  it('should tell once more of as many batches of events as it keeps', () => {
    const events = new KvEventLog(BLOCK, 2);
    for (let batch = 0; batch < 5; batch++) {
      events.cleared();
      events.endBatch();
    }
    expect(events.since(0).batches.map(({ seq }) => seq)).toEqual([3, 4]);
    expect([events.since(4).batches.length, events.since(0).next]).toEqual([1, 5]);
  });
});
