/**
 * Replays a trace: gives each actor what it was given, and holds what it does against what it did. Nothing here waits, sends or tells time: the trace says it all.
 * @module
 */
import { clusterManager } from '../../actors/cluster-manager.ts';
import { dpGroup } from '../../actors/dp-group.ts';
import { expert } from '../../actors/expert.ts';
import { expertMap } from '../../actors/expert-map.ts';
import { job } from '../../actors/job.ts';
import { jobExecutor } from '../../actors/job-executor.ts';
import { npu } from '../../actors/npu.ts';
import { request } from '../../actors/request.ts';
import { roleSwitch } from '../../actors/role-switch.ts';
import { scaling } from '../../actors/scaling.ts';
import { task } from '../../actors/task.ts';
import { taskExecutor } from '../../actors/task-executor.ts';
import { birthOf } from '../platform/births.ts';
import { type Address, executorOf, expertOf, roleOf } from '../protocol/address.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Message, Work } from '../protocol/messages.ts';
import { type Deployment, npuOfExpert } from '../protocol/topology.ts';
import type { Transfer, TransferMessage } from '../protocol/transfers.ts';
import { ACTS_PER_LIFE, type Act, type Birth, Cast, type Command, isLaterLife } from '../runtime/cast.ts';
import { stateName } from '../runtime/xstate/machine-host.ts';
import { type ActRecord, commandChecksum, lifeOf } from './act-record.ts';
import { HANDS } from './hands.ts';
import type { Prompts } from './redaction.ts';
import { encodeRecord } from './trace-codec.ts';

/** By id. */
export const MACHINES = new Map(
  [request, job, task, jobExecutor, taskExecutor, clusterManager, scaling, roleSwitch, dpGroup, npu, expert, expertMap].map((machine) => [machine.id, machine]),
);
/** They come to life with their thread, and what they do changes an NPU's memory. */
const ON_NPU: ReadonlySet<string | null> = new Set([npu.id, dpGroup.id]);

/** The first thing that is not as it was. */
export type Divergence = {
  readonly record: number;
  readonly actor: Address;
  /** Before the message; null: it was not alive. */
  readonly state: string | null;
  readonly message: Message | null;
  /** What differs, and how. */
  readonly difference: string;
  /** Which of the commands, from 0; null where something else differs. */
  readonly command: number | null;
  /** All that the actor asks for now. */
  readonly commands: readonly Command[];
  /** Its state afterwards, now; null: it is gone, or it failed. */
  readonly state_after: string | null;
  /** What its kernels find now, where that differs. */
  readonly computed: Message | null;
};

const isOfTransfer = (message: Message | null): message is TransferMessage =>
  message?.type === 'OFFERED' || message?.type === 'TRANSFER_DONE' || message?.type === 'TRANSFER_FAILED';

export type Computed = { readonly npu: Address; readonly message: Message };

/** Computes again what NPUs launch. */
export type Recompute = {
  /** What comes next happened then. */
  at(time_us: number): void;
  /** The NPU comes to life, perhaps not for the first time. */
  begin(npu: Address): void;
  /** What comes of it, and of other ranks' launches that have waited for it; nothing where that depends on more than launches. */
  launch(npu: Address, work: Work): readonly Computed[];
  /** Copies what the transfer copied. */
  transfer(group: Address, work: Transfer): void;
  /** How far the group's transfers have come. */
  heard(group: Address, message: TransferMessage): void;
};

/** What of an act names the actor's host. */
type Place = Pick<ActRecord, 'thread' | 'number'>;

export class Replay {
  /** By a thread's life: an actor that was lost with its thread has a successor of the same name on another. */
  readonly #casts = new Map<string, Cast>();
  readonly #recompute: Recompute | null;
  /** By NPU and its thread's life: what its launches computed now, the earliest first. */
  readonly #computed = new Map<string, Message[]>();
  /** By NPU and DP group: the life of the thread that it came to life on last. */
  readonly #lives = new Map<Address, string>();
  #life = '';
  #act: Act | null = null;
  #acts = 0;
  #launches = 0;
  readonly #prompts: Prompts;
  readonly #deployment: Deployment | null;

