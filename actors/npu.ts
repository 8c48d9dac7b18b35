/**
 * An NPU: runs one step at a time for its DP group, and may be given the next one meanwhile: that begins the moment the first has ended.
 *
 *   starting ─▶ idle ⇄ busy ─▶ draining ─▶ stopped
 *                 ▲     ├─▶ lost ─▶ (restarting) ─┤
 *                 └─────┴─▶ resetting ────────────┘
 *
 * As one rank of several of a DP group it runs the steps that all of them run, and is told to reset when another one has failed.
 * What its experts compute for other NPUs does not pass here: that is a persistent kernel, rescheduled without a controller's message (xDeepServe §5.2). An NPU that
 * has experts only is of no DP group and runs no steps: it is idle as long as it lives, and hears once a reporting period that it has computed for others.
 * A launch that throws loses the NPU's working state: it is reset before its DP group hears of it. The step that was to follow is lost with it, also one that
 * its group sent before it had heard.
 * A busy NPU has no deadline: a thread that dies is reported by the host, and one that hangs does not answer its task executor's PING.
 */
import { assign, setup } from 'xstate';
import { type Address, idOf } from '../src/protocol/address.ts';
import { furnished, load, rankReset, reportLoads, stepDone, stepFailed } from '../src/protocol/constructors.ts';
import { assert, type ErrorRecord } from '../src/protocol/errors.ts';
import { pong } from '../src/protocol/heartbeats.ts';
import type { Commands, NpuMessage } from '../src/protocol/messages.ts';

/** Long enough that reports cost nothing, short enough that a person sees experts warm up. The paper reports about once a minute (§4.5). */
const LOAD_REPORT_PERIOD_MS = 1_000;

/** `dp_group`: null for an expert NPU. `hasNext`: a second step is launched; `failed`: the step that failed last, or 0; `damaged`: the KV blocks that it failed by; `reset`: the call to reset that is to be answered, or 0. */
type Npu = {
  self: Address;
  dp_group: Address | null;
  isReportDue: boolean;
  hasNext: boolean;
  failed: number;
  error: ErrorRecord | null;
  damaged: readonly number[];
  reset: number;
};

const UNEXPLAINED: ErrorRecord = { code: 'internal', message: 'the launch failed', param: null };
/** Of an NPU that runs steps. */
function groupOf({ self, dp_group }: Npu): Address {
  assert(dp_group !== null, `${self} is of no DP group`);
  return dp_group;
}
const doneOf = (context: Npu, event: NpuMessage & { type: 'LAUNCH_DONE' }): Commands['send'] => ({
  to: groupOf(context),
  message: stepDone(idOf(context.self), event.step, event.outcomes, event.digest, event.us, event.draft_us),
});

