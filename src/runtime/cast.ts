/**
 * The actors of one host, live or virtual: delivers a message to a machine, shows what it did to the witness, then hands its commands to the host.
 * Every actor is a flat root; who supervises whom is our data, not XState's. When a message is delivered is the host's affair.
 * @module
 */
import { type Address, type Role, roleOf } from '../protocol/address.ts';
import type { Claim } from '../protocol/controllers.ts';
import { assert } from '../protocol/errors.ts';
import { type Commands, MAY_COME_LATE, type Message, type Work } from '../protocol/messages.ts';
import type { Transfer } from '../protocol/transfers.ts';
import { isDone, type Machine, MachineHost, type Snapshot, stateName } from './xstate/machine-host.ts';

export type Birth = { readonly machine: Machine; readonly input: unknown };

/** A message on its way. `cause`: the delivery whose command sent it, 0 where it came from outside. */
export type Mail = { readonly to: Address; readonly from: Address; readonly message: Message; readonly cause: number };

/** What an actor asked for, several sends or transfers in one command taken apart. */
export type Command =
  | ({ readonly name: 'send' } & Commands['send'])
  | ({ readonly name: 'after' } & Commands['after'])
  | ({ readonly name: 'cancel' } & Commands['cancel'])
  | ({ readonly name: 'launch' } & Commands['launch'])
  | ({ readonly name: 'transfer' } & Commands['transfer'])
  | ({ readonly name: 'claim' } & Commands['claim']);

/** What became of one message, or of an actor's birth without one. */
export type Act = {
  /** Counts from the cast's first on; later acts name it as their cause. */
  readonly number: number;
  readonly to: Address;
  readonly from: Address;
  readonly message: Message | null;
  readonly cause: number;
  readonly birth: Birth | null;
  readonly before: Snapshot | null;
  /** Null: the receiver is no machine, or is gone. */
  readonly after: Snapshot | null;
  readonly isExpected: boolean;
  readonly commands: readonly Command[];
};

/** What came to an actor: a message, or nothing, for one that the host brings to life itself. */
type Arrival = Pick<Act, 'to' | 'from' | 'message' | 'cause'>;

/** A receiver that is no machine. `act`: the delivery, the cause of what follows from it. */
export type Hand = (mail: Mail, act: number) => void;

/** Told of each act before its commands are performed: when something fails in between, what it led to is not out yet, but its reason is known. */
export type Witness = (act: Act) => void;

/** Numbers of a thread's lives are this far apart. */
export const ACTS_PER_LIFE = 2 ** 34;
/** After so many lives of a thread the numbers of the first come again. */
const LIVES_MAX = 2 ** 10;
export const ACTS_PER_THREAD = ACTS_PER_LIFE * LIVES_MAX;

/** The number before the first act of a thread's life, `epoch` being that life's, from 1: numbers of all lives of all threads differ. */
export function firstAct(thread: number, epoch: number): number {
  assert(epoch > 0, `thread ${thread} has epoch ${epoch}`);
  return thread * ACTS_PER_THREAD + ((epoch - 1) % LIVES_MAX) * ACTS_PER_LIFE;
}

/** Not the first to host what lives on the thread. (Spare ones begin with epoch 2.) */
export const isLaterLife = (epoch: number): boolean => epoch > 1;

export type CastPorts = {
  /** An actor that this message brings to life, or null. */
  readonly birthOf: (to: Address, message: Message) => Birth | null;
  /** The frontend's output process. */
  readonly hands: ReadonlyMap<Role, Hand>;
  readonly send: (mail: Mail) => void;
  readonly startTimer: (owner: Address, command: Commands['after'], cause: number) => void;
  readonly cancelTimer: (owner: Address, id: string) => void;
  /** The owner is done: none of its timers may fire. */
  readonly cancelTimers: (owner: Address) => void;
  /** Performs kernel work; its result comes back as a message of that cause. */
  readonly launch: (npu: Address, work: Work, cause: number) => void;
  /** Moves KV blocks for a DP group; what comes of it is a message of that cause. */
  readonly transfer: (group: Address, work: Transfer, cause: number) => void;
  /** Asks shared memory; what became of it comes back as a message of that cause. Missing: nobody here claims anything. */
  readonly claim?: ((actor: Address, claim: Claim, cause: number) => void) | undefined;
  /** Told of a message that the state had no transition for, or whose actor is gone. Tests throw here. */
  readonly onUnexpected: (to: Address, message: Message, state: string) => void;
  /** Not its thread's first life: what comes for those who died with an earlier one finds nobody, which is harmless. */
  readonly isLaterLife?: (() => boolean) | undefined;
  readonly witness?: Witness | undefined;
};

