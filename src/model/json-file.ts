/**
 * Reads the JSON files of a checkpoint folder.
 * @module
 */
import { readFileSync } from 'node:fs';
import { MinipodError } from '../protocol/errors.ts';

/** The file's value, or undefined if there is no such file. Throws `invalid_checkpoint` when it cannot be read or is not JSON. */
export function readJsonFileIfPresent(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw new MinipodError('invalid_checkpoint', `${file}: cannot be read: ${reason(error)}`, { cause: error });
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new MinipodError('invalid_checkpoint', `${file}: is not JSON: ${reason(error)}`, { cause: error });
  }
}

/** As above; a missing file is an error too. */
export function readJsonFile(file: string): unknown {
  const value = readJsonFileIfPresent(file);
  if (value === undefined) throw new MinipodError('invalid_checkpoint', `${file}: no such file`);
  return value;
}

export const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error));

export const isMissing = (error: unknown): boolean => {
  const code = (error as { code?: unknown } | null)?.code;
  return code === 'ENOENT' || code === 'ENOTDIR';
};
