/** 100 streaming HTTP clients at once, some of whom do not read and some of whom hang up. 1,000 of them, and a server's memory: `node test/system/crowd.ts`. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { serve } from '../../src/api/index.ts';
import { UnreadChunks } from '../../src/calls/unread-chunks.ts';
import type { ChunkRecord } from '../../src/protocol/caller.ts';
import { runs } from '../property-runs.ts';
import { liveBytes } from './clients.ts';
import { crowd, talesAlone } from './crowd-clients.ts';
import { expectNothingLeft, sharedPod } from './pods.ts';

const MAX_TOKENS = 6;

describe('a crowd of clients', () => {
  const pod = sharedPod({ npus: 2, workers: 2 });

  it('should each be told all, and only its own, whoever else does not read or hangs up; and leave nothing behind', async () => {
    const server = await serve({ pod: pod(), port: 0 });
    try {
      const tales = await talesAlone(server.port, MAX_TOKENS);
      const options = { clients: 100, stalled: 20, aborting: 10, heavy: 1, max_tokens: MAX_TOKENS, heavy_tokens: 40 };
      expect(await crowd(server.port, tales, options)).toMatchObject({ wrong: [], quick: 70, stalled: 20, aborted: 10 });
      await expect.poll(() => server.active).toBe(0);
    } finally {
      await server.close();
    }
    await expectNothingLeft(pod());
  });

  it('should cost little memory where they do not read: 100 bytes a token', async () => {
    const options = { max_tokens: 180, n: 16, ignore_eos: true };
    await pod().complete('Once upon a time', options);
    const before = await liveBytes();
    const unread = [1, 2].map((seed) => pod().generate('Once upon a time', { ...options, seed }));
    await expect.poll(() => unread.every((generation) => generation.times().finished > 0)).toBe(true);
    expect((await liveBytes()) - before).toBeLessThan(2 * 2_880 * 100);
    for (const generation of unread) {
      const tokens: number[] = [];
      for await (const { token_ids } of generation) tokens.push(...token_ids);
      expect(tokens).toHaveLength(2_880);
    }
  });
});

describe('chunks that wait for their reader', () => {
  const record = (number: number): ChunkRecord => ({
    ...{ request: 1, choice: number % 3, index: number, text: `tale ${number} – ü`, token_ids: [number], logprobs: null },
    ...{ finish: number % 7 === 0 ? 'stop' : null, stop_string: null, stop_token: -1, cached: 0, drafted: 0, parsed: null },
  });

  it('should come out whole and in the order in which they went in, whenever they are taken', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 200 }), { maxLength: 12 }), (bursts) => {
        const unread = new UnreadChunks();
        const [read, told]: [ChunkRecord[], ChunkRecord[]] = [[], []];
        for (const burst of bursts) {
          for (let index = 0; index < burst; index++) {
            const chunk = record(told.length);
            told.push(chunk);
            unread.push(chunk);
          }
          read.push(...unread.take());
        }
        while (!unread.isEmpty) read.push(...unread.take());
        expect(read).toEqual(told);
        expect(unread.take()).toEqual([]);
      }),
      { numRuns: runs(50) },
    );
  });
});
