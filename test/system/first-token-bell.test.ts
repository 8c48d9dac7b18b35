/** A caller that waits for first tokens is woken for one; behind it, it looks for tokens by itself. */
import { expect, it } from 'vitest';
import type { Pod } from '../../src/index.ts';
import { sleep, withPod } from './pods.ts';

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

it('sends what a call asks at once, though its thread has rested and would look up by itself a second later', async () => {
  await withPod({}, async (pod) => {
    const took_ms: number[] = [];
    for (let call = 0; call < 4; call++) {
      await pod.complete([5, 7, 11 + call], { max_tokens: 1 });
      await sleep(20);
      const start = performance.now();
      await pod.complete([5, 8, 11 + call], { max_tokens: 1 });
      took_ms.push(performance.now() - start);
    }
    // Of several, since a machine that does other things keeps one waiting.
    expect(Math.min(...took_ms)).toBeLessThan(500);
  });
}, 30_000);
