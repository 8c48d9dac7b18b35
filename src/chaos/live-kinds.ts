/** What may strike a live pod, and what it is found by. @module */

/** In the order in which they come in turn. */
export const LIVE_KINDS = [
  'worker-dies',
  'worker-blocks',
  'worker-spins',
  'zombie-writes',
  'kv-bit-flip',
  'weights-bit-flip',
  'row-bit-flip',
  'stray-write',
  'frame-torn',
  'ring-full',
  'bell-lost',
  'acknowledgement-stale',
  'field-stale',
  'control-lost',
  'control-spins',
] as const;
export type LiveKind = (typeof LIVE_KINDS)[number];

/** What becomes of the control thread, at the hand of its caller's; the others a worker suffers by its own. */
const CONTROL_KINDS = ['control-lost', 'control-spins'] as const satisfies readonly LiveKind[];
export type ControlKind = (typeof CONTROL_KINDS)[number];
export type WorkerKind = Exclude<LiveKind, ControlKind>;

export const isOfControl = (kind: LiveKind): kind is ControlKind => (CONTROL_KINDS as readonly LiveKind[]).includes(kind);

/** Those whose stalls are what a client sees of a lost thread: what strikes if nothing else is said. */
export const WORKER_KINDS = ['worker-dies', 'worker-blocks', 'worker-spins'] as const satisfies readonly LiveKind[];

/** How a strike at a worker is noticed: by a thread's end or silence, by sums of what lies or travels, by who states its words anew; or by nobody, since it heals by itself. */
export const GUARDS = ['end', 'frame', 'weights', 'kv', 'rows', 'restated', 'nobody'] as const;
export type Guard = (typeof GUARDS)[number];
/** `control`: by the end of the control thread. */
export type NoticedBy = Guard | 'control';

export const LIVE_KIND_TEXTS: Readonly<Record<LiveKind, string>> = {
  'worker-dies': 'the thread ends with an error',
  'worker-blocks': 'it waits for what never comes',
  'worker-spins': 'it goes round for ever',
  'zombie-writes': 'it hangs, and once it is given up it writes rubbish over all that it may write, until it is ended',
  'kv-bit-flip': 'a bit of KV that somebody holds on its NPUs is another one',
  'weights-bit-flip': 'a bit of its NPUs’ weights is another one; the pod checks them with each step',
  'row-bit-flip': 'a bit of rows that its NPUs have left for a peer is another one',
  'stray-write': 'it writes 16 bytes to a wrong address: into KV that somebody holds, or into weights',
  'frame-torn': 'a frame in a ring that it reads or writes is other bytes from a place on',
  'ring-full': 'a ring that it writes has no room for 20 to 100 ms',
  'bell-lost': 'a thread that sleeps is not woken by it, once',
  'acknowledgement-stale': 'how far it has read a ring is said as of a lap ago',
  'field-stale': 'what one of its NPUs has asked or answered a peer before the last time is told once more, before it tells anything new',
  'control-lost':
    'not of a worker: the control thread, which hosts leader, job executors, expert maps and requests, is killed, or there is rubbish in a ring between it and the caller',
  'control-spins': 'the same thread goes round for ever: found after ten seconds',
};
