/** How long this thread has had a processor, so that what it takes is no matter of what else the machine does. Where that is not known, what the clock says. */
import { ownThreadId, threadTimes } from '../src/runtime/os-thread.ts';

export function ownTime_ms(): number {
  const times = threadTimes(ownThreadId());
  return times === null ? performance.now() : times.run_ns / 1e6;
}
