/**
 * A logical expert, (layer, id): where its weights lie, and how much it is asked for.
 *
 *   loading ─▶ serving
 *
 * Tokens do not pass here: dispatches go from NPU to NPU, and the expert learns its load once a reporting period (xDeepServe §4.5, collect).
 * No state has a deadline: its NPU reports for it.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import type { ExpertMessage } from '../src/protocol/messages.ts';

type Expert = { self: Address; npu: number; weights: number; bytes: number; tokens: number };

export const expert = setup({
  types: {} as { input: Pick<Expert, 'self'>; context: Expert; events: ExpertMessage },
}).createMachine({
  id: 'expert',
  context: ({ input }) => ({ ...input, npu: -1, weights: 0, bytes: 0, tokens: 0 }),
  initial: 'loading',
  states: {
    loading: {
      on: {
        LOADED: { target: 'serving', actions: assign(({ event }) => ({ npu: event.npu, weights: event.weights, bytes: event.bytes })) },
      },
    },
    serving: {
      on: {
        LOAD: { actions: assign({ tokens: ({ context, event }) => context.tokens + event.tokens }) },
      },
    },
  },
});
