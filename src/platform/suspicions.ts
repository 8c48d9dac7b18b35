/**
 * What becomes of suspicions (actors/policies/heartbeats.ts): the worker of who is silent is given up, or that is borne, and then said.
 *
 *   SUSPECTED ─▶ given up                       its worker is in the life that was suspected, and can be ended
 *       ├──────▶ over                           that life has ended meanwhile: its successor has done nothing
 *       └──────▶ borne ─▶ (TRUSTED, another life, or suspected no more) ─▶ over     nobody can be put in its place
 *                  └────▶ the control thread is given up, for one that lives there and is silent for too long: with it the pod's other threads begin anew
 *
 * @module
 */
import type { Address } from '../protocol/address.ts';
import { type SuspectedMessage, silenceOf, type TrustedMessage } from '../protocol/heartbeats.ts';
import { ON_CONTROL } from '../runtime/directory.ts';

/** Who is silent is suspected again and again. One that is not any more has answered, perhaps to a leader that has none of its predecessor's suspicions. */
const STANDS_MS_MAX = 10_000;
/** A part of the control thread that is silent for so long will be so for ever. Much longer than others have: all that runs begins anew. As long as the thread itself has (control-pulse.ts). */
export const CONTROL_SILENT_MS_MAX = 10_000;

/** `no_spare_seat`: where no thread can be ended (Deno), and none is left for a successor. */
export type Verdict = 'given_up' | 'over' | 'no_spare_seat' | 'control_thread';
/** Somebody who is silent, and whom nobody replaces. `silent_ms`: as it was suspected last. */
export type Borne = { readonly member: Address; readonly why: 'no_spare_seat' | 'control_thread'; readonly silent_ms: number };
export type SuspicionReport = { readonly counts: Readonly<Record<Verdict, number>>; readonly standing: readonly Borne[] };

export type SuspicionPorts = {
  /** −1: the control thread. */
  readonly workerOf: (member: Address) => number;
  readonly lifeOf: (worker: number) => number;
  readonly now_ms: () => number;
  /** Ends the worker, if it may be ended. */
  readonly suspect: (worker: number, reason: string) => Exclude<Verdict, 'control_thread'>;
  /** Ends the control thread. */
  readonly loseControl: (reason: string) => void;
};

export class Suspicions {
  readonly #ports: SuspicionPorts;
  readonly #counts: Record<Verdict, number> = { given_up: 0, over: 0, no_spare_seat: 0, control_thread: 0 };
  readonly #borne = new Map<Address, Borne & { readonly life: number; readonly at_ms: number }>();

  constructor(ports: SuspicionPorts) {
    this.#ports = ports;
  }

  hear(message: SuspectedMessage | TrustedMessage): void {
    const { member } = message;
    this.#borne.delete(member);
    if (message.type === 'TRUSTED') return;
    const why = this.#judge(message);
    this.#counts[why]++;
    const { silent_ms, life } = message;
    if (why === 'control_thread' && silent_ms >= CONTROL_SILENT_MS_MAX) this.#ports.loseControl(silenceOf(message));
    if (why === 'no_spare_seat' || why === 'control_thread') this.#borne.set(member, { member, why, silent_ms, life, at_ms: this.#ports.now_ms() });
  }

  report(): SuspicionReport {
    const { lifeOf, workerOf, now_ms } = this.#ports;
    const since_ms = now_ms() - STANDS_MS_MAX;
    const standing = [...this.#borne.values()].filter(({ member, life, at_ms }) => lifeOf(workerOf(member)) === life && at_ms >= since_ms);
    return { counts: { ...this.#counts }, standing: standing.map(({ member, why, silent_ms }) => ({ member, why, silent_ms })) };
  }

  #judge(suspicion: SuspectedMessage): Verdict {
    const { workerOf, lifeOf, suspect } = this.#ports;
    const worker = workerOf(suspicion.member);
    if (lifeOf(worker) !== suspicion.life) return 'over';
    return worker === ON_CONTROL ? 'control_thread' : suspect(worker, silenceOf(suspicion));
  }
}
