/** What a pod tells of its KV blocks: enough to know which prefixes each DP group has. */
import { describe, expect, it } from 'vitest';
import type { KvEvent, KvEventBatch, Pod, PodOptions } from '../../src/index.ts';
import { withPod } from './pods.ts';

const BLOCK = 16;
const prompt = (length: number, from = 0): number[] => Array.from({ length }, (_, at) => 3 + ((from + at * 7) % 400));
const OPTIONS = { max_tokens: 1, ignore_eos: true, data_parallel_rank: 1 };

async function all(pod: Pod, dp_group: number, from = 0): Promise<KvEventBatch[]> {
  const { batches, next } = await pod.kvEvents(dp_group, from);
  const last = batches.at(-1);
  return last === undefined || last.seq + 1 === next ? [...batches] : [...batches, ...(await all(pod, dp_group, last.seq + 1))];
}

/** Each prefix that the events say is stored, as the tokens of all blocks up to its last. */
function prefixes(batches: readonly KvEventBatch[]): number[][] {
  const known = new Map<number, number[]>();
  const hear = (event: KvEvent): void => {
    if (event.type === 'AllBlocksCleared') known.clear();
    else if (event.type === 'BlockRemoved') for (const name of event.block_hashes) expect(known.delete(name)).toBe(true);
    else {
      expect(event).toMatchObject({ block_size: BLOCK, lora_id: null, medium: 'GPU' });
      let before = event.parent_block_hash === null ? [] : known.get(event.parent_block_hash);
      for (const [index, name] of event.block_hashes.entries()) {
        before = [...(before ?? [-1]), ...event.token_ids.slice(BLOCK * index, BLOCK * (index + 1))];
        known.set(name, before);
      }
    }
  };
  for (const { events } of batches) for (const event of events) hear(event);
  return [...known.values()].sort((a, b) => a.length - b.length || (a[0] ?? 0) - (b[0] ?? 0));
}

const PODS: readonly PodOptions[] = [{ clock: 'live' }, { clock: 'virtual', kernels: 'hash' }];

describe.each(PODS)('KV events of a pod: %o', (options) => {
  it('should tell what is kept, in batches without a gap, and be read again from any of them', () =>
    withPod({ ...options, npus: 2 }, async (pod) => {
      await pod.complete(prompt(40), OPTIONS);
      await pod.complete([...prompt(32), ...prompt(20, 5)], OPTIONS);
      expect((await pod.kvEvents(0)).next).toBe(0);
      const batches = await all(pod, 1);
      expect(batches.map(({ seq }) => seq)).toEqual(batches.map((_, index) => index));
      const [whole, other] = [prompt(40), [...prompt(32), ...prompt(20, 5)]];
      expect(prefixes(batches)).toEqual([whole.slice(0, 16), whole.slice(0, 32), other.slice(0, 48)]);
      expect(await all(pod, 1, 1)).toEqual(batches.slice(1));
      await pod.resetPrefixCache();
      // On threads the message that resets may still be under way.
      await expect.poll(async () => prefixes(await all(pod, 1))).toEqual([]);
      await expect(pod.kvEvents(2)).rejects.toMatchObject({ code: 'invalid_request', param: 'dp_group' });
    }));
});

describe('names of blocks', () => {
  it('should be others where KV comes about by other numerics, each option for itself', async () => {
    const namesIn = (options: PodOptions): Promise<readonly number[]> =>
      withPod({ clock: 'virtual', ...options }, async (pod) => {
        await pod.complete(prompt(20), { ...OPTIONS, data_parallel_rank: 0 });
        return (await all(pod, 0)).flatMap(({ events }) => events.flatMap((event) => (event.type === 'BlockStored' ? event.block_hashes : [])));
      });
    const options: readonly PodOptions[] = [{}, { kv_cache_dtype: 'int8' }, { dispatch_dtype: 'int8' }, { combine_dtype: 'int8' }, { average_routing: true }];
    const names: (readonly number[])[] = [];
    for (const numerics of options) names.push(await namesIn(numerics));
    expect(names.map(({ length }) => length)).toEqual(options.map(() => 1));
    expect(new Set(names.flat()).size).toBe(options.length);
    // How it is laid out is no numerics.
    expect(await namesIn({ npus: 2, max_batch_tokens: 7 })).toEqual(names[0]);
  });
});

describe('KV events of a pod that is short of blocks', () => {
  it('should tell what has gone, and say by their numbers what nobody can read again', () =>
    withPod({ clock: 'virtual', kernels: 'hash', kv_blocks: 130 }, async (pod) => {
      for (let at = 0; at < 60; at++) await pod.complete([...prompt(50, at), 500 + at], { ...OPTIONS, data_parallel_rank: 0 });
      const batches = await all(pod, 0);
      expect(batches.flatMap(({ events }) => events).some(({ type }) => type === 'BlockRemoved')).toBe(true);
      const { npus } = await pod.stats();
      expect(prefixes(batches).length).toBe(npus[0]?.kv_blocks_cached);
    }));
});
