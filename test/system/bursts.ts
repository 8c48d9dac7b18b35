/**
 * Bursts of short calls, some of whose callers go away: NPUs begin, end and rest all the time, each at a moment of its own, while others still compute. What they are told of
 * as they do so must not be lost, so as soon as no token comes any more while calls are open the pod has stalled.
 */
import type { Pod } from '../../src/index.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import { draws } from '../trace/files.ts';
import { sleep } from './pods.ts';

const TALES = 12;
const TOKENS_MAX = 24;

export type Bursts = {
  readonly bursts: number;
  readonly ended: number;
  /** Callers that went away. */
  readonly left: number;
  readonly tokens: number;
};

const promptOf = (tale: number): number[] => Array.from({ length: 1 + ((tale * 7) % 30) }, (_, at) => 3 + ((tale * 7_919 + at * 104_729) % 1_900));
const optionsOf = (max_tokens: number) => ({ max_tokens, temperature: 0, ignore_eos: true });

/** By tale, what a pod tells that computes nothing else meanwhile. */
export async function talesOf(pod: Pod): Promise<readonly (readonly number[])[]> {
  const ends = await Promise.all(Array.from({ length: TALES }, (_, tale) => pod.complete(promptOf(tale), optionsOf(TOKENS_MAX))));
  return ends.map(({ choices }) => choices[0]?.token_ids ?? []);
}

class Watch {
  readonly #stall_ms: number;
  #last_ms = performance.now();
  readonly #open = new Set<string>();

  constructor(stall_ms: number) {
    this.#stall_ms = stall_ms;
  }

  hasCome(): void {
    this.#last_ms = performance.now();
  }

  async during(name: string, call: Promise<void>): Promise<void> {
    this.#open.add(name);
    await call.finally(() => this.#open.delete(name));
  }

  /** Rejects when nothing has come for too long. */
  async stall(pod: Pod, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(20);
      if (this.#open.size === 0 || performance.now() - this.#last_ms < this.#stall_ms) continue;
      const states = (await pod.stats()).npus.map(({ npu, state }) => `NPU ${npu} is ${state}`);
      throw new Error(`no token for ${this.#stall_ms} ms, open are ${[...this.#open].join('; ')}: ${states.join(', ')}`);
    }
  }
}

/** For `duration_ms`. @throws when the pod stalls, when a call fails, or is told anything but `tales` */
export async function bursts(pod: Pod, tales: readonly (readonly number[])[], duration_ms: number, seed: number, stall_ms = 10_000): Promise<Bursts> {
  const below = draws(seed);
  const watch = new Watch(stall_ms);
  const counts = { bursts: 0, ended: 0, left: 0, tokens: 0 };
  const call = async (tale: number, max_tokens: number, leaves: number): Promise<void> => {
    const away = new AbortController();
    const told: number[] = [];
    try {
      if (leaves === 0) setTimeout(() => away.abort(), 0);
      for await (const { token_ids } of pod.generate(promptOf(tale), { ...optionsOf(max_tokens), signal: away.signal })) {
        told.push(...token_ids);
        watch.hasCome();
        if (told.length >= leaves) away.abort();
      }
      counts.ended++;
    } catch (error) {
      if (!(error instanceof MinipodError) || error.code !== 'cancelled') throw error;
      counts.left++;
    }
    counts.tokens += told.length;
    if (told.join(' ') !== tales[tale]?.slice(0, told.length).join(' '))
      throw new Error(`tale ${tale} goes ${told.join(' ')}, it should ${tales[tale]?.join(' ')}`);
  };
  const one = (): Promise<void> => {
    const [tale, max_tokens, leaves] = [below(TALES), 1 + below(below(4) === 0 ? TOKENS_MAX : 4), below(4) === 0 ? below(4) : Number.POSITIVE_INFINITY];
    return watch.during(`tale ${tale} of ${max_tokens} tokens${leaves < max_tokens ? `, left after ${leaves}` : ''}`, call(tale, max_tokens, leaves));
  };
  const end = new AbortController();
  const stalled = watch.stall(pod, end.signal);
  const run = async (): Promise<void> => {
    for (const start = performance.now(); performance.now() - start < duration_ms; counts.bursts++) {
      watch.hasCome();
      await Promise.all(Array.from({ length: 1 + below(below(4) === 0 ? 12 : 3) }, one));
      if (below(4) === 0) await sleep(below(3));
    }
  };
  try {
    await Promise.race([run(), stalled]);
  } finally {
    end.abort();
    stalled.catch(() => {});
  }
  return counts;
}
