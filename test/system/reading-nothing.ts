/** A caller's thread that does something else, for as long as it takes until a worker has so much for it that it has not read. @module */
import { WAITS_WORD } from '../../src/fabric/ring-layout.ts';
import { CALLER_THREAD } from '../../src/runtime/directory.ts';
import type { Rig } from './rig.ts';

const DEADLINE_MS = 10_000;

/** `bytes`: written since it began; `isFull`: more waits for room. */
type Unread = { readonly bytes: number; readonly isFull: boolean };

/** This thread is the caller's and the control thread: meanwhile it reads nothing and tells nothing. */
export function readNothingFrom({ plan, space, control }: Rig, worker: number, isEnough: (unread: Unread) => boolean): void {
  const thread = control.directory.threadOfWorker(worker);
  const ring = plan.rings.find(({ from, to, lane }) => from === thread && to === CALLER_THREAD && lane === 'data');
  if (ring === undefined) throw new Error(`no ring from worker ${worker}`);
  const [words, at] = [space.wordsOf(0), ring.offset / 4];
  const idle = new Int32Array(new SharedArrayBuffer(4));
  const first = Atomics.load(words, at);
  const unread = (): Unread => ({ bytes: (Atomics.load(words, at) - first) | 0, isFull: Atomics.load(words, at + WAITS_WORD) === 1 });
  for (const deadline = Date.now() + DEADLINE_MS; !isEnough(unread()); Atomics.wait(idle, 0, 0, 1))
    if (Date.now() > deadline) throw new Error(`worker ${worker} has written ${unread().bytes} bytes in ${DEADLINE_MS / 1000} s`);
}
