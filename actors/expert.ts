/**
 * A logical expert, (layer, id): where its weights lie, and how much it is asked for.
 *
 *   loading ─▶ serving ⇄ rebalancing
 *
 * Tokens do not pass here: dispatches go from NPU to NPU, and the expert learns its load once a reporting period (xDeepServe §4.5, collect). While slots change
 * that hold it, or are to, it is rebalancing, and served by its other replicas.
 * No state has a deadline: its NPU reports for it, and its expert map, which ends each change one way or the other.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import type { ExpertMessage } from '../src/protocol/messages.ts';

/** `npus`: those that hold it, by the map of that epoch; the first of them is `npu`, where `weights` are as they were loaded at first. */
type Expert = { self: Address; npu: number; weights: number; bytes: number; tokens: number; npus: readonly number[]; epoch: number };

export const expert = setup({
  types: {} as { input: Pick<Expert, 'self'>; context: Expert; events: ExpertMessage },
  actions: {
    count: assign({ tokens: ({ context, event }) => (event.type === 'LOAD' ? context.tokens + event.tokens : context.tokens) }),
    noteReplicas: assign(({ event }) => (event.type === 'REPLICAS_CHANGED' ? { npus: event.npus, epoch: event.epoch } : {})),
  },
}).createMachine({
  id: 'expert',
  context: ({ input }) => ({ ...input, npu: -1, weights: 0, bytes: 0, tokens: 0, npus: [], epoch: 0 }),
  initial: 'loading',
  states: {
    loading: {
      on: {
        LOADED: {
          target: 'serving',
          actions: assign(({ event }) => ({ npu: event.npu, weights: event.weights, bytes: event.bytes, npus: [event.npu] })),
        },
      },
    },
    serving: {
      on: {
        LOAD: { actions: 'count' },
        REPLICAS_CHANGING: 'rebalancing',
        // It has begun anew meanwhile, with its worker.
        REPLICAS_CHANGED: { actions: 'noteReplicas' },
      },
    },
    rebalancing: {
      on: {
        LOAD: { actions: 'count' },
        // The change before it was given up, and said so to nobody who still lives.
        REPLICAS_CHANGING: {},
        REPLICAS_CHANGED: { target: 'serving', actions: 'noteReplicas' },
      },
    },
  },
});
