/** `minipod models`: what there is to serve. @module */
import { listModels } from '../index.ts';
import { openCheckpoint } from '../model/checkpoint.ts';
import { resolveModel } from '../model/registry.ts';
import { printJson, printLine } from './output.ts';

type Row = { readonly name: string; readonly architecture: string; readonly parameters: number; readonly context_length: number; readonly folder: string };

/** The shipped models, or those in the folders given. */
export async function models({ names, json }: { readonly names: readonly string[]; readonly json: boolean }): Promise<number> {
  const rows = (names.length > 0 ? names : listModels()).map(describe);
  if (json) await printJson(rows);
  else for (const line of table(rows)) await printLine(line);
  return 0;
}

/** Reads config and headers only, no weights. */
function describe(name: string): Row {
  const folder = resolveModel(name);
  using checkpoint = openCheckpoint(folder);
  const { config, parts } = checkpoint;
  const parameters = parts.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
  return { name: config.name, architecture: config.architecture, parameters, context_length: config.maxPositions, folder };
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
