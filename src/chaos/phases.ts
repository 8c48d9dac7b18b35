/**
 * Which delivery begins which phase of a run.
 * @module
 */
import { roleOf } from '../protocol/address.ts';
import type { Message } from '../protocol/messages.ts';
import type { Mail } from '../runtime/cast.ts';
import type { Phase } from './fault-plan.ts';

const isStep = ({ message }: Mail, isOfPrompts: (tokens: readonly number[]) => boolean): boolean =>
  message.type === 'STEP' && message.plan.entries.some(({ tokens }) => isOfPrompts(tokens));

const RESHAPES: ReadonlySet<Message['type']> = new Set(['SCALE', 'FURNISH', 'SERVE', 'HAND_BACK', 'PLACE_EXPERTS']);

const BEGINS: Readonly<Record<Phase, (mail: Mail) => boolean>> = {
  admission: ({ message }) => message.type === 'ADMIT',
  prefill: (mail) => isStep(mail, (tokens) => tokens.length > 1),
  decode: (mail) => isStep(mail, (tokens) => tokens.length === 1),
  dispatch: ({ message }) => message.type === 'STEP',
  // Lent, and not pulled yet.
  'kv-transfer': ({ message }) => message.type === 'OFFERED',
  rebalance: ({ to, message }) => message.type === 'EXPERT_WORK' || (roleOf(to) === 'expert-map' && message.type === 'LOADS_COLLECTED'),
  // The shape is to change; or weights, groups or experts are about to, for that.
  scaling: ({ message }) => RESHAPES.has(message.type),
  // Somebody is lost, and who answers for it has just heard.
  takeover: ({ message }) => message.type === 'MEMBER_LOST' || message.type === 'TAKE_OVER' || message.type === 'NPU_LOST',
};

export const begins = (phase: Phase, mail: Mail): boolean => BEGINS[phase](mail);

/** Whether what waits for the phase is to strike before the delivery, or once it has happened. */
export const strikesBefore = (phase: Phase): boolean => phase === 'dispatch';
