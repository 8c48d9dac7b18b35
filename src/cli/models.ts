/** `minipod models`: what there is to serve. @module */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { listModels, MinipodError } from '../index.ts';
import { openCheckpoint, parametersOf } from '../model/checkpoint.ts';
import { resolveModel } from '../model/registry.ts';
import { printJson, printLine } from './output.ts';

type Row = { readonly name: string; readonly architecture: string; readonly parameters: number; readonly context_length: number; readonly folder: string };

/** The shipped models, or those in the folders given. What cannot be read is said after the rest. */
export async function models({ names, json }: { readonly names: readonly string[]; readonly json: boolean }): Promise<number> {
  const rows: Row[] = [];
  const errors: MinipodError[] = [];
  for (const name of names.length > 0 ? names.flatMap(modelsIn) : listModels()) {
    try {
      rows.push(describe(name));
    } catch (error) {
      if (!(error instanceof MinipodError)) throw error;
      errors.push(error);
    }
  }
  if (rows.length > 0 || errors.length === 0) {
    if (json) await printJson(rows);
    else for (const line of table(rows)) await printLine(line);
  }
  const [first] = errors;
  if (first === undefined) return 0;
  throw errors.length === 1 ? first : new MinipodError(first.code, errors.map(({ message }) => message).join('\n'), { param: first.param });
}

/** The model folders in a folder that is none itself; else the name as it is. */
function modelsIn(name: string): readonly string[] {
  if (listModels().includes(name) || existsSync(join(name, 'config.json')) || !statSync(name, { throwIfNoEntry: false })?.isDirectory()) return [name];
  const folders = readdirSync(name)
    .map((entry) => join(name, entry))
    .filter((folder) => existsSync(join(folder, 'config.json')))
    .sort();
  return folders.length > 0 ? folders : [name];
}

/** Reads config and headers only, no weights. */
function describe(name: string): Row {
  const folder = resolveModel(name);
  using checkpoint = openCheckpoint(folder);
  const { config } = checkpoint;
  return { name: config.name, architecture: config.architecture, parameters: parametersOf(checkpoint), context_length: config.maxPositions, folder };
}

function table(rows: readonly Row[]): string[] {
  const cells = [
    ['NAME', 'ARCHITECTURE', 'PARAMETERS', 'CONTEXT'],
    ...rows.map(({ name, architecture, parameters, context_length }) => [name, architecture, `${(parameters / 1e6).toFixed(1)} M`, `${context_length} tokens`]),
  ];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
  return cells.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}