/** Nothing is put into it. */
const NO_COMMANDS: Command[] = [];

/** Those who are lost with their thread, and whose names no successor takes. */
const MORTALS: ReadonlySet<Role> = new Set<Role>(['request', 'job', 'task']);

type Actor = { readonly machine: Machine; snapshot: Snapshot; heard: number };

export class Cast {
  readonly #ports: CastPorts;
  readonly #machines = new MachineHost();
  readonly #actors = new Map<Address, Actor>();
  /** Those that were written to: one that hears of each step is not looked for by its role each time. */
  readonly #hands = new Map<Address, Hand>();
  readonly #first: number;
  #count = 0;
  #commands = NO_COMMANDS;
  /** Messages that no state expected, by `role TYPE state`. */
  readonly unexpected = new Map<string, number>();

  /** `first`: the number before its first act, where several casts' acts are told apart by it. */
  constructor(ports: CastPorts, first = 0) {
    this.#ports = ports;
    this.#first = first;
  }

  /** Whether it is alive here. */
  has(address: Address): boolean {
    return this.#actors.has(address);
  }

  /** Whether what comes for it goes to one of the host's hands. */
  isHand(address: Address): boolean {
    return this.#handOf(address) !== undefined;
  }

  get actors(): number {
    return this.#actors.size;
  }

  /** All who live here. */
  get addresses(): readonly Address[] {
    return [...this.#actors.keys()];
  }

  /** Acts so far. */
  get acts(): number {
    return this.#count;
  }

  stateOf(address: Address): string | null {
    const actor = this.#actors.get(address);
    return actor === undefined ? null : stateName(actor.snapshot);
  }

  /** How many messages it has taken. */
  heardBy(address: Address): number {
    return this.#actors.get(address)?.heard ?? 0;
  }

  contextOf(address: Address): unknown {
    return this.#actors.get(address)?.snapshot.context ?? null;
  }

  spawn(address: Address, birth: Birth): void {
    this.#bringToLife({ to: address, from: address, message: null, cause: 0 }, birth);
  }

  /** They die without a word, as with their thread. */
  lose(isLost: (actor: Address) => boolean): void {
    for (const actor of [...this.#actors.keys()]) {
      if (!isLost(actor)) continue;
      this.#actors.delete(actor);
      this.#ports.cancelTimers(actor);
    }
  }

  deliver(mail: Mail): void {
    const actor = this.#actors.get(mail.to);
    if (actor === undefined) {
      this.#deliverElsewhere(mail);
      return;
    }
    actor.heard++;
    const before = actor.snapshot;
    this.#commands = NO_COMMANDS;
    const { snapshot, isExpected } = this.#machines.deliver(actor.machine, before, mail.message, this.#note);
    if (!isExpected) this.#noteUnexpected(mail, stateName(before));
    actor.snapshot = snapshot;
    this.#finish(mail, null, before, snapshot, isExpected);
  }

  #bringToLife(arrival: Arrival, birth: Birth): void {
    const address = arrival.to;
    assert(!this.#actors.has(address), `${address} is alive already`);
    this.#commands = NO_COMMANDS;
    const snapshot = this.#machines.start(birth.machine, birth.input, this.#note);
    this.#actors.set(address, { machine: birth.machine, snapshot, heard: 0 });
    this.#finish(arrival, birth, null, snapshot, true);
  }

  /** To a hand, or to an actor that this message brings to life. */
  #deliverElsewhere(mail: Mail): void {
    const { to, message } = mail;
    const hand = this.#handOf(to);
    if (hand !== undefined) {
      hand(mail, this.#show(mail, null, null, null, true));
      return;
    }
    const birth = this.#ports.birthOf(to, message);
    if (birth !== null) this.#bringToLife(mail, birth);
    else {
      const mayHaveDied = this.#ports.isLaterLife?.() === true && MORTALS.has(roleOf(to));
      const isExpected = mayHaveDied || (MAY_COME_LATE[roleOf(to)]?.has(message.type) ?? false);
      if (!isExpected) this.#noteUnexpected(mail, 'gone');
      this.#show(mail, null, null, null, isExpected);
    }
  }

  #handOf(to: Address): Hand | undefined {
    const known = this.#hands.get(to);
    if (known !== undefined) return known;
    const hand = this.#ports.hands.get(roleOf(to));
    if (hand !== undefined) this.#hands.set(to, hand);
    return hand;
  }

  #noteUnexpected({ to, message }: Mail, state: string): void {
    const key = `${roleOf(to)} ${message.type} ${state}`;
    this.unexpected.set(key, (this.unexpected.get(key) ?? 0) + 1);
    this.#ports.onUnexpected(to, message, state);
  }

