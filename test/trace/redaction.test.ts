/** A trace without prompts: nothing in it tells them, and it replays all the same. */
import { afterAll, describe, expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import { type ActRecord, commandChecksum } from '../../src/trace/act-record.ts';
import { actsOf } from '../../src/trace/acts.ts';
import { KernelRecomputation } from '../../src/trace/recompute.ts';
import { redactMessage } from '../../src/trace/redaction.ts';
import { replayTrace } from '../../src/trace/replay-trace.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { cases } from '../property-runs.ts';
import { traceFolder } from './files.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

/** Longer than a step takes in, so that it comes in chunks. */
const SECRET = Array.from({ length: 40 }, (_, index) => 1_000 + ((index * 397) % 900));
const POD = { npus: 2, workers: 2, max_batch_tokens: 16, kv_blocks: 7 } as const satisfies PodOptions;

type Recorded = { readonly acts: readonly ActRecord[]; readonly bytes: Buffer; readonly prompt_logprobs: readonly number[]; readonly texts: readonly string[] };

async function record(name: string, options: PodOptions, asksLogprobs: boolean): Promise<Recorded> {
  const path = folder.file(name);
  const prompt_logprobs: number[] = [];
  const texts: string[] = [];
  {
    await using pod = await createPod({ ...POD, ...options, record: path });
    const ask = { max_tokens: 40, seed: 5, ignore_eos: true, ...(asksLogprobs && { prompt_logprobs: 1 }) };
    // Together they need more KV blocks than there are: some are preempted, and computed anew with what they had generated.
    // One that begins otherwise: zeros in place of both would begin alike.
    const other = SECRET.with(0, 7);
    for (const completion of await Promise.all([SECRET, SECRET, other, SECRET, other].map((prompt) => pod.complete(prompt, ask)))) {
      for (const at of completion.prompt.logprobs ?? []) if (at !== null) prompt_logprobs.push(at.logprob);
      texts.push(...completion.choices.map(({ text }) => text));
    }
  }
  using reader = TraceReader.open(path);
  const traced = [...actsOf(reader)];
  const report = await replayTrace(reader, parseRunHeader(reader.header, path));
  expect(report).toMatchObject({ outcome: 'reproduced', acts: traced.length, divergence: null });
  return { acts: traced.map(({ act }) => act), bytes: Buffer.concat(traced.map(({ bytes }) => bytes)), prompt_logprobs, texts };
}

function* listsIn(value: unknown): Generator<readonly unknown[]> {
  if (typeof value !== 'object' || value === null) return;
  if (Array.isArray(value)) yield value;
  for (const inner of Object.values(value)) yield* listsIn(inner);
}

const pairs = new Set(SECRET.slice(1).map((token, index) => `${SECRET[index]} ${token}`));

/** Neighbours of the prompt that are neighbours in the trace, and tokens of it that stand where a single one entered a step. */
const told = (acts: readonly ActRecord[]): number =>
  acts
    .flatMap((act) => [...listsIn(act)])
    .filter((list) => list.some((item, index) => pairs.has(`${list[index - 1]} ${item}`)) || (list.length === 1 && SECRET.includes(list[0] as number))).length;

/** As they stand in the file: msgpack's 16-bit numbers, and its float64. */
const encodedPair = (first: number, second: number): Buffer => Buffer.from([0xcd, first >>> 8, first & 255, 0xcd, second >>> 8, second & 255]);
const encodedFloat = (value: number): Buffer => {
  const bytes = Buffer.alloc(9, 0xcb);
  bytes.writeDoubleBE(value, 1);
  return bytes;
};

const CLOCKS = [
  { clock: 'live', kernels: 'real' },
  { clock: 'virtual', kernels: 'hash' },
  { clock: 'virtual', kernels: 'real' },
] as const satisfies PodOptions[];

describe.each(cases<(typeof CLOCKS)[number]>(CLOCKS))('a recorded run, %o', (options) => {
  const name = Object.values(options).join('-');
  const asksLogprobs = options.kernels === 'real';

  it('whose prompts are left out replays, and nothing in its trace tells them', async () => {
    const { acts, bytes, prompt_logprobs, texts } = await record(
      `${name}-redacted.trace`,
      { ...options, record_prompts: false, prefix_caching: false },
      asksLogprobs,
    );
    expect(acts.some(({ message }) => message?.type === 'PREEMPTED')).toBe(true);
    expect(told(acts)).toBe(0);
    for (const [index, token] of SECRET.slice(1).entries()) expect(bytes.includes(encodedPair(SECRET[index] as number, token))).toBe(false);
    expect(prompt_logprobs.length).toBe(asksLogprobs ? 5 * (SECRET.length - 1) : 0);
    for (const logprob of prompt_logprobs) expect(bytes.includes(encodedFloat(logprob))).toBe(false);
    expect([texts[1], texts[3]].every((text) => text === texts[0])).toBe(true);
    using reader = TraceReader.open(folder.file(`${name}-redacted.trace`));
    const header = parseRunHeader(reader.header, 'it');
    await expect(KernelRecomputation.create(header, undefined)).rejects.toMatchObject({ code: 'invalid_request', param: 'compute' });
  });

  it('whose prompts are kept has them, so that the search finds what there is', async () => {
    const { acts, bytes, prompt_logprobs } = await record(`${name}-kept.trace`, options, asksLogprobs);
    expect(told(acts)).toBeGreaterThan(20);
    expect(bytes.includes(encodedPair(SECRET[0] as number, SECRET[1] as number))).toBe(true);
    for (const logprob of prompt_logprobs) expect(bytes.includes(encodedFloat(logprob))).toBe(true);
  });
});

describe('redaction', () => {
  it('does nothing to what is redacted already', async () => {
    const { acts } = await record('idempotent.trace', { clock: 'virtual' }, true);
    const messages = acts.flatMap(({ message }) => message ?? []).map(redactMessage);
    expect(messages.map(redactMessage)).toEqual(messages);
    expect(new Set(messages.map(({ type }) => type))).toEqual(
      expect.objectContaining(new Set(['SUBMIT', 'PLAN', 'ASSIGN', 'ENQUEUE', 'STEP', 'LAUNCH_DONE', 'STEP_DONE', 'TOKENS'])),
    );
  });

  it('comes before checksums: the right guess of a prompt cannot be told from a wrong one', async () => {
    const { acts } = await record('guess.trace', { clock: 'virtual', kernels: 'hash', record_prompts: false, prefix_caching: false }, false);
    const checksums = new Set(acts.flatMap(({ commands }) => commands));
    const sent = acts.filter(({ message }) => message !== null && ['PLAN', 'ASSIGN', 'ENQUEUE'].includes(message.type));
    expect(sent.length).toBeGreaterThan(8);
    for (const { to, message } of sent) {
      if (message === null) continue;
      const guess = JSON.parse(JSON.stringify(message, (key, value) => (key === 'prompt' ? SECRET : value)));
      expect(checksums.has(commandChecksum({ name: 'send', to, message: guess }))).toBe(false);
      expect(checksums.has(commandChecksum({ name: 'send', to, message: guess }, 'redacted'))).toBe(true);
    }
  });
});
