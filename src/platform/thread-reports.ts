/** What the control thread knows of each thread of the pod. @module */
import type { ControlPage } from '../fabric/control-page.ts';
import type { ThreadReport } from '../protocol/threads.ts';
import { CALLER_THREAD, CONTROL_THREAD, type Directory, threadsOf } from '../runtime/directory.ts';

/** Who has the thread's rings; null: a spare seat, or one in quarantine. */
function nameOf(thread: number, directory: Directory): string | null {
  if (thread === CALLER_THREAD) return 'caller';
  if (thread === CONTROL_THREAD) return 'control';
  const worker = directory.seating.threads.indexOf(thread);
  return worker < 0 ? null : `worker/${worker}`;
}

type Seats = { readonly isQuarantined: (thread: number) => boolean; readonly waitsFor: (thread: number) => readonly string[] };

export const threadReports = (directory: Directory, control: ControlPage, seats: Seats): ThreadReport[] =>
  Array.from({ length: threadsOf(directory.hosting) }, (_, thread) => {
    const name = nameOf(thread, directory);
    return {
      thread,
      name: name ?? `thread/${thread}`,
      state: seats.isQuarantined(thread) ? 'quarantined' : name === null ? 'free' : 'held',
      epoch: control.epochOf(thread),
      wakes: control.wakes(thread),
      dropped: control.dropped(thread),
      waits_for: seats.waitsFor(thread),
    };
  });
