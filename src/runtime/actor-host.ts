/**
 * Hosts the actors of one thread: one mailbox queue, first in first out, and an actor never runs inside another's send.
 * Every actor is a flat root; who supervises whom is our data, not XState's.
 * @module
 */
import type { AnyStateMachine } from 'xstate';
import { type Address, type Role, roleOf } from '../protocol/address.ts';
import { assert } from '../protocol/errors.ts';
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

type Actor = { readonly address: Address; readonly machine: AnyStateMachine; snapshot: Snapshot };
type Mail = { readonly to: Address; readonly from: Address; readonly message: Message };
type Timer = { readonly owner: Address; readonly id: string; readonly due_ms: number; readonly message: Message };

/** Messages of one turn; then the thread looks at its rings again. */
const MAIL_PER_TURN = 256;
/** Messages that one actor takes before the others have had theirs. */
const MAIL_PER_ACTOR = 32;

export class ActorHost {
  readonly #ports: HostPorts;
  readonly #machines = new MachineHost();
  readonly #actors = new Map<Address, Actor>();
  #mailbox: Mail[] = [];
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
    const actor: Actor = { address, machine: birth.machine, snapshot };
    if (!isDone(snapshot)) this.#actors.set(address, actor);
    this.#perform(actor);
  }

  /** Queues a message, or passes it on to the thread where its receiver lives. */
  send(to: Address, from: Address, message: Message): void {
    // An actor that is here is the common case, and saves taking the address apart.
    if (this.#actors.has(to) || this.#ports.isLocal(to)) this.#mailbox.push({ to, from, message });
    else this.#ports.transmit(to, from, message);
  }

  /** Delivers what is queued and due, up to a bound. True if there was any. */
  turn(): boolean {
    if (this.#timers.length > 0) this.#fireTimers();
    if (this.#mailbox.length === 0) return false;
    for (let left = MAIL_PER_TURN; left > 0 && this.#mailbox.length > 0; ) {
      const batch = this.#mailbox;
      this.#mailbox = [];
      if (batch.length <= MAIL_PER_ACTOR) {
        for (const mail of batch) this.#deliver(mail);
        left -= batch.length;
      } else left -= this.#deliverInTurns(batch, left);
    }
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

  #deliver({ to, message }: Mail): void {
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
      this.#mailbox.push({ to: owner, from: owner, message });
    }
  }
}
