/** Concurrent streaming clients that know what they must be told: any text of another's is seen at once. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Pod } from '../../src/index.ts';

const TALES = 16;
const MAX_TOKENS = 24;
const promptOf = (tale: number): string => `Tale number ${tale}: once upon a time`;
const optionsOf = (tale: number) => ({ seed: tale, temperature: 1, max_tokens: MAX_TOKENS, ignore_eos: true });

/** Streams one tale and returns its text. */
export type Ask = (prompt: string, options: ReturnType<typeof optionsOf>) => Promise<string>;

export const askPod =
  (pod: Pod): Ask =>
  async (prompt, options) => {
    let text = '';
    for await (const chunk of pod.generate(prompt, options)) text += chunk.text;
    return text;
  };

/** The same over HTTP, as server-sent events of /v1/completions. */
export const askServer =
  (url: string): Ask =>
  async (prompt, options) => {
    const response = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'tiny-deepseek-v3', prompt, stream: true, ...options }),
    });
    const body = await response.text();
    if (response.status !== 200) throw new Error(`${response.status}: ${body}`);
    const events = body.split('\n\n').flatMap((event) => (event.startsWith('data: ') ? [event.slice(6)] : []));
    if (events.at(-1) !== '[DONE]') throw new Error(`the stream ends with ${events.at(-1)}`);
    return events
      .slice(0, -1)
      .map((event) => (JSON.parse(event) as { choices: { text?: string }[] }).choices[0]?.text ?? '')
      .join('');
  };

export type SoakReport = { readonly streams: number; readonly mixed: readonly string[]; readonly rss_bytes: readonly number[] };

/** What each tale is when nobody else is told one. */
export async function talesAlone(ask: Ask): Promise<readonly string[]> {
  const tales: string[] = [];
  for (let tale = 0; tale < TALES; tale++) tales.push(await ask(promptOf(tale), optionsOf(tale)));
  return tales;
}

/** Keeps `clients` streaming for `duration_ms`; whoever ends starts the next tale. Memory is read every so often, after the first third. */
export async function soak(ask: Ask, expected: readonly string[], clients: number, duration_ms: number): Promise<SoakReport> {
  const mixed: string[] = [];
  const rss_bytes: number[] = [];
  const start = performance.now();
  let streams = 0;
  const sampler = setInterval(() => {
    if (performance.now() - start > duration_ms / 3) rss_bytes.push(process.memoryUsage().rss);
  }, 250);
  const client = async (id: number): Promise<void> => {
    for (let turn = 0; performance.now() - start < duration_ms; turn++) {
      const tale = (id * 7 + turn) % TALES;
      const text = await ask(promptOf(tale), optionsOf(tale));
      streams++;
      if (text !== expected[tale]) mixed.push(`client ${id}, turn ${turn}: ${JSON.stringify(text)} is not ${JSON.stringify(expected[tale])}`);
    }
  };
  try {
    await Promise.all(Array.from({ length: clients }, (_, id) => client(id)));
  } finally {
    clearInterval(sampler);
  }
  return { streams, mixed, rss_bytes };
}

/** How much the last quarter of the samples lies above the first, in bytes: medians, so that one collection more or less does not matter. */
export function growth(samples: readonly number[]): number {
  const quarter = Math.max(1, Math.floor(samples.length / 4));
  const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
  return median(samples.slice(-quarter)) - median(samples.slice(0, quarter));
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** What this thread holds for good, in bytes: streams that ended and are still held show here, garbage does not. */
export async function liveBytes(): Promise<number> {
  collectGarbage();
  // Finalizers, fetch's own among them, run in a later turn of the event loop and leave garbage themselves.
  await new Promise((resolve) => setTimeout(resolve, 100));
  collectGarbage();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
