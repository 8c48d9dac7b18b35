/**
 * The words that a trace's steps can be looked for by: messages and states, as machines know them.
 * @module
 */
import type { FrontendMessage } from '../protocol/messages.ts';
import { stateNames } from '../runtime/machine-host.ts';
import { MACHINES } from './replay.ts';

/** An actor's coming to life without a message. */
export const BIRTH = 'BIRTH';
/** The state of an actor that is no more. */
export const GONE = 'gone';

/** The frontend is no machine. */
const TO_FRONTEND: { readonly [Type in FrontendMessage['type']]: true } = {
  TOKENS: true,
  REQUEST_RUNNING: true,
  REQUEST_MOVED: true,
  REQUEST_ENDED: true,
  JOB_EXECUTORS: true,
};

const machines = [...MACHINES.values()];

export const MESSAGE_TYPES: ReadonlySet<string> = new Set([...machines.flatMap(({ events }) => events), ...Object.keys(TO_FRONTEND), BIRTH].sort());
export const STATE_NAMES: ReadonlySet<string> = new Set([...machines.flatMap(stateNames), GONE].sort());
