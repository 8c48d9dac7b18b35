/** What threads tell one another about themselves: role `worker`, control lane. @module */

export type NpuReport = {
  readonly npu: number;
  readonly state: string;
  readonly kv_blocks: number;
  readonly kv_blocks_used: number;
  readonly requests_running: number;
  readonly requests_waiting: number;
  readonly steps: number;
  readonly tokens_prefilled: number;
  readonly tokens_decoded: number;
  readonly preemptions: number;
};
export type LinkReport = { readonly peer: number; readonly lane: string; readonly frames: number; readonly bytes: number; readonly full: number };

export type ThreadMessage =
  | { readonly type: 'THREAD_STARTED'; readonly worker: number }
  | { readonly type: 'PEER_LOST'; readonly worker: number }
  /** The sender has let go of the lost worker's rings. */
  | { readonly type: 'PEER_DETACHED'; readonly worker: number }
  /** Its successor runs, on this thread's rings and these dies. */
  | { readonly type: 'PEER_RESTARTED'; readonly worker: number; readonly thread: number; readonly dies: readonly number[] }
  | { readonly type: 'INSPECT'; readonly query: number }
  | {
      readonly type: 'INSPECTED';
      readonly query: number;
      readonly worker: number;
      readonly npus: readonly NpuReport[];
      readonly links: readonly LinkReport[];
      /** Messages that no state expected: `role TYPE state`. */
      readonly unexpected: readonly string[];
    };

export const threadStarted = (worker: number): ThreadMessage => ({ type: 'THREAD_STARTED', worker });
export const threadPeerLost = (worker: number): ThreadMessage => ({ type: 'PEER_LOST', worker });
export const threadPeerDetached = (lost: number): ThreadMessage => ({ type: 'PEER_DETACHED', worker: lost });
export const threadPeerRestarted = (worker: number, thread: number, dies: readonly number[]): ThreadMessage => ({
  type: 'PEER_RESTARTED',
  worker,
  thread,
  dies,
});
export const threadInspect = (query: number): ThreadMessage => ({ type: 'INSPECT', query });
export const threadInspected = (
  query: number,
  worker: number,
  npus: readonly NpuReport[],
  links: readonly LinkReport[],
  unexpected: readonly string[],
): ThreadMessage => ({
  type: 'INSPECTED',
  query,
  worker,
  npus,
  links: links.map(({ peer, lane, frames, bytes, full }) => ({ peer, lane, frames, bytes, full })),
  unexpected,
});
