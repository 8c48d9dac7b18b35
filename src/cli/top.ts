/**
 * `minipod top`: what the engines of a running server do, from its /metrics. On a terminal over and over until q or Ctrl-C, elsewhere once.
 * It speaks to vLLM as well, which has the same metrics.
 * @module
 */
import { setTimeout as delay } from 'node:timers/promises';
import * as z from 'zod';
import { MinipodError } from '../index.ts';
import { Interrupt } from './interrupt.ts';
import { print, printJson } from './output.ts';
import { Screen } from './screen.ts';
import { enginesOf, type Look, lookAt, modelOf, topLines } from './top-table.ts';

/** Rates on a terminal are over so long: of a second alone they would jump. */
const WINDOW_MS = 5_000;
const ANSWER_MS_MAX = 5_000;

export const topOptionsSchema = z.strictObject({
  url: z.url({ protocol: /^https?$/, error: 'must be the http or https URL of a server' }).default('http://127.0.0.1:8000'),
  api_key: z.string().optional(),
  interval_seconds: z.number().min(0.05).max(3_600).default(1),
});

export type TopCommand = { readonly options: z.output<typeof topOptionsSchema>; readonly once: boolean; readonly json: boolean };

export async function top(command: TopCommand): Promise<number> {
  using interrupt = new Interrupt();
  try {
    return await show(command, interrupt);
  } catch (error) {
    if (interrupt.by === null) throw error;
    return interrupt.exit_code;
  }
}

async function show({ options, once, json }: TopCommand, interrupt: Interrupt): Promise<number> {
  const interval_ms = 1000 * options.interval_seconds;
  const first = await look(options, interrupt.signal);
  // The signal ends it early, which is no failure.
  const pause = (): Promise<void> => delay(interval_ms, undefined, { signal: interrupt.signal }).catch(() => {});
  if (once || json || process.stdout.isTTY !== true) {
    await pause();
    if (interrupt.by !== null) return interrupt.exit_code;
    const now = await look(options, interrupt.signal);
    if (json) await printJson({ url: options.url, model: modelOf(now), seconds: (now.at_ms - first.at_ms) / 1000, engines: enginesOf(first, now) });
    else await print(`${topLines(options.url, first, now).join('\n')}\n`);
    return 0;
  }
  return watch(options, first, pause, interrupt);
}

async function watch(options: TopCommand['options'], first: Look, pause: () => Promise<void>, interrupt: Interrupt): Promise<number> {
  const screen = new Screen();
  const looks = [first];
  let hasLeft = false;
  using _keys = onKeys((key) => {
    hasLeft ||= key === 'q';
    // A terminal in raw mode gives Ctrl-C as a key.
    if (key === 'q' || key === '\x03') interrupt.raise('SIGINT');
  });
  for (;;) {
    await pause();
    if (interrupt.by !== null) return hasLeft ? 0 : interrupt.exit_code;
    try {
      const now = await look(options, interrupt.signal);
      looks.push(now);
      while (looks.length > 2 && now.at_ms - (looks[1] as Look).at_ms >= WINDOW_MS) looks.shift();
      await screen.paint([...topLines(options.url, looks[0] as Look, now), '', 'q leaves']);
    } catch (error) {
      // It may come back.
      if (interrupt.by === null) await screen.paint([error instanceof Error ? error.message : String(error), '', 'q leaves']);
    }
  }
}

/** Each key as it is pressed, until disposed of. */
function onKeys(hear: (key: string) => void): Disposable {
  const { stdin } = process;
  if (stdin.isTTY !== true) return { [Symbol.dispose]: () => {} };
  const onData = (data: Buffer): void => {
    for (const key of data.toString()) hear(key);
  };
  stdin.setRawMode(true);
  stdin.on('data', onData);
  return {
    [Symbol.dispose]: () => {
      stdin.off('data', onData);
      stdin.setRawMode(false);
      stdin.pause();
    },
  };
}

/** @throws `closed` where no server answers, or it does not tell its metrics */
async function look({ url, api_key }: TopCommand['options'], signal: AbortSignal): Promise<Look> {
  const wrong = (why: string, cause?: unknown): MinipodError => new MinipodError('closed', `${url} ${why}`, { cause });
  let response: Response;
  let text: string;
  try {
    response = await fetch(new URL('/metrics', url), {
      headers: api_key === undefined ? {} : { authorization: `Bearer ${api_key}` },
      signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS_MAX)]),
    });
    text = await response.text();
  } catch (error) {
    throw wrong('does not answer; is `minipod serve` running there?', error);
  }
  if (response.status === 401) throw wrong('asks for a key that was not given or is not the right one: --api-key, or MINIPOD_API_KEY');
  if (!response.ok) throw wrong(`answers /metrics with ${response.status}`);
  const now = lookAt(text, performance.now());
  if (enginesOf(now, now).length === 0) throw wrong('tells no metrics of vLLM or minipod');
  return now;
}
