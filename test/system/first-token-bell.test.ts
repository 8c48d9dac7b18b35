/** A caller that waits for first tokens is woken for one; behind it, it looks for tokens by itself. */
import { expect, it } from 'vitest';
import type { Pod } from '../../src/index.ts';
import { withPod } from './pods.ts';

const REQUESTS = 6;
const TOKENS = 48;

const wakesOfCaller = async (pod: Pod): Promise<number> => (await pod.stats()).fabric.threads.find(({ name }) => name === 'caller')?.wakes ?? Number.NaN;

it('wakes a caller for the first token of calls of which none streams, and not for those behind it', async () => {
  await withPod({}, async (pod) => {
    const before = await wakesOfCaller(pod);
    for (let request = 0; request < REQUESTS; request++) await pod.complete([5, 7, 11 + request], { max_tokens: TOKENS, ignore_eos: true });
    const wakes = (await wakesOfCaller(pod)) - before;
    // It may be looking by itself just when one comes.
    expect(wakes).toBeGreaterThan(0);
    expect(wakes).toBeLessThanOrEqual(REQUESTS);
  });
}, 30_000);
