/**
 * Files of expert loads and of expert maps.
 *
 *   loads   a routing trace (docs/routing-trace.md): all of it, or one of the tables prefill, decode, first_half, second_half;
 *           a dump of SGLang's recorder, a .pt file (sglang-loads.ts);
 *           JSON: {"logical_count": [layer][expert]} or [window][layer][expert], SGLang's name; such arrays alone; or many under names, nested as one likes:
 *           {"model": {"domain": [layer][expert], …}, …}. What is no such array is passed over.
 *   map     {"physical_to_logical_map": [layer][slot]}, −1 in an empty slot: what SGLang's --init-expert-location reads
 * @module
 */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import * as z from 'zod';
import { type ExpertLoads, expertLoads } from '../../actors/policies/expert-placement/expert-loads.ts';
import { type ExpertMap, expertMap } from '../../actors/policies/expert-placement/expert-map.ts';
import type { PlacementShape } from '../../actors/policies/expert-placement/placement-shape.ts';
import { MinipodError, RoutingTraceReader } from '../index.ts';
import { MAGIC as TRACE_MAGIC } from '../trace/file-layout.ts';
import { readLoads as readRoutingLoads } from '../trace/routing-loads.ts';
import { note } from './output.ts';
import { sglangWindows } from './sglang-loads.ts';
import { isTorchFile, readTorch } from './torch-file.ts';
import { UsageError } from './usage-error.ts';

const layersSchema = z.array(z.array(z.number()).min(1)).min(1);
const windowsSchema = z.union([z.array(layersSchema).min(1), layersSchema.transform((layers) => [layers])]);
const namedSchema = z.record(z.string(), z.unknown());
const mapSchema = z.object({ physical_to_logical_map: z.array(z.array(z.int()).min(1)).min(1) });

/** `name`: the keys that lead to it; of a file that is one table its own name. */
export type LoadsTable = { readonly name: string; readonly windows: readonly (readonly (readonly number[])[])[] };

/** `isWhole`: false of a trace that is damaged, unfinished, or of a part of its run. */
export type LoadsFile = { readonly tables: readonly LoadsTable[]; readonly isWhole: boolean };

/** @throws `invalid_request` for a file that cannot be read or holds no loads */
export function readLoads(file: string): LoadsFile {
  const head = bytesOf(file, 4);
  if (head[0] === TRACE_MAGIC[0] && head[1] === TRACE_MAGIC[1]) return routedTables(file);
  return { tables: isTorchFile(head) ? [{ name: file, windows: torchWindows(file) }] : namedTables(file), isWhole: true };
}

function namedTables(file: string): LoadsTable[] {
  const tables = tablesIn(readJson(file), []);
  if (tables.length === 0)
    throw refuse(file, 'there are no loads in it, which are numbers as [layer][expert] or [window][layer][expert], under any name or none');
  return tables.map(({ name, windows }) => ({ name: name === '' ? file : name, windows }));
}

/** The whole trace has the file's name, which is what is meant where nothing else is asked for. */
function routedTables(file: string): LoadsFile {
  using reader = RoutingTraceReader.open(file);
  const { all, prefill, decode, first_half, second_half, incomplete } = readRoutingLoads(reader);
  if (incomplete !== null) note(`minipod: ${file}: ${incomplete}; what is before is counted`);
  const tables = Object.entries({ [file]: all, prefill, decode, first_half, second_half });
  const counted = tables.filter(([, loads]) => loads.some((row) => row.some((load) => load > 0)));
  if (counted.length === 0) throw refuse(file, 'there is no routed token in it');
  return { tables: counted.map(([name, loads]) => ({ name, windows: [loads] })), isWhole: incomplete === null };
}

function torchWindows(file: string): number[][][] {
  const dump = readTorch(bytesOf(file), file);
  try {
    const windows = sglangWindows(dump);
    if (windows !== null && windows.length > 0) return windows;
  } catch (error) {
    throw refuse(file, error instanceof Error ? error.message : String(error));
  }
  throw refuse(file, 'it is no dump of SGLang’s expert distribution recorder, which has logical_count, or records and last_physical_to_logical_map');
}

