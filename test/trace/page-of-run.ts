/** What the page of a trace is made of, for a virtual run that is recorded for it. */
import { basename } from 'node:path';
import { actsOf } from '../../src/trace/acts.ts';
import { inCausalOrder } from '../../src/trace/causal-order.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { PageCollector, type PageData } from '../../src/trace/views/page/data.ts';
import { recordVirtual } from './recorded-runs.ts';

/** Its title looks like a tag. */
export async function pageOfVirtualRun(path: string): Promise<PageData> {
  await recordVirtual(path);
  using reader = TraceReader.open(path);
  const collector = new PageCollector(parseRunHeader(reader.header, path));
  for (const traced of inCausalOrder(actsOf(reader))) collector.feed(traced);
  return collector.end({ title: `${basename(path)} <b>`, facts: ['virtual clock', 'seed 7'], damage: null });
}
