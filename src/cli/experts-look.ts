/**
 * `minipod experts`: what the experts of a running server do. On a terminal over and over until q or Ctrl-C, elsewhere once; or as an SVG.
 * @module
 */
import { setTimeout as delay } from 'node:timers/promises';
import * as z from 'zod';
import { MinipodError, type PodExperts } from '../index.ts';
import type { Paper } from './expert-heat.ts';
import { writeSvg } from './expert-svg-file.ts';
import { between, expertLines, heatMaps, nameOf } from './expert-tables.ts';
import { type Interrupt, interruptible } from './interrupt.ts';
import { note, print, printJson } from './output.ts';
import { askServer, serverSchema } from './server.ts';
import { UsageError } from './usage-error.ts';
import { watch } from './watch.ts';

const COLUMNS_ELSEWHERE = 120;
const PALETTE = 256;

export const expertsOptionsSchema = serverSchema.extend({
  interval_seconds: z.number().min(0.05).max(3_600).default(1),
  layer: z.int().min(0).optional(),
});

export type ExpertsCommand = {
  readonly options: z.output<typeof expertsOptionsSchema>;
  readonly once: boolean;
  readonly json: boolean;
  readonly recent: boolean;
  readonly svg?: string | undefined;
};

export const experts = (command: ExpertsCommand): Promise<number> => interruptible((interrupt) => show(command, interrupt));

type Look = { readonly at_ms: number; readonly experts: PodExperts };

/** The first look begins to time batches, so there is always a second one. */
async function show({ options, once, json, recent, svg }: ExpertsCommand, interrupt: Interrupt): Promise<number> {
  const first = await look(options, interrupt.signal);
  const known = first.experts.task_executors.flatMap(({ layers }) => layers);
  if (options.layer !== undefined && !known.some(({ layer }) => layer === options.layer)) {
    const names = known.map((stats) => (stats.mtp === undefined ? nameOf(stats) : `${stats.layer} (${nameOf(stats)})`));
    throw new UsageError(`--layer ${options.layer} has no experts; these have: ${[...new Set(names)].join(', ')}`);
  }
  const pause = (): Promise<void> => delay(1000 * options.interval_seconds, undefined, { signal: interrupt.signal }).catch(() => {});
  const linesOf = (earliest: Look, now: Look): string[] =>
    expertLines(headOf(options.url, recent, earliest, now), recent ? between(earliest.experts, now.experts) : now.experts, options.layer, paper());
  if (!once && !json && svg === undefined && process.stdout.isTTY === true)
    return watch({ first, look: () => look(options, interrupt.signal), linesOf, pause, interrupt });
  await pause();
  if (interrupt.by !== null) return interrupt.exit_code;
  const now = await look(options, interrupt.signal);
  const seen = recent ? between(first.experts, now.experts) : now.experts;
  if (svg !== undefined) {
    writeSvg(svg, heatMaps(seen));
    note(`minipod: ${svg} is written`);
  }
  if (json) await printJson({ url: options.url, seconds: (now.at_ms - first.at_ms) / 1000, recent, ...seen });
  else if (svg === undefined) await print(`${linesOf(first, now).join('\n')}\n`);
  return 0;
}

function headOf(url: string, recent: boolean, earliest: Look, now: Look): string {
  const { model, uptime_seconds, top_k, experts_per_layer } = now.experts;
  const since = recent ? `the last ${((now.at_ms - earliest.at_ms) / 1000).toFixed(1)} s` : `${Math.round(uptime_seconds)} s since the pod’s start`;
  return `${model} on ${url}; top ${top_k} of ${experts_per_layer} experts a layer; tokens of ${since}`;
}

export function paper(): Paper {
  const { stdout } = process;
  if (stdout.isTTY !== true) return { columns: COLUMNS_ELSEWHERE, isColoured: false };
  const isColoured = !process.env['NO_COLOR'] && stdout.hasColors?.(PALETTE) === true;
  return { columns: stdout.columns || COLUMNS_ELSEWHERE, isColoured };
}

/** @throws `closed` where no server answers, or it is none of minipod's */
async function look(server: ExpertsCommand['options'], signal: AbortSignal): Promise<Look> {
  const text = await askServer(server, '/experts', signal);
  try {
    return { at_ms: performance.now(), experts: JSON.parse(text) as PodExperts };
  } catch (error) {
    throw new MinipodError('closed', `${server.url} does not tell of experts as minipod does`, { cause: error });
  }
}
