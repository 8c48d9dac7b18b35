/**
 * `minipod top`: what the engines of a running server do, from its /metrics. On a terminal over and over until q or Ctrl-C, elsewhere once.
 * It speaks to vLLM as well, which has the same metrics.
 * @module
 */
import { setTimeout as delay } from 'node:timers/promises';
import * as z from 'zod';
import { MinipodError } from '../index.ts';
import { type Interrupt, interruptible } from './interrupt.ts';
import { print, printJson } from './output.ts';
import { askServer, serverSchema } from './server.ts';
import { controlThreadsLost, enginesOf, type Look, lookAt, modelOf, topLines } from './top-table.ts';
import { watch } from './watch.ts';

export const topOptionsSchema = z.strictObject({
  ...serverSchema.shape,
  interval_seconds: z.number().min(0.05).max(3_600).default(1),
});

export type TopCommand = { readonly options: z.output<typeof topOptionsSchema>; readonly once: boolean; readonly json: boolean };

export const top = (command: TopCommand): Promise<number> => interruptible((interrupt) => show(command, interrupt));

async function show({ options, once, json }: TopCommand, interrupt: Interrupt): Promise<number> {
  const interval_ms = 1000 * options.interval_seconds;
  const first = await look(options, interrupt.signal);
  // The signal ends it early, which is no failure.
  const pause = (): Promise<void> => delay(interval_ms, undefined, { signal: interrupt.signal }).catch(() => {});
  if (once || json || process.stdout.isTTY !== true) {
    await pause();
    if (interrupt.by !== null) return interrupt.exit_code;
    const now = await look(options, interrupt.signal);
    const seconds = (now.at_ms - first.at_ms) / 1000;
    if (json)
      await printJson({ url: options.url, model: modelOf(now), seconds, control_threads_lost: controlThreadsLost(now), engines: enginesOf(first, now) });
    else await print(`${topLines(options.url, first, now).join('\n')}\n`);
    return 0;
  }
  return watch({
    first,
    look: () => look(options, interrupt.signal),
    linesOf: (earliest, now, wide) => topLines(options.url, earliest, now, wide),
    pause,
    interrupt,
  });
}

/** @throws `closed` where no server answers, or it does not tell its metrics */
async function look(server: TopCommand['options'], signal: AbortSignal): Promise<Look> {
  const now = lookAt(await askServer(server, '/metrics', signal), performance.now());
  if (enginesOf(now, now).length === 0) throw new MinipodError('closed', `${server.url} tells no metrics of vLLM or minipod`);
  return now;
}
