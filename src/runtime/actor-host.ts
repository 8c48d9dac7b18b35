/**
 * Hosts the actors of one thread: one mailbox queue, first in first out, and an actor never runs inside another's send. How much waits for one is bounded.
 * Every actor is a flat root; who supervises whom is our data, not XState's.
 * @module
 */
import type { AnyStateMachine } from 'xstate';
import { type Address, type Role, roleOf } from '../protocol/address.ts';
import { assert, MinipodError } from '../protocol/errors.ts';
import { type Commands, MAY_COME_LATE, type Message, type Work } from '../protocol/messages.ts';
import type { Clock } from './clock.ts';
import { type CommandName, isDone, MachineHost, type Snapshot, stateName } from './machine-host.ts';

export type Birth = { readonly machine: AnyStateMachine; readonly input: unknown };

/** What a thread's host needs from the world around it. */
export type HostPorts = {
  readonly clock: Clock;
  /** Sends a message to an actor of another thread. */
  readonly transmit: (to: Address, from: Address, message: Message) => void;
  /** True if the address's actor lives on this thread. */
  readonly isLocal: (to: Address) => boolean;
  /** An actor that this message brings to life, or null. */
  readonly birthOf: (to: Address, message: Message) => Birth | null;
  /** Receivers that are no machines: the frontend's output process. */
  readonly hands: ReadonlyMap<Role, (to: Address, message: Message) => void>;
  /** Performs kernel work; its result comes back through `send`. */
  readonly launch: (npu: Address, work: Work) => void;
  /** Told of a message that the state had no transition for, or whose actor is gone. Tests throw here. */
  readonly onUnexpected: (to: Address, message: Message, state: string) => void;
};

