/**
 * What SGLang's expert distribution recorder dumps (`/dump_expert_distribution_record`), as loads.
 *
 *   modes stat, stat_approx    {logical_count: [window][layer][expert] or [layer][expert], rank, …}, one file for all ranks
 *   modes per_pass, per_token  {records: [{global_physical_count: [layer][slot], …}], last_physical_to_logical_map: [layer][slot]}, one file for each rank: a
 *                              window for each pass. Slots are counted as their experts by the map as it was at the end, as SGLang itself advises to
 * @module
 */
import { isTensor, type Tensor } from './torch-pickle.ts';

type Windows = number[][][];

/** Null: it is no such dump. @throws Error for one that contradicts itself */
export function sglangWindows(dump: unknown): Windows | null {
  if (typeof dump !== 'object' || dump === null) return null;
  const { logical_count, records, last_physical_to_logical_map: map } = dump as { [key: string]: unknown };
  if (isTensor(logical_count)) return windowsOf(logical_count);
  if (!Array.isArray(records) || !isTensor(map)) return null;
  const experts = matrixOf(map);
  return records.flatMap((record: { readonly global_physical_count?: unknown }) =>
    isTensor(record?.global_physical_count) ? [logicalOf(matrixOf(record.global_physical_count), experts)] : [],
  );
}

function windowsOf(counts: Tensor): Windows {
  const { shape } = counts;
  if (shape.length === 2) return [matrixOf(counts)];
  if (shape.length !== 3) throw new Error(`logical_count has ${shape.length} dimensions; it is [layer][expert], or that in windows`);
  const [windows = 0, layers = 0, experts = 0] = shape;
  const values = counts.values();
  return Array.from({ length: windows }, (_, window) => rowsOf(values, window * layers * experts, layers, experts));
}

function matrixOf(tensor: Tensor): number[][] {
  const [rows = 0, columns = 0] = tensor.shape;
  if (tensor.shape.length !== 2) throw new Error(`it has ${tensor.shape.length} dimensions where [layer][slot] should be`);
  return rowsOf(tensor.values(), 0, rows, columns);
}

const rowsOf = (values: readonly number[], from: number, rows: number, columns: number): number[][] =>
  Array.from({ length: rows }, (_, row) => values.slice(from + row * columns, from + (row + 1) * columns));

function logicalOf(counts: readonly (readonly number[])[], expertOfSlot: readonly (readonly number[])[]): number[][] {
  return counts.map((row, layer) => {
    const map = expertOfSlot[layer] ?? [];
    if (map.length !== row.length) throw new Error(`layer ${layer} has counts of ${row.length} slots and a map of ${map.length}`);
    const logical = new Array<number>(Math.max(...map) + 1).fill(0);
    for (const [slot, count] of row.entries()) {
      const expert = map[slot] as number;
      if (expert >= 0) logical[expert] = (logical[expert] as number) + count;
    }
    return logical;
  });
}
