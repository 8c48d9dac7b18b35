/** Many clients for a second or two: no error, no mixed-up text, memory flat, nothing stalls. The long forms: `node scripts/soak.ts`, `node scripts/bursts.ts`. */
import { beforeAll, describe, expect, it } from 'vitest';
import { serve } from '../../src/api/index.ts';
import { bursts, talesOf } from './bursts.ts';
import { type Ask, askPod, askServer, liveBytes, soak, talesAlone } from './clients.ts';
import { expectNothingLeft, sharedPod, withPod } from './pods.ts';

const CLIENTS = 64;
const WARM_MS = 200;
const DURATION_MS = 400;
const BURSTS_MS = 300;
/** A kilobyte for each of the hundreds of streams that run in this time: one that stays behind weighs more. */
const BYTES_PER_STREAM_MAX = 1_024;
const BYTES_MAX = 2 ** 20;

async function expectSound(ask: Ask, alone: readonly string[]): Promise<void> {
  expect((await soak(ask, alone, CLIENTS, WARM_MS)).mixed).toEqual([]);
  const before = await liveBytes();
  const { streams, mixed } = await soak(ask, alone, CLIENTS, DURATION_MS);
  expect(mixed).toEqual([]);
  expect(streams).toBeGreaterThanOrEqual(CLIENTS);
  expect((await liveBytes()) - before).toBeLessThan(BYTES_MAX + streams * BYTES_PER_STREAM_MAX);
}

describe('many clients', () => {
  const pod = sharedPod({ npus: 2, workers: 2 });
  let alone: readonly string[];
  beforeAll(async () => {
    alone = await talesAlone(askPod(pod()));
    expect(new Set(alone).size).toBe(alone.length);
  });

  it('64 that stream, through the embedded API', async () => {
    await expectSound(askPod(pod()), alone);
    await expectNothingLeft(pod());
  });

  it('64 that stream, through HTTP', async () => {
    const server = await serve({ pod: pod(), port: 0 });
    try {
      await expectSound(askServer(server.url), alone);
    } finally {
      await server.close();
    }
    await expectNothingLeft(pod());
  });

  it('in bursts of short calls should stall at no experts that are apart, where domains take turns', async () => {
    const tales = await talesOf(pod());
    await withPod({ topology: 'moe-attention:domains=1x2,experts=2', workers: 2, schedule: 'domains' }, async (apart) => {
      expect((await bursts(apart, tales, BURSTS_MS, 1)).ended).toBeGreaterThan(0);
    });
  });
});
