/**
 * Finds models: those shipped with the package by name, any other by its folder.
 * @module
 */
import { existsSync, readdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MinipodError } from '../protocol/errors.ts';

/** Names of the shipped models, sorted. */
export function listModels(): string[] {
  const folder = modelsFolder();
  if (folder === null) return [];
  return readdirSync(folder)
    .filter((name) => isModelFolder(join(folder, name)))
    .sort();
}

/** The absolute folder of a shipped model's name or of a folder's path. Throws `invalid_request` that lists what there is. */
export function resolveModel(nameOrFolder: string): string {
  const shipped = listModels();
  const folder = modelsFolder();
  if (folder !== null && shipped.includes(nameOrFolder)) return join(folder, nameOrFolder);
  const path = resolve(nameOrFolder);
  if (isModelFolder(path)) return path;
  const found = existsSync(path) ? `${path} has no config.json` : `there is no ${path}`;
  throw new MinipodError(
    'invalid_request',
    `model: expected the name of a shipped model (${shipped.join(', ') || 'none found'}) or a folder with config.json, found ${JSON.stringify(nameOrFolder)}: ${found}`,
    { param: 'model' },
  );
}

const isModelFolder = (folder: string): boolean => existsSync(join(folder, 'config.json'));

/** `models/` beside the package's own package.json: this file runs from src/model and from dist/src/model. */
function modelsFolder(): string | null {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) {
      const models = join(folder, 'models');
      return existsSync(models) ? models : null;
    }
    if (folder === dirname(folder)) return null;
  }
}