  #finish(arrival: Arrival, birth: Birth | null, before: Snapshot | null, after: Snapshot, isExpected: boolean): void {
    const number = this.#show(arrival, birth, before, after, isExpected);
    if (isDone(after)) {
      this.#actors.delete(arrival.to);
      this.#ports.cancelTimers(arrival.to);
    }
    this.#perform(arrival.to, number);
  }

  #show({ to, from, message, cause }: Arrival, birth: Birth | null, before: Snapshot | null, after: Snapshot | null, isExpected: boolean): number {
    const number = this.#first + ++this.#count;
    this.#ports.witness?.({ number, to, from, message, cause, birth, before, after, isExpected, commands: this.#commands });
    return number;
  }

  readonly #note = (name: keyof Commands, params: unknown): void => {
    switch (name) {
      case 'send':
        this.#add(sendOf(params as Commands['send']));
        break;
      case 'sendEach':
        for (const command of params as Commands['sendEach']) this.#add(sendOf(command));
        break;
      case 'launch':
        this.#add({ name, work: (params as Commands['launch']).work });
        break;
      case 'afterEach':
        for (const timer of params as Commands['afterEach']) this.#add({ name: 'after', ...timer });
        break;
      case 'transferEach':
        for (const work of params as Commands['transferEach']) this.#add({ name: 'transfer', work });
        break;
      default:
        this.#add({ name, ...(params as object) } as Command);
    }
  };

  /** Mostly there is one: a list of one is made as such, since one that grows has room for seventeen. */
  #add(command: Command): void {
    if (this.#commands.length === 0) this.#commands = [command];
    else this.#commands.push(command);
  }

  #perform(actor: Address, cause: number): void {
    if (this.#commands.length === 0) return;
    const commands = this.#commands;
    this.#commands = NO_COMMANDS;
    for (const command of commands) {
      switch (command.name) {
        case 'send':
          this.#ports.send({ to: command.to, from: actor, message: command.message, cause });
          break;
        case 'after':
          this.#ports.startTimer(actor, command, cause);
          break;
        case 'cancel':
          this.#ports.cancelTimer(actor, command.id);
          break;
        case 'launch':
          this.#ports.launch(actor, command.work, cause);
          break;
        case 'transfer':
          this.#ports.transfer(actor, command.work, cause);
          break;
        case 'claim':
          assert(this.#ports.claim, `${actor} claims ${command.claim.kind} where nobody can`);
          this.#ports.claim(actor, command.claim, cause);
          break;
      }
    }
  }
}

/** Field by field: to spread objects of many shapes takes V8 a runtime call, and each step sends. */
const sendOf = ({ to, message }: Commands['send']): Command => ({ name: 'send', to, message });
