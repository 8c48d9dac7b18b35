/**
 * An NPU: runs one step at a time for its DP group, and may be given the next one meanwhile: that begins the moment the first has ended.
 *
 *   starting ─▶ idle ⇄ busy ─▶ draining ─▶ stopped
 *                 ▲     └─▶ lost ─▶ (restarting) ─┘
 *
 * What its experts compute for other NPUs does not pass here: that is a persistent kernel, rescheduled without a controller's message (xDeepServe §5.2).
 * A launch that throws loses the NPU's working state: it is reset before its DP group hears of it. The step that was to follow is lost with it, also one that
 * its group sent before it had heard. A busy NPU has no deadline: a thread that dies is reported by the host, one that hangs is not noticed yet (heartbeats come with failure detection).
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { load, reportLoads, stepDone, stepFailed } from '../src/protocol/constructors.ts';
import type { ErrorRecord } from '../src/protocol/errors.ts';
import type { Commands, NpuMessage } from '../src/protocol/messages.ts';

/** Long enough that reports cost nothing, short enough that a person sees experts warm up. The paper reports about once a minute (§4.5). */
const LOAD_REPORT_PERIOD_MS = 1_000;

/** `hasNext`: a second step is launched; `failed`: the step that failed last, or 0. */
type Npu = { self: Address; dp_group: Address; isReportDue: boolean; hasNext: boolean; failed: number; error: ErrorRecord | null };

export const npu = setup({
  types: {} as { input: Pick<Npu, 'self' | 'dp_group'>; context: Npu; events: NpuMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    launch: (_, _command: Commands['launch']) => {},
  },
  guards: {
    reportIsNotDue: ({ context }) => !context.isReportDue,
    followsTheFailed: ({ context, event }) => event.type === 'STEP' && event.plan.after !== 0 && event.plan.after === context.failed,
    anotherIsLaunched: ({ context }) => context.hasNext,
  },
}).createMachine({
  id: 'npu',
  context: ({ input }) => ({ ...input, isReportDue: false, hasNext: false, failed: 0, error: null }),
  initial: 'starting',
  on: {
    RELEASE_SLOTS: { actions: { type: 'launch', params: ({ event }) => ({ work: { kind: 'release-slots', slots: event.slots } }) } },
    REPORT_LOADS: { actions: [assign({ isReportDue: false }), { type: 'launch', params: { work: { kind: 'count-loads' } } }] },
    LOADS_COUNTED: {
      actions: { type: 'sendEach', params: ({ event }) => event.experts.map((expert, index) => ({ to: expert, message: load(event.tokens[index] ?? 0) })) },
    },
  },
  states: {
    starting: {
      on: { STARTED: 'idle' },
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
        DRAIN: 'stopped',
      },
    },
    busy: {
      on: {
        STEP: { actions: [assign({ hasNext: true }), { type: 'launch', params: ({ event }) => ({ work: { kind: 'step', plan: event.plan } }) }] },
        LAUNCH_DONE: [
          {
            guard: 'anotherIsLaunched',
            actions: [
              assign({ hasNext: false }),
              { type: 'send', params: ({ context, event }) => ({ to: context.dp_group, message: stepDone(event.step, event.outcomes) }) },
            ],
          },
          {
            target: 'idle',
            actions: { type: 'send', params: ({ context, event }) => ({ to: context.dp_group, message: stepDone(event.step, event.outcomes) }) },
          },
        ],
        LAUNCH_FAILED: { target: 'lost', actions: assign({ hasNext: false, failed: ({ event }) => event.step, error: ({ event }) => event.error }) },
        DRAIN: 'draining',
      },
    },
    lost: {
      entry: { type: 'launch', params: { work: { kind: 'reset' } } },
      on: {
        STEP: {},
        RESET_DONE: {
          target: 'idle',
          actions: {
            type: 'send',
            params: ({ context }) => ({
              to: context.dp_group,
              message: stepFailed(context.failed, context.error ?? { code: 'internal', message: 'the launch failed', param: null }),
            }),
          },
        },
      },
    },
    draining: {
      on: {
        STEP: {},
        LAUNCH_DONE: [{ guard: 'anotherIsLaunched', actions: assign({ hasNext: false }) }, { target: 'stopped' }],
        LAUNCH_FAILED: 'stopped',
      },
    },
    stopped: { type: 'final' },
  },
});
