/** What a parser cannot take fails its own request: its worker, and whoever else is served there, go on. */
import { describe, expect, it } from 'vitest';
import type { InspectionEvent, PodOptions } from '../../src/index.ts';
import { spokenPod } from '../api/spoken-pod.ts';
import { expectNothingLeft, sleep } from './pods.ts';

const OPENED = '<function=f>';
/** Passes for a tool, and crosses to the pod as null. */
const poison = [{ toJSON: () => null }];
const TEMPLATE = '{% for m in messages %}{{ m.content }}{% endfor %}';

describe('a reply that cannot be parsed', () => {
  it.each<[string, PodOptions]>([
    ['on a live pod', { npus: 2, workers: 2 }],
    ['on a virtual clock, prefill and decode apart', { topology: 'pd', kv_transfer: 'layer', clock: 'virtual', seed: 3 }],
  ])('should fail its request alone, and no worker: %s', async (_, options) => {
    const states = new Map<string, unknown>();
    const inspect = (event: InspectionEvent): void => {
      if (event.type === '@xstate.snapshot' && event.sessionId.startsWith('request/'))
        states.set(event.sessionId, (event.snapshot as { value?: unknown }).value);
    };
    await using spoken = await spokenPod(TEMPLATE, [OPENED], [], { ...options, inspect });
    const { pod } = spoken;
    const quiet = (await pod.complete('Once', { seed: 1, max_tokens: 40, ignore_eos: true })).choices[0]?.token_ids;
    const bystander = pod.complete('Once', { seed: 1, max_tokens: 40, ignore_eos: true });
    const messages = [{ role: 'user' as const, content: 'x' }];
    for (const n of [1, 2, 1]) {
      // Longer than the caller ever takes to hear of it, and to cancel what is left.
      const call = pod.complete({ messages, tools: poison }, { ...spoken.say(OPENED), max_tokens: 999, ignore_eos: true, n, tool_call_parser: 'qwen3_coder' });
      await expect(call).rejects.toMatchObject({ code: 'internal', message: expect.stringContaining("the reply's text could not be parsed") });
    }
    expect((await bystander).choices[0]?.token_ids).toEqual(quiet);
    await expectNothingLeft(pod);
    const { fabric } = await pod.stats();
    expect(fabric.threads.map(({ epoch }) => epoch)).toEqual(fabric.threads.map(() => 1));
    // Snapshots come on their own way: the last ones may be on it still.
    const areOver = (): boolean => states.size === 5 && [...states.values()].every((state) => typeof state === 'string');
    while (!areOver()) await sleep(5);
    expect([...states.values()].sort()).toEqual(['failed', 'failed', 'failed', 'finished', 'finished']);
  });
});