/** Whose mail is counted together: an actor's. */
type Receiver = { waiting: number };
type Actor = Receiver & { readonly address: Address; readonly machine: AnyStateMachine; snapshot: Snapshot };
type Mail = { readonly to: Address; readonly from: Address; readonly message: Message; readonly receiver: Receiver };
type Timer = { readonly owner: Address; readonly id: string; readonly due_ms: number; readonly message: Message };

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
  readonly #machines = new MachineHost();
  readonly #actors = new Map<Address, Actor>();
  #mailbox: Mail[] = [];
  /** What this turn has taken out of the mailbox: delivered, or not yet. */
  #taken: readonly Mail[] = [];
  /** Hands, and actors that are not here: their mail is counted together. */
  readonly #others: Receiver = { waiting: 0 };
  #timers: Timer[] = [];
  readonly #commands: { name: CommandName; params: unknown }[] = [];
  /** Messages that no state expected, by `role TYPE state`. */
  readonly unexpected = new Map<string, number>();

  constructor(ports: HostPorts) {
    this.#ports = ports;
  }

  spawn(address: Address, birth: Birth): void {
    assert(!this.#actors.has(address), `${address} is alive already`);
    const snapshot = this.#machines.start(birth.machine, birth.input, this.#note);
    const actor: Actor = { waiting: 0, address, machine: birth.machine, snapshot };
    if (!isDone(snapshot)) this.#actors.set(address, actor);
    this.#perform(actor);
  }

  /**
   * Queues a message, or passes it on to the thread where its receiver lives.
   * @throws `internal` when more than MAILBOX_MAX messages would wait for the receiver, naming it, its state and what most of them are.
   */
  send(to: Address, from: Address, message: Message): void {
    // An actor that is here is the common case, and saves taking the address apart.
    const actor = this.#actors.get(to);
    if (actor !== undefined || this.#ports.isLocal(to)) this.#queue(to, from, message, actor ?? this.#others);
    else this.#ports.transmit(to, from, message);
  }

  #queue(to: Address, from: Address, message: Message, receiver: Receiver): void {
    if (receiver.waiting >= MAILBOX_MAX) this.#refuse(to, receiver, message);
    receiver.waiting++;
    this.#mailbox.push({ to, from, message, receiver });
  }

  #refuse(to: Address, receiver: Receiver, message: Message): never {
    const counts = new Map<string, number>();
    for (const mail of [...this.#taken, ...this.#mailbox])
      if (mail.receiver === receiver) counts.set(mail.message.type, (counts.get(mail.message.type) ?? 0) + 1);
    const [most] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a));
    const who = receiver === this.#others ? `${to} and others that are no actors here` : `${to}, which is ${this.stateOf(to)}`;
    const what = `no more than ${MAILBOX_MAX} messages may wait for ${who}: most of them are ${most}`;
    throw new MinipodError('internal', `${what}, and here is another ${message.type}`);
  }

  /** Delivers what is queued and due, up to a bound. True if there was any. */
  turn(): boolean {
    if (this.#timers.length > 0) this.#fireTimers();
    if (this.#mailbox.length === 0) return false;
    for (let left = MAIL_PER_TURN; left > 0 && this.#mailbox.length > 0; ) {
      const batch = this.#mailbox;
      this.#taken = batch;
      this.#mailbox = [];
      if (batch.length <= MAIL_PER_ACTOR) {
        for (const mail of batch) this.#deliver(mail);
        left -= batch.length;
      } else left -= this.#deliverInTurns(batch, left);
    }
    this.#taken = [];
    return true;
  }

  /** The same for a crowd: whoever has had its share goes behind the others, its own messages in their order. How many were delivered. */
  #deliverInTurns(batch: readonly Mail[], limit: number): number {
    const taken = new Map<Address, number>();
    const later: Mail[] = [];
    let delivered = 0;
    for (const mail of batch) {
      const share = taken.get(mail.to) ?? 0;
      if (share === MAIL_PER_ACTOR || delivered === limit) later.push(mail);
      else {
        taken.set(mail.to, share + 1);
        this.#deliver(mail);
        delivered++;
      }
    }
    if (later.length > 0) this.#mailbox = [...later, ...this.#mailbox];
    return delivered;
  }

  get hasMail(): boolean {
    return this.#mailbox.length > 0;
  }

  /** Milliseconds until the next timer; infinity without one. */
  untilNextTimer_ms(): number {
    const next = this.#timers[0];
    return next === undefined ? Number.POSITIVE_INFINITY : Math.max(0, next.due_ms - this.#ports.clock.now_ms());
  }

  stateOf(address: Address): string | null {
    const actor = this.#actors.get(address);
    return actor === undefined ? null : stateName(actor.snapshot);
  }

  contextOf(address: Address): unknown {
    return this.#actors.get(address)?.snapshot.context ?? null;
  }

  get actors(): number {
    return this.#actors.size;
  }

  #deliver({ to, message, receiver }: Mail): void {
    receiver.waiting--;
    const actor = this.#actors.get(to);
    if (actor === undefined) {
      this.#deliverElsewhere(to, message);
      return;
    }
    const { snapshot, isExpected } = this.#machines.deliver(actor.machine, actor.snapshot, message, this.#note);
    if (!isExpected) this.#noteUnexpected(to, message, stateName(actor.snapshot));
    actor.snapshot = snapshot;
    if (isDone(snapshot)) this.#bury(actor);
    this.#perform(actor);
  }

  /** To a hand, or to an actor that this message brings to life. */
  #deliverElsewhere(to: Address, message: Message): void {
    const hand = this.#ports.hands.get(roleOf(to));
    const birth = hand === undefined ? this.#ports.birthOf(to, message) : null;
    if (hand !== undefined) hand(to, message);
    else if (birth !== null) this.spawn(to, birth);
    else if (!MAY_COME_LATE[roleOf(to)]?.has(message.type)) this.#noteUnexpected(to, message, 'gone');
  }

  #noteUnexpected(to: Address, message: Message, state: string): void {
    const key = `${roleOf(to)} ${message.type} ${state}`;
    this.unexpected.set(key, (this.unexpected.get(key) ?? 0) + 1);
    this.#ports.onUnexpected(to, message, state);
  }

  #bury(actor: Actor): void {
    this.#actors.delete(actor.address);
    this.#timers = this.#timers.filter(({ owner }) => owner !== actor.address);
  }

  readonly #note = (name: CommandName, params: unknown): void => {
    this.#commands.push({ name, params });
  };

  #perform(actor: Actor): void {
    if (this.#commands.length === 0) return;
    for (const { name, params } of this.#commands.splice(0)) {
      switch (name) {
        case 'send':
          this.#send(actor, params as Commands['send']);
          break;
        case 'sendEach':
          for (const command of params as Commands['sendEach']) this.#send(actor, command);
          break;
        case 'after':
          this.#startTimer(actor, params as Commands['after']);
          break;
        case 'cancel':
          this.#timers = this.#timers.filter(({ owner, id }) => owner !== actor.address || id !== (params as Commands['cancel']).id);
          break;
        case 'launch':
          this.#ports.launch(actor.address, (params as Commands['launch']).work);
          break;
      }
    }
  }

  #send(actor: Actor, { to, message }: Commands['send']): void {
    this.send(to, actor.address, message);
  }

  #startTimer(actor: Actor, { id, delay_ms, message }: Commands['after']): void {
    this.#timers.push({ owner: actor.address, id, due_ms: this.#ports.clock.now_ms() + delay_ms, message });
    this.#timers.sort((a, b) => a.due_ms - b.due_ms);
  }

  #fireTimers(): void {
    const now = this.#ports.clock.now_ms();
    while ((this.#timers[0]?.due_ms ?? Number.POSITIVE_INFINITY) <= now) {
      const { owner, message } = this.#timers.shift() as Timer;
      this.#queue(owner, owner, message, this.#actors.get(owner) ?? this.#others);
    }
  }
}
