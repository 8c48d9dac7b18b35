/**
 * How parts prove that they live: in tiers, each asked by the one that answers for it (xDeepServe §6).
 *
 *   cluster manager ─PING▶ task executors, job executors      task executor ─PING▶ its DP groups' masters, its NPUs
 *                   ◀PONG─                                                  ◀PONG─  + progress words in shared memory
 *
 * Who is asked answers from its own mailbox, behind what came before: a part that hangs is silent.
 * @module
 */
import type { Address } from './address.ts';

/** To a job executor, task executor, DP group or NPU. */
export type PingMessage = { readonly type: 'PING'; readonly from: Address };

/** To who asks. */
export type HeartbeatMessage =
  | { readonly type: 'PONG'; readonly member: Address }
  /** The next question is due. */
  | { readonly type: 'BEAT_DUE' }
  /** Of `claim`: what the progress words say of where they live, which share of the time since they were read last, in percent, counts as theirs: who waited for a
   * processor could not answer; and in which of its lives that worker is. A word that differs from what it was is work that went on. */
  | {
      readonly type: 'PROGRESS';
      readonly members: readonly Address[];
      readonly words: readonly number[];
      readonly shares: readonly number[];
      readonly lives: readonly number[];
      readonly now_ms: number;
    };

/** To the cluster manager that leads: requests have come. */
export type RequestsComeMessage = { readonly type: 'REQUESTS_COME' };

/** To the host, which alone can end a thread: who has not answered for so long, and whose work stands still. Held against that life of its worker alone. */
export type SuspectedMessage = { readonly type: 'SUSPECTED'; readonly member: Address; readonly life: number; readonly silent_ms: number };

/** To the host: who was suspected has answered after all. */
export type TrustedMessage = { readonly type: 'TRUSTED'; readonly member: Address };

/** Why it is given up. */
export const silenceOf = ({ member, silent_ms }: SuspectedMessage): string => `${member} has not answered for ${silent_ms} ms, and its work stands still`;

export const ping = (from: Address): PingMessage => ({ type: 'PING', from });
export const pong = (member: Address): HeartbeatMessage => ({ type: 'PONG', member });
export const beatDue = (): HeartbeatMessage => ({ type: 'BEAT_DUE' });
export const progress = (
  members: readonly Address[],
  words: readonly number[],
  shares: readonly number[],
  lives: readonly number[],
  now_ms: number,
): Extract<HeartbeatMessage, { type: 'PROGRESS' }> => ({
  type: 'PROGRESS',
  members,
  words,
  shares,
  lives,
  now_ms,
});
export const requestsCome = (): RequestsComeMessage => ({ type: 'REQUESTS_COME' });
export const suspected = (member: Address, life: number, silent_ms: number): SuspectedMessage => ({ type: 'SUSPECTED', member, life, silent_ms });
export const trusted = (member: Address): TrustedMessage => ({ type: 'TRUSTED', member });