/** All of the file, or its beginning. */
function bytesOf(file: string, count?: number): Uint8Array {
  try {
    return count === undefined ? readFileSync(file) : beginningOf(file, count);
  } catch (error) {
    throw refuse(file, `it cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function beginningOf(file: string, count: number): Uint8Array {
  const bytes = new Uint8Array(count);
  const descriptor = openSync(file, 'r');
  try {
    return bytes.subarray(0, readSync(descriptor, bytes, 0, count, 0));
  } finally {
    closeSync(descriptor);
  }
}

function tablesIn(value: unknown, path: readonly string[]): LoadsTable[] {
  const windows = windowsSchema.safeParse(value);
  if (windows.success) return [{ name: path.join('/'), windows: windows.data }];
  const named = namedSchema.safeParse(value);
  return named.success && !Array.isArray(value) ? Object.entries(named.data).flatMap(([key, inner]) => tablesIn(inner, [...path, key])) : [];
}

/** `olmoe/c4` and `c4` are `olmoe-1b-7b/c4`: keys from the last one on, each told by how it begins. Not needed where there is one only. */
export function tableNamed(tables: readonly LoadsTable[], file: string, asked: string | undefined): LoadsTable {
  const starts = asked?.split('/') ?? [];
  const isAsked = ({ name }: LoadsTable): boolean => {
    const keys = name.split('/').slice(-starts.length);
    return keys.length === starts.length && starts.every((start, at) => keys[at]?.startsWith(start));
  };
  const exact = tables.filter(({ name }) => name === (asked ?? file));
  const found = exact.length > 0 ? exact : asked === undefined ? tables : tables.filter(isAsked);
  const [table, other] = found;
  if (table !== undefined && other === undefined) return table;
  const which =
    asked === undefined ? 'it has several tables, name one with --table' : `"${asked}" names ${found.length === 0 ? 'none' : 'several'} of its tables`;
  throw new UsageError(`${file}: ${which}:\n${(found.length === 0 ? tables : found).map(({ name }) => `  ${name}`).join('\n')}`);
}

/** @throws `invalid_request`, with the file's name, for counts that are none */
export function loadsOf({ name, windows }: LoadsTable, file: string): ExpertLoads {
  try {
    return expertLoads(windows);
  } catch (error) {
    throw error instanceof MinipodError ? refuse(file, name === file ? error.message : `${name}: ${error.message}`) : error;
  }
}

/** @throws `invalid_request` for a file that cannot be read, or a map of another shape */
export function readMap(file: string, shape: PlacementShape): ExpertMap {
  const parsed = mapSchema.safeParse(readJson(file));
  if (!parsed.success) throw refuse(file, 'it is no expert map, which is {"physical_to_logical_map": [layer][slot]}, −1 in an empty slot');
  const layers = parsed.data.physical_to_logical_map;
  const uneven = layers.findIndex((row) => row.length !== shape.slots);
  if (uneven >= 0) throw refuse(file, `layer ${uneven} has ${layers[uneven]?.length} slots, not ${shape.slots} (--slots)`);
  try {
    return expertMap(shape, Int32Array.from(layers.flat()));
  } catch (error) {
    throw error instanceof MinipodError ? refuse(file, error.message) : error;
  }
}

function readJson(file: string): unknown {
  const read = <Value>(what: string, make: () => Value): Value => {
    try {
      return make();
    } catch (error) {
      throw refuse(file, `${what}: ${error instanceof Error ? error.message : String(error)}`);
    }
  };
  const text = read('it cannot be read', () => readFileSync(file, 'utf8'));
  return read('it is no JSON', () => JSON.parse(text));
}

const refuse = (file: string, why: string): MinipodError => new MinipodError('invalid_request', `${file}: ${why}`, { param: 'file' });
