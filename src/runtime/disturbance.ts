/**
 * What may go wrong on a virtual clock beyond what its host does by itself: the host asks, whoever breaks things answers. Where nobody does, nobody is asked.
 * What the live host promises (at most once; first in, first out from one to another) holds but where a copy of a message says otherwise.
 * @module
 */
import type { Address } from '../protocol/address.ts';
import type { Mail } from './cast.ts';

/** One arrival of a message that was sent. */
export type Copy = {
  readonly mail: Mail;
  /** From now, in place of its ordinary delay. */
  readonly delay_ns: number;
  /** False: it may overtake those before it. */
  readonly keepsOrder: boolean;
};

export type Disturbance = {
  /** Told of each delivery before it happens. */
  readonly meet: (mail: Mail) => void;
  /** What becomes of a message that would take so long; null: nothing else than ever. */
  readonly transmit: (mail: Mail, delay_ns: number) => readonly Copy[] | null;
  /** How long the owner's timer runs that is to run so long. */
  readonly timer_ms: (owner: Address, delay_ms: number) => number;
  /** How long an NPU's step takes that is to take so long. */
  readonly step_ns: (npu: Address, duration_ns: number) => number;
};
