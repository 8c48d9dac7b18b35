/**
 * What the operating system says of a thread of this process: whether it waits for a processor, and how long it has had one. Linux alone says so; elsewhere, or
 * where it may not be read, nobody is known to wait.
 * @module
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** How long it had a processor, how long it waited for one before it did, and how often it was given one. */
export type ThreadTimes = { readonly run_ns: number; readonly wait_ns: number; readonly turns: number; readonly isRunnable: boolean };

/** Of the calling thread; 0: not known. */
export function ownThreadId(): number {
  try {
    return Number(readlinkSync('/proc/thread-self').split('/').at(-1)) || 0;
  } catch {
    return 0;
  }
}

/** Takes 0.15 ms. Null: not known. */
export function threadTimes(id: number): ThreadTimes | null {
  if (id === 0) return null;
  try {
    const [run_ns, wait_ns, turns] = readFileSync(`/proc/self/task/${id}/schedstat`, 'utf8').split(' ').map(Number) as [number, number, number];
    const stat = readFileSync(`/proc/self/task/${id}/stat`, 'utf8');
    // Behind the name, which may have parentheses itself.
    return { run_ns, wait_ns, turns, isRunnable: stat.charAt(stat.lastIndexOf(')') + 2) === 'R' };
  } catch {
    return null;
  }
}

/** Of all threads of this process, the runtime's own too, by their ids: some thirty. */
export function timesOfAll(): ReadonlyMap<number, ThreadTimes> {
  const times = new Map<number, ThreadTimes>();
  for (const id of threadIds()) {
    const of = threadTimes(id);
    if (of !== null) times.set(id, of);
  }
  return times;
}

function threadIds(): number[] {
  try {
    return readdirSync('/proc/self/task').map(Number);
  } catch {
    return [];
  }
}
