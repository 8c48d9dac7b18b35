/** A process whose recorder makes it wait: what it says of that comes on standard error. Its argument: the trace. @module */
import { monotonicClock } from '../../src/runtime/clock.ts';
import { ActLog } from '../../src/trace/act-log.ts';
import { LiveRecorder } from '../../src/trace/live-recorder.ts';
import { actOf } from './acts-of-size.ts';
import { liveHeader } from './live-header.ts';

const recorder = await LiveRecorder.create({
  path: process.argv[2] ?? '',
  header: liveHeader,
  whenFull: 'wait',
  onEnded: ({ message }) => console.error(message),
  patience_ms: 200,
  entry: new URL('./troubled-recorder.ts', import.meta.url),
});
const log = new ActLog(recorder.newRing(1), monotonicClock(performance.timeOrigin));
for (let number = 1; number <= 60; number++) log.append(actOf(1, number, 20_000));
await recorder.close();
