/** Writes small checkpoints for tests. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { MinipodError } from '../../src/protocol/errors.ts';

const fromRoot = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

export const TINY = {
  'tiny-deepseek-v3': fromRoot('models/tiny-deepseek-v3'),
  'tiny-qwen3-moe': fromRoot('test/models/tiny-qwen3-moe'),
  'tiny-kimi-k2': fromRoot('test/models/tiny-kimi-k2'),
} as const;
export type TinyName = keyof typeof TINY;
export const TINY_NAMES = Object.keys(TINY) as TinyName[];

export function readJson(...path: string[]): Record<string, unknown> {
  return JSON.parse(readFileSync(join(...path), 'utf8'));
}

export const goldens = () => readJson(fromRoot('test/golden/goldens.open.json')) as unknown as Record<TinyName, { cases: GoldenCase[] }>;
export type GoldenCase = {
  readonly text?: string;
  readonly user?: string;
  readonly token_ids: number[];
  readonly greedy_ids: number[];
  readonly greedy_text: string;
};

/** An empty folder that goes when the test ends. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'minipod-model-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A copy of a tiny checkpoint without its weights. */
export function copyWithoutWeights(name: TinyName): string {
  const folder = temporaryFolder();
  for (const file of ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json']) cpSync(join(TINY[name], file), join(folder, file));
  return folder;
}

export function writeJson(value: unknown, ...path: string[]): void {
  writeFileSync(join(...path), JSON.stringify(value));
}

/** A safetensors file from a header, given as an object or as text, and its data. */
export function safetensors(header: unknown, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const text = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const file = new Uint8Array(8 + text.byteLength + data.byteLength);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.byteLength), true);
  file.set(text, 8);
  file.set(data, 8 + text.byteLength);
  return file;
}

/** The error that a call throws, which must be one of minipod's. */
export function errorOf(call: () => unknown): MinipodError {
  try {
    call();
  } catch (error) {
    if (error instanceof MinipodError) return error;
    throw new Error(`expected a MinipodError, found ${String(error)}`, { cause: error });
  }
  throw new Error('expected a MinipodError, found no error');
}
