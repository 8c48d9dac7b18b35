/**
 * Hosts the actors of one thread, live: each has a mailbox, first in first out, and an actor never runs inside another's send. How much waits for one is bounded.
 * @module
 */
import type { Address } from '../protocol/address.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Commands, Message } from '../protocol/messages.ts';
import { type Birth, Cast, type CastPorts, type Mail } from './cast.ts';
import type { Clock } from './clock.ts';

/** What a thread's host needs from the world around it. */
export type HostPorts = Pick<CastPorts, 'birthOf' | 'hands' | 'launch' | 'transfer' | 'claim' | 'onUnexpected' | 'isLaterLife' | 'witness'> & {
  readonly clock: Clock;
  /** Sends a message to an actor of another thread. */
  readonly transmit: (to: Address, from: Address, message: Message, cause: number) => void;
  /** True if the address's actor lives on this thread. */
  readonly isLocal: (to: Address) => boolean;
};

/**
 * What waits for one address, whether an actor of that name lives or is still to be born: so its mail stays in order. One that lives keeps its box. `stays`: its
 * receiver is no actor, and always there. (A map of which one name is deleted and set again at each step comes to hold nothing but holes to look through.)
 */
type Box = { readonly to: Address; readonly stays: boolean; mail: Mail[] };
/** Of all boxes that are empty. */
const NO_MAIL: Mail[] = [];
type Timer = { readonly id: string; readonly due_ms: number; readonly mail: Mail };

/** Messages of one turn; then the thread looks at its rings again. */
const MAIL_PER_TURN = 256;
/** Messages that one actor takes before the others have had theirs. */
const MAIL_PER_ACTOR = 32;
/**
 * Messages that may wait for one actor: as many as may wait on a link (fabric/outgoing.ts), some megabytes. Mail piles up for a while where many report to one at
 * once: a few messages for each choice that is open (`max_queued`, 4,096 if nothing else is said). More than this is a loop, or an actor that will never catch
 * up; without a bound memory would go first, far from the cause.
 */
export const MAILBOX_MAX = 65_536;

export class ActorHost {
  readonly #ports: HostPorts;
  readonly #cast: Cast;
  readonly #boxes = new Map<Address, Box>();
  /** Those that hold mail, in the order in which they have their turns. */
  readonly #ready: Box[] = [];
  /** Of those, who has the next turn; those before have had theirs. */
  #next = 0;
  #timers: Timer[] = [];

  /** `firstAct`: the number before its first act, as in the cast. */
  constructor(ports: HostPorts, firstAct = 0) {
    this.#ports = ports;
    this.#cast = new Cast(
      {
        birthOf: ports.birthOf,
        hands: ports.hands,
        launch: ports.launch,
        transfer: ports.transfer,
        claim: ports.claim,
        onUnexpected: ports.onUnexpected,
        isLaterLife: ports.isLaterLife,
        witness: ports.witness,
        send: (mail) => this.#send(mail),
        startTimer: (owner, command, cause) => this.#startTimer(owner, command, cause),
        cancelTimer: (owner, id) => this.#dropTimers((timer) => timer.mail.to === owner && timer.id === id),
        cancelTimers: (owner) => this.#dropTimers((timer) => timer.mail.to === owner),
      },
      firstAct,
    );
  }

  get cast(): Cast {
    return this.#cast;
  }

  spawn(address: Address, birth: Birth): void {
    this.#cast.spawn(address, birth);
  }

  /**
   * Queues a message, or passes it on to the thread where its receiver lives.
   * @throws `internal` when more than MAILBOX_MAX messages would wait for the receiver, naming it, its state and what most of them are.
   */
  send(to: Address, from: Address, message: Message, cause = 0): void {
    this.#send({ to, from, message, cause });
  }

  #send(mail: Mail): void {
    const { to } = mail;
    const box = this.#boxes.get(to);
    if (box !== undefined) {
      if (box.mail.length >= MAILBOX_MAX) this.#refuse(box, mail.message);
      if (box.mail.length > 0) box.mail.push(mail);
      else {
        box.mail = [mail];
        this.#ready.push(box);
      }
    } else if (this.#cast.has(to) || this.#ports.isLocal(to)) this.#open(mail);
    else this.#ports.transmit(to, mail.from, mail.message, mail.cause);
  }

  #open(mail: Mail): void {
    const box = { to: mail.to, stays: this.#cast.isHand(mail.to), mail: [mail] };
    this.#boxes.set(mail.to, box);
    this.#ready.push(box);
  }

  #refuse({ to, mail }: Box, message: Message): never {
    const counts = new Map<string, number>();
    for (const { message: waiting } of mail) counts.set(waiting.type, (counts.get(waiting.type) ?? 0) + 1);
    const [most] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a));
    const what = `no more than ${MAILBOX_MAX} messages may wait for ${to}, which is ${this.#cast.stateOf(to) ?? 'no actor here'}: most of them are ${most}`;
    throw new MinipodError('internal', `${what}, and here is another ${message.type}`);
  }

  /**
   * Delivers what is due and what waits, up to a bound. Whoever has had its share goes behind the others. True if there was any. A delivery may lead to another turn
   * (platform/control.ts, where a worker is lost), which goes on behind it.
   */
  turn(): boolean {
    if (this.#timers.length > 0) this.#fireTimers();
    if (!this.hasMail) return false;
    const ready = this.#ready;
    for (let left = MAIL_PER_TURN; left > 0 && this.hasMail; ) {
      const box = ready[this.#next++] as Box;
      const share = Math.min(box.mail.length, MAIL_PER_ACTOR, left);
      left -= share;
      // What it sends itself meanwhile comes behind.
      for (let next = 0; next < share; next++) this.#cast.deliver(box.mail[next] as Mail);
      if (box.mail.length === share) {
        box.mail = NO_MAIL;
        if (!box.stays && !this.#cast.has(box.to)) this.#boxes.delete(box.to);
      } else {
        box.mail.splice(0, share);
        ready.push(box);
      }
    }
    // Mostly all had their turns. To shift or to cut a list is code of V8's own, which no cache holds after a step's kernels; to pop is not.
    if (this.hasMail) ready.splice(0, this.#next);
    else while (ready.length > 0) ready.pop();
    this.#next = 0;
    return true;
  }

  get hasMail(): boolean {
    return this.#next < this.#ready.length;
  }

  /** Milliseconds until the next timer; infinity without one. */
  untilNextTimer_ms(): number {
    const next = this.#timers[0];
    return next === undefined ? Number.POSITIVE_INFINITY : Math.max(0, next.due_ms - this.#ports.clock.now_ms());
  }

  #startTimer(owner: Address, { id, delay_ms, message }: Commands['after'], cause: number): void {
    const due_ms = this.#ports.clock.now_ms() + delay_ms;
    // Most are due after all others.
    const at = this.#timers.findLastIndex((timer) => timer.due_ms <= due_ms) + 1;
    this.#timers.splice(at, 0, { id, due_ms, mail: { to: owner, from: owner, message, cause } });
  }

  /** Most actors that end have none. */
  #dropTimers(isDropped: (timer: Timer) => boolean): void {
    if (this.#timers.some(isDropped)) this.#timers = this.#timers.filter((timer) => !isDropped(timer));
  }

  #fireTimers(): void {
    const now = this.#ports.clock.now_ms();
    while ((this.#timers[0]?.due_ms ?? Number.POSITIVE_INFINITY) <= now) {
      this.#send((this.#timers.shift() as Timer).mail);
    }
  }
}