export const npu = setup({
  types: {} as { input: Pick<Npu, 'self' | 'dp_group'>; context: Npu; events: NpuMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    launch: (_, _command: Commands['launch']) => {},
    noteReset: assign({ hasNext: false, reset: ({ event }) => (event.type === 'RESET' ? event.reset : 0) }),
  },
  guards: {
    reportIsNotDue: ({ context }) => !context.isReportDue,
    followsTheFailed: ({ context, event }) => event.type === 'STEP' && event.plan.after !== 0 && event.plan.after === context.failed,
    anotherIsLaunched: ({ context }) => context.hasNext,
  },
}).createMachine({
  id: 'npu',
  context: ({ input }) => ({ ...input, isReportDue: false, hasNext: false, failed: 0, error: null, damaged: [], reset: 0 }),
  initial: 'starting',
  on: {
    PING: { actions: { type: 'send', params: ({ context, event }) => ({ to: event.from, message: pong(context.self) }) } },
    RELEASE_SLOTS: { actions: { type: 'launch', params: ({ event }) => ({ work: { kind: 'release-slots', slots: event.slots } }) } },
    // Of steps that are over.
    LET_GO: {},
    REPORT_LOADS: { actions: [assign({ isReportDue: false }), { type: 'launch', params: { work: { kind: 'count-loads' } } }] },
    // Whatever runs: between two parts of a step.
    EXPERT_WORK: {
      actions: { type: 'launch', params: ({ event }) => ({ work: { kind: 'experts', expert_map: event.expert_map, work: event.work } }) },
    },
    EXPERT_WORK_DONE: { actions: { type: 'send', params: ({ event }) => ({ to: event.expert_map, message: event.message }) } },
    FURNISH: {
      actions: {
        type: 'launch',
        params: ({ event: { scaling, query, source, broadcast } }) => ({ work: { kind: 'furnish', scaling, query, source, broadcast } }),
      },
    },
    SEND_WEIGHTS: { actions: { type: 'launch', params: ({ event: { broadcast } }) => ({ work: { kind: 'send-weights', broadcast } }) } },
    WEIGHTS_COPIED: {
      actions: {
        type: 'send',
        params: ({ context, event }) => ({ to: event.scaling, message: furnished(idOf(context.self), event.query, event.copied, event.error) }),
      },
    },
    CLEAR_WEIGHTS: { actions: { type: 'launch', params: { work: { kind: 'clear' } } } },
    LOADS_COUNTED: {
      actions: { type: 'sendEach', params: ({ event }) => event.experts.map((expert, index) => ({ to: expert, message: load(event.tokens[index] ?? 0) })) },
    },
  },
  states: {
    starting: {
      on: { STARTED: 'idle', RESET: { target: 'resetting', actions: 'noteReset' } },
    },
    idle: {
      on: {
        // The timer runs only while there is work, so that an idle pod sleeps.
        STEP: [
          { guard: 'followsTheFailed' },
          {
            guard: 'reportIsNotDue',
            target: 'busy',
            actions: [
              assign({ isReportDue: true }),
              { type: 'after', params: { id: 'report-loads', delay_ms: LOAD_REPORT_PERIOD_MS, message: reportLoads() } },
              { type: 'launch', params: ({ event }) => ({ work: { kind: 'step', plan: event.plan } }) },
            ],
          },
          { target: 'busy', actions: { type: 'launch', params: ({ event }) => ({ work: { kind: 'step', plan: event.plan } }) } },
        ],
        SERVED_DISPATCHES: { actions: { type: 'after', params: { id: 'report-loads', delay_ms: LOAD_REPORT_PERIOD_MS, message: reportLoads() } } },
        RESET: { target: 'resetting', actions: 'noteReset' },
        DRAIN: 'stopped',
      },
    },
    busy: {
      on: {
        STEP: { actions: [assign({ hasNext: true }), { type: 'launch', params: ({ event }) => ({ work: { kind: 'step', plan: event.plan } }) }] },
        LAUNCH_DONE: [
          {
            guard: 'anotherIsLaunched',
            actions: [assign({ hasNext: false }), { type: 'send', params: ({ context, event }) => doneOf(context, event) }],
          },
          {
            target: 'idle',
            actions: { type: 'send', params: ({ context, event }) => doneOf(context, event) },
          },
        ],
        LAUNCH_FAILED: {
          target: 'lost',
          actions: assign(({ event }) => ({ hasNext: false, failed: event.step, error: event.error, damaged: event.damaged })),
        },
        LET_GO: { actions: { type: 'launch', params: ({ event }) => ({ work: { kind: 'let-go', step: event.step } }) } },
        RESET: { target: 'resetting', actions: 'noteReset' },
        DRAIN: 'draining',
      },
    },
    lost: {
      entry: { type: 'launch', params: { work: { kind: 'reset' } } },
      on: {
        STEP: {},
        // It is being reset already.
        RESET: { actions: 'noteReset' },
        RESET_DONE: {
          target: 'idle',
          actions: [
            {
              type: 'sendEach',
              params: ({ context, context: { self, failed, error, damaged, reset } }) => [
                { to: groupOf(context), message: stepFailed(idOf(self), failed, error ?? UNEXPLAINED, damaged) },
                ...(reset > 0 ? [{ to: groupOf(context), message: rankReset(idOf(self), reset) }] : []),
              ],
            },
            assign({ reset: 0 }),
          ],
        },
      },
    },
    resetting: {
      entry: { type: 'launch', params: { work: { kind: 'reset' } } },
      on: {
        STARTED: {},
        // What was under way: nobody looks for it any more.
        LAUNCH_DONE: {},
        LAUNCH_FAILED: {},
        RESET: { actions: 'noteReset' },
        RESET_DONE: {
          target: 'idle',
          actions: [
            { type: 'send', params: ({ context }) => ({ to: groupOf(context), message: rankReset(idOf(context.self), context.reset) }) },
            assign({ reset: 0 }),
          ],
        },
        DRAIN: 'stopped',
      },
    },
    draining: {
      on: {
        STEP: {},
        RESET: 'stopped',
        LAUNCH_DONE: [{ guard: 'anotherIsLaunched', actions: assign({ hasNext: false }) }, { target: 'stopped' }],
        LAUNCH_FAILED: 'stopped',
      },
    },
    stopped: { type: 'final' },
  },
});
