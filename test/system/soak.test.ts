/** 64 streaming clients for a few seconds: no error, no mixed-up text, memory flat. The long form: `node test/system/soak.ts`. */
import { describe, expect, it } from 'vitest';
import { serve } from '../../src/api/index.ts';
import { askPod, askServer, growth, soak } from './clients.ts';
import { expectNothingLeft, sharedPod } from './pods.ts';

const CLIENTS = 64;
const DURATION_MS = 3_000;
/** Much less than one stream in a hundred could leave behind. */
const GROWTH_BYTES_MAX = 48 * 2 ** 20;

describe('64 streaming clients', () => {
  const pod = sharedPod({ npus: 2, workers: 2 });

  it('through the embedded API', async () => {
    const { streams, mixed, heap_bytes } = await soak(askPod(pod()), CLIENTS, DURATION_MS);
    expect(mixed).toEqual([]);
    expect(streams).toBeGreaterThanOrEqual(CLIENTS);
    expect(growth(heap_bytes)).toBeLessThan(GROWTH_BYTES_MAX);
    await expectNothingLeft(pod());
  });

  it('through HTTP', async () => {
    const server = await serve({ pod: pod(), port: 0 });
    try {
      const { streams, mixed, heap_bytes } = await soak(askServer(server.url), CLIENTS, DURATION_MS);
      expect(mixed).toEqual([]);
      expect(streams).toBeGreaterThanOrEqual(CLIENTS);
      expect(growth(heap_bytes)).toBeLessThan(GROWTH_BYTES_MAX);
    } finally {
      await server.close();
    }
  });
});