  /** `prompts`, `deployment`: what the trace's header says of them; null: nobody checks where experts lie, which the host decides and no actor. */
  constructor(recompute: Recompute | null = null, prompts: Prompts = 'recorded', deployment: Deployment | null = null) {
    this.#recompute = recompute;
    this.#prompts = prompts;
    this.#deployment = deployment;
  }

  /** The actors among which such an act happens. */
  castOf(place: Place): Pick<Cast, 'stateOf' | 'contextOf'> {
    return this.#castOf(place);
  }

  /** The actors among which one of this name is alive now; of several lives of a thread, in the last. */
  castWith(actor: Address): Pick<Cast, 'stateOf' | 'contextOf'> | null {
    return [...this.#casts.values()].findLast((cast) => cast.has(actor)) ?? null;
  }

  /** Acts that were replayed, and were as they had been. */
  get acts(): number {
    return this.#acts;
  }

  /** Launches whose results were computed again, and were the same. */
  get launches(): number {
    return this.#launches;
  }

  /** The last act, as it is now; null: there was none, or it failed. */
  get act(): Act | null {
    return this.#act;
  }

  /** What the last act asked for. */
  get commands(): readonly Command[] {
    return this.#act?.commands ?? [];
  }

  /** The NPU that an expert belongs on; null: nobody checks. */
  #homeOf(expert: Address): number | null {
    const executor = this.#deployment?.executors[executorOf(expert)];
    return executor === undefined ? null : npuOfExpert(expertOf(expert), executor.experts);
  }

  /** Replays one act; null: it is as it was. */
  feed(record: ActRecord, index: number): Divergence | null {
    const { to, message } = record;
    const cast = this.#castOf(record);
    const state = cast.stateOf(to);
    const differs = (difference: string, command: number | null = null, computed: Message | null = null): Divergence => ({
      record: index,
      actor: to,
      state,
      message,
      difference,
      command,
      commands: this.commands,
      state_after: this.#act?.after ? stateName(this.#act.after) : null,
      computed,
    });
    this.#act = null;
    const computed = this.#takeComputed(record);
    if (computed !== null) return differs('its kernels find something else now', null, computed);
    const home = message?.type === 'LOADED' ? this.#homeOf(to) : null;
    if (home !== null && message?.type === 'LOADED' && message.npu !== home) return differs(`it lies on npu/${home} now, and lay on npu/${message.npu}`);
    try {
      this.#life = lifeOf(record);
      if (ON_NPU.has(record.machine)) this.#begin(to);
      if (isOfTransfer(message) && this.#isLast(to)) this.#recompute?.heard(to, message);
      this.#deliver(cast, record);
    } catch (error) {
      return differs(`it fails now: ${error instanceof Error ? error.message : error}`);
    }
    // The witness is called for every delivery.
    const act = this.#act as Act | null;
    const divergence = act === null ? differs('nothing was delivered') : compare(record, act, this.#prompts, differs);
    if (divergence === null) this.#acts++;
    return divergence;
  }

  #castOf(place: Place): Cast {
    const life = lifeOf(place);
    let cast = this.#casts.get(life);
    if (cast === undefined) {
      cast = this.#newCast(isLaterLife(1 + Math.floor(place.number / ACTS_PER_LIFE)));
      this.#casts.set(life, cast);
    }
    return cast;
  }

  #newCast(isLater: boolean): Cast {
    return new Cast({
      birthOf,
      hands: new Map([...HANDS].map((role) => [role, () => {}])),
      send: () => {},
      startTimer: () => {},
      cancelTimer: () => {},
      cancelTimers: () => {},
      launch: (actor, work) => this.#launch(actor, work),
      transfer: (group, work) => this.#transfer(group, work),
      claim: () => {},
      onUnexpected: () => {},
      isLaterLife: () => isLater,
      witness: (act) => {
        this.#act = act;
      },
    });
  }

