/** Traces that say something else than what happened, sound in every other way. */
import type { ActRecord } from '../../src/trace/act-record.ts';
import { actsOf } from '../../src/trace/acts.ts';
import { encodeRecord } from '../../src/trace/trace-codec.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { TraceWriter } from '../../src/trace/trace-writer.ts';

type Changes = {
  readonly header?: (header: Readonly<Record<string, unknown>>) => object;
  /** Null: it is left out. */
  readonly act?: (act: ActRecord, index: number) => ActRecord | null;
};

export function rewrite(path: string, out: string, { header = (same) => same, act = (same) => same }: Changes): string {
  using reader = TraceReader.open(path);
  using writer = TraceWriter.create(out, header(reader.header), { overwrite: true });
  for (const traced of actsOf(reader)) {
    const kept = act(traced.act, traced.index);
    if (kept !== null) writer.append(encodeRecord(kept));
  }
  writer.close();
  return out;
}

export function allActs(path: string): ActRecord[] {
  using reader = TraceReader.open(path);
  return [...actsOf(reader)].map(({ act }) => act);
}
