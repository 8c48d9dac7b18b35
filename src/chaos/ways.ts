/**
 * What becomes of messages on their way while faults of links and of messages are at work, and who is on which thread.
 * @module
 */
import type { VirtualControl } from '../platform/virtual-control.ts';
import type { Address } from '../protocol/address.ts';
import type { Mail } from '../runtime/cast.ts';
import { CONTROL_THREAD, type Directory } from '../runtime/directory.ts';
import type { Copy } from '../runtime/disturbance.ts';
import type { SeededRandom } from '../runtime/seeded-random.ts';
import { NS_PER_MS, type VirtualHost } from '../runtime/virtual-host.ts';
import { corrupted } from './corruption.ts';
import type { Fault, FaultOf } from './fault-plan.ts';
import { FullRing } from './full-ring.ts';

type Meant = FaultOf<'message-delayed'> | FaultOf<'message-dropped' | 'message-duplicated' | 'message-reordered' | 'message-corrupted'>;

export class Ways {
  readonly #directory: Directory;
  readonly #host: Pick<VirtualHost, 'now_ns'>;
  readonly #random: SeededRandom;
  readonly #rings = new Map<FaultOf<'ring-full'>, FullRing>();

  constructor({ directory, host }: Pick<VirtualControl, 'directory' | 'host'>, random: SeededRandom) {
    this.#directory = directory;
    this.#host = host;
    this.#random = random;
  }

  /** Null: the fault has nothing to do with it. */
  copiesUnder(fault: Fault, mail: Mail, delay_ns: number): readonly Copy[] | null {
    switch (fault.kind) {
      case 'link-slow':
        return this.crosses(fault, mail) ? [{ mail, delay_ns: Math.ceil(delay_ns * fault.factor), keepsOrder: true }] : null;
      case 'ring-full': {
        const { now_ns } = this.#host;
        const ring = this.#rings.get(fault);
        return ring !== undefined && this.crosses(fault, mail) ? [{ mail, delay_ns: ring.takenAt(now_ns + delay_ns) - now_ns, keepsOrder: true }] : null;
      }
      case 'message-delayed':
        return this.#isMeant(fault, mail) ? [{ mail, delay_ns: delay_ns + fault.delay_ms * NS_PER_MS, keepsOrder: true }] : null;
      case 'message-reordered':
        return this.#isMeant(fault, mail) ? [{ mail, delay_ns: delay_ns + fault.delay_ms * NS_PER_MS, keepsOrder: false }] : null;
      case 'message-dropped':
        return this.#isMeant(fault, mail) ? [] : null;
      case 'message-duplicated': {
        const copy = { mail, delay_ns, keepsOrder: true };
        const late = { ...copy, delay_ns: delay_ns + fault.late_ms * NS_PER_MS, keepsOrder: fault.late_ms === 0 };
        return this.#isMeant(fault, mail) ? [copy, late] : null;
      }
      case 'message-corrupted': {
        const message = this.#isMeant(fault, mail) ? corrupted(mail.message, (limit) => this.#random.below(limit)) : null;
        return message === null ? null : [{ mail: { ...mail, message }, delay_ns, keepsOrder: true }];
      }
      default:
        return null;
    }
  }

  /** The fault's ring has little room from now on. */
  narrow(fault: FaultOf<'ring-full'>): void {
    this.#rings.set(fault, new FullRing(fault, this.#host.now_ns));
  }

  /** How many frames found no room. */
  waitedAt(fault: FaultOf<'ring-full'>): number {
    return this.#rings.get(fault)?.waited ?? 0;
  }

  #isMeant(fault: Meant, mail: Mail): boolean {
    const { type, share } = fault;
    const { to, from, message } = mail;
    if (type !== undefined && message.type !== type) return false;
    const isWithin = 'within_threads' in fault ? fault.within_threads : type !== undefined;
    if (to === from || (!isWithin && this.threadOf(to) === this.threadOf(from))) return false;
    return share === 1 || this.#random.below(1_000_000) < share * 1_000_000;
  }

  crosses({ from, to }: Pick<FaultOf<'link-cut'>, 'from' | 'to'>, mail: Mail): boolean {
    return mail.from !== mail.to && this.threadOf(mail.from) === this.thread(from) && this.threadOf(mail.to) === this.thread(to);
  }

  thread(of: number | 'control'): number {
    return of === 'control' ? CONTROL_THREAD : this.#directory.threadOfWorker(of);
  }

  threadOf(actor: Address): number {
    return this.#directory.threadOf(actor);
  }
}
