/**
 * XCCL against memory.copy of the same bytes, in one run.
 *
 * @example
 * node bench/xccl.ts                                       # everything, writes bench/results/xccl.json
 * BENCH_ONLY=transfers BENCH_ROUNDS=3 node bench/xccl.ts
 * @module
 */
import { Duo } from './fabric-duo.ts';
import { isAsked, isWhole, resultsPath } from './fabric-report.ts';
import { writeResults } from './harness.ts';
import { measureAllToAll } from './xccl-all-to-all.ts';
import { measureTrampoline } from './xccl-trampoline.ts';
import { measureTransfers } from './xccl-transfers.ts';

const PARTS: Readonly<Record<string, (duo: Duo) => Promise<unknown>>> = {
  transfers: measureTransfers,
  exchange: measureAllToAll,
  trampoline: measureTrampoline,
};

const results: Record<string, unknown> = {};
{
  await using duo = await Duo.start(new URL('./xccl-peer.ts', import.meta.url));
  for (const [part, measure] of Object.entries(PARTS)) if (isAsked(part)) results[part] = await measure(duo);
}
if (isWhole) writeResults(resultsPath('xccl'), results);
