/**
 * The words that a trace's steps can be looked for by: messages and states, as machines know them.
 * @module
 */
import type { FrontendMessage } from '../protocol/messages.ts';
import type { OutputMessage } from '../protocol/output.ts';
import type { SwitchRoleMessage } from '../protocol/role-switch.ts';
import type { ScaledMessage } from '../protocol/scaling.ts';
import { stateNames } from '../runtime/xstate/machine-host.ts';
import { MACHINES } from './replay.ts';

/** An actor's coming to life without a message. */
export const BIRTH = 'BIRTH';
/** The state of an actor that is no more. */
export const GONE = 'gone';

/** Neither the frontend nor an output process nor the control plane's host is a machine. */
const TO_FRONTEND: { readonly [Type in FrontendMessage['type']]: true } = {
  REQUEST_RUNNING: true,
  PROMPT_COMPUTED: true,
  REQUEST_MOVED: true,
  REQUEST_ENDED: true,
  JOB_EXECUTORS: true,
};

const TO_OUTPUT: { readonly [Type in OutputMessage['type']]: true } = { TOKENS: true, FORGET: true };

const TO_CONTROL: { readonly [Type in (ScaledMessage | SwitchRoleMessage)['type']]: true } = { SCALED: true, SWITCH_ROLE: true };

const machines = [...MACHINES.values()];

export const MESSAGE_TYPES: ReadonlySet<string> = new Set(
  [...machines.flatMap(({ events }) => events), ...Object.keys(TO_FRONTEND), ...Object.keys(TO_OUTPUT), ...Object.keys(TO_CONTROL), BIRTH].sort(),
);
export const STATE_NAMES: ReadonlySet<string> = new Set([...machines.flatMap(stateNames), GONE].sort());