  #deliver(cast: Cast, { to, from, message, machine, input }: ActRecord): void {
    if (message !== null) cast.deliver({ to, from, message, cause: 0 });
    else cast.spawn(to, birthFromTrace(machine, input));
  }

  #begin(actor: Address): void {
    // What a launch of its earlier life found is not known: that thread was given up within it.
    const earlier = this.#lives.get(actor);
    if (earlier !== undefined) this.#computed.delete(launchOf(earlier, actor));
    this.#lives.set(actor, this.#life);
    if (roleOf(actor) === 'npu') this.#recompute?.begin(actor);
  }

  /** A thread that was given up may still act for a while; its NPU's memory is its successor's by then. */
  #isLast(actor: Address): boolean {
    return this.#lives.get(actor) === this.#life;
  }

  #launch(actor: Address, work: Work): void {
    if (!this.#isLast(actor)) return;
    // A step that failed then, or was lost with one that did, may be done now.
    if (work.kind === 'reset') this.#computed.delete(launchOf(this.#life, actor));
    for (const { npu, message } of this.#recompute?.launch(actor, work) ?? []) {
      const launch = launchOf(this.#lives.get(npu) ?? this.#life, npu);
      const computed = this.#computed.get(launch);
      if (computed === undefined) this.#computed.set(launch, [message]);
      else computed.push(message);
    }
  }

  #transfer(group: Address, work: Transfer): void {
    if (this.#isLast(group)) this.#recompute?.transfer(group, work);
  }

  /** Holds what the kernels found then against what they find now; null: it is the same, or was not computed. */
  #takeComputed(record: ActRecord): Message | null {
    const { to, from, message } = record;
    if (message === null || to !== from || message.type !== 'LAUNCH_DONE') return null;
    const computed = this.#computed.get(launchOf(lifeOf(record), to))?.shift();
    if (computed === undefined) return null;
    // How long it takes is not the same twice.
    const timed = computed.type === 'LAUNCH_DONE' ? { ...computed, us: message.us, draft_us: message.draft_us } : computed;
    if (Buffer.compare(encodeRecord(timed), encodeRecord(message)) !== 0) return computed;
    this.#launches++;
    return null;
  }
}

const launchOf = (life: string, npu: Address): string => `${life} ${npu}`;

function compare(record: ActRecord, act: Act, prompts: Prompts, differs: (difference: string, command?: number | null) => Divergence): Divergence | null {
  const born = act.birth?.machine.id ?? null;
  if (born !== record.machine) return differs(`${born ?? 'nobody'} comes to life now, and ${record.machine ?? 'nobody'} did`);
  const recorded = record.commands.length;
  const commands = act.commands.map((command) => commandChecksum(command, prompts));
  const other = commands.findIndex((checksum, at) => at < recorded && checksum !== record.commands[at]);
  if (other >= 0) return differs(`command ${other + 1} of ${recorded} is another`, other);
  if (commands.length !== recorded)
    return differs(`it asks for ${things(commands.length)} now, and asked for ${recorded}`, Math.min(commands.length, recorded));
  const after = act.after === null ? null : stateName(act.after);
  if (after !== record.state) return differs(`it is ${after ?? 'gone'} afterwards, and was ${record.state ?? 'gone'}`);
  if (act.isExpected !== record.is_expected) return differs(`the message is ${act.isExpected ? 'expected now, and was not' : 'not expected now, and was'}`);
  return null;
}

const things = (count: number): string => (count === 1 ? '1 thing' : `${count} things`);

function birthFromTrace(machine: string | null, input: unknown): Birth {
  const found = MACHINES.get(machine ?? '');
  if (found === undefined) throw new MinipodError('invalid_trace', `the trace speaks of a machine ${machine}; there are ${[...MACHINES.keys()].join(', ')}`);
  return { machine: found, input };
}
