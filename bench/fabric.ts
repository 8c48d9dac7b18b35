/**
 * The fabric against what the machine and the platform offer, in one run.
 *
 * @example
 * node bench/fabric.ts                                 # everything, writes bench/results/fabric.json
 * BENCH_ONLY=slots,trip BENCH_ROUNDS=3 node bench/fabric.ts
 * @module
 */
import { Duo } from './fabric-duo.ts';
import { measureIdle } from './fabric-idle.ts';
import { measureMessages, measureNpu } from './fabric-messages.ts';
import { measureOthers } from './fabric-others.ts';
import { isAsked, isWhole, resultsPath } from './fabric-report.ts';
import { measureSlots } from './fabric-slots.ts';
import { measureStop } from './fabric-stop.ts';
import { closeBroadcast } from './fabric-streams.ts';
import { measureTrips } from './fabric-trips.ts';
import { writeResults } from './harness.ts';

const PARTS: Readonly<Record<string, (duo: Duo) => Promise<unknown>>> = {
  slots: measureSlots,
  messages: measureMessages,
  npu: measureNpu,
  trips: measureTrips,
  others: measureOthers,
  stop: measureStop,
  idle: measureIdle,
};

const results: Record<string, unknown> = {};
{
  await using duo = await Duo.start(new URL('./fabric-peer.ts', import.meta.url));
  for (const [part, measure] of Object.entries(PARTS)) if (isAsked(part)) results[part] = await measure(duo);
}
closeBroadcast();
if (isWhole) writeResults(resultsPath('fabric'), results);
