/** A heat map's file. @module */
import { writeFileSync } from 'node:fs';
import { MinipodError } from '../index.ts';
import type { HeatMap } from './expert-heat.ts';
import { heatSvg } from './expert-svg.ts';

/** Replaces what is there. @throws `invalid_request` where it cannot be written */
export function writeSvg(file: string, maps: readonly HeatMap[]): void {
  try {
    writeFileSync(file, heatSvg(maps));
  } catch (error) {
    throw new MinipodError('invalid_request', `${file}: it cannot be written: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
}
