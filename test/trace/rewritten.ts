/** Traces that say something else than what happened, sound in every other way. */
import type { ActRecord } from '../../src/trace/act-record.ts';
import { actsOf } from '../../src/trace/acts.ts';
import { encodeRecord } from '../../src/trace/trace-codec.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { TraceWriter } from '../../src/trace/trace-writer.ts';

type Changes = {
  readonly header?: (header: Readonly<Record<string, unknown>>) => object;
  readonly act?: (act: ActRecord, index: number) => ActRecord;
};

export function rewrite(path: string, out: string, { header = (same) => same, act = (same) => same }: Changes): string {
  using reader = TraceReader.open(path);
  using writer = TraceWriter.create(out, header(reader.header));
  for (const traced of actsOf(reader)) writer.append(encodeRecord(act(traced.act, traced.index)));
  writer.close();
  return out;
}

export function allActs(path: string): ActRecord[] {
  using reader = TraceReader.open(path);
  return [...actsOf(reader)].map(({ act }) => act);
}
