/**
 * Replays a trace: gives each actor what it was given, and holds what it does against what it did. Nothing here waits, sends or tells time: the trace says it all.
 * @module
 */
import { dpGroup } from '../../actors/dp-group.ts';
import { expert } from '../../actors/expert.ts';
import { job } from '../../actors/job.ts';
import { jobExecutor } from '../../actors/job-executor.ts';
import { npu } from '../../actors/npu.ts';
import { request } from '../../actors/request.ts';
import { task } from '../../actors/task.ts';
import { taskExecutor } from '../../actors/task-executor.ts';
import { birthOf } from '../platform/births.ts';
import type { Address } from '../protocol/address.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Message, Work } from '../protocol/messages.ts';
import { type Act, type Birth, Cast, type Command } from '../runtime/cast.ts';
import { stateName } from '../runtime/machine-host.ts';
import { type ActRecord, commandChecksum, lifeOf } from './act-record.ts';
import { encodeRecord } from './trace-codec.ts';

const MACHINES = new Map([request, job, task, jobExecutor, taskExecutor, dpGroup, npu, expert].map((machine) => [machine.id, machine]));

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
  /** All that the actor asked for now. */
  readonly commands: readonly Command[];
};

/** Computes again what an NPU launched; null where nothing comes of it, or it depends on more than the NPU's own launches. */
export type Recompute = (npu: Address, work: Work) => Message | null;

export class Replay {
  /** By life of a thread: a successor brings actors of the same names to life, and whoever was given up may act on for a while. */
  readonly #casts = new Map<string, Cast>();
  readonly #recompute: Recompute | null;
  /** By NPU: what its launch computed now. */
  readonly #computed = new Map<Address, Message>();
  #act: Act | null = null;
  #acts = 0;

  constructor(recompute: Recompute | null = null) {
    this.#recompute = recompute;
  }

  #newCast(): Cast {
    return new Cast({
      birthOf,
      hands: new Map([['frontend', () => {}]]),
      send: () => {},
      startTimer: () => {},
      cancelTimer: () => {},
      cancelTimers: () => {},
      launch: (actor, work) => this.#launch(actor, work),
      onUnexpected: () => {},
      witness: (act) => {
        this.#act = act;
      },
    });
  }

  /** The actors among whom the act happened. */
  castOf(record: ActRecord): Pick<Cast, 'stateOf' | 'contextOf'> {
    return this.#castOf(record);
  }

  #castOf(record: ActRecord): Cast {
    const life = lifeOf(record);
    let cast = this.#casts.get(life);
    if (cast === undefined) {
      cast = this.#newCast();
      this.#casts.set(life, cast);
    }
    return cast;
  }

  /** Acts that were replayed. */
  get acts(): number {
    return this.#acts;
  }

  /** Replays one act; null: it is as it was. */
  feed(record: ActRecord, index: number): Divergence | null {
    const { to, message } = record;
    const state = this.#castOf(record).stateOf(to);
    const differs = (difference: string, command: number | null = null): Divergence => ({
      record: index,
      actor: to,
      state,
      message,
      difference,
      command,
      commands: this.#act?.commands ?? [],
    });
    this.#act = null;
    const recomputed = this.#compareComputed(record);
    if (recomputed !== null) return differs(recomputed);
    try {
      this.#deliver(record);
    } catch (error) {
      return differs(`it failed: ${error instanceof Error ? error.message : error}`);
    }
    this.#acts++;
    // The witness is called for every delivery.
    const act = this.#act as Act | null;
    if (act === null) return differs('nothing was delivered');
    const after = act.after === null ? null : stateName(act.after);
    const commands = act.commands.map(commandChecksum);
    const command = commands.findIndex((checksum, at) => checksum !== record.commands[at]);
    if (command >= 0 && command < record.commands.length) return differs(`command ${command + 1} of ${record.commands.length} is another`, command);
    if (commands.length !== record.commands.length)
      return differs(`it asks for ${commands.length} things, and asked for ${record.commands.length}`, Math.min(commands.length, record.commands.length));
    if (after !== record.state) return differs(`it is ${after ?? 'gone'} now, and was ${record.state ?? 'gone'}`);
    if (act.isExpected !== record.is_expected) return differs(`the message is ${act.isExpected ? 'expected now, and was not' : 'not expected now, and was'}`);
    return null;
  }

  #deliver(record: ActRecord): void {
    const { to, from, message, machine, input } = record;
    const cast = this.#castOf(record);
    if (message !== null) cast.deliver({ to, from, message, cause: 0 });
    else cast.spawn(to, birthFromTrace(machine, input));
  }

  #launch(actor: Address, work: Work): void {
    const result = this.#recompute?.(actor, work) ?? null;
    if (result !== null) this.#computed.set(actor, result);
  }

  /** Holds what the kernels found then against what they find now. */
  #compareComputed({ to, from, message }: ActRecord): string | null {
    if (message === null || to !== from || message.type !== 'LAUNCH_DONE') return null;
    const computed = this.#computed.get(to);
    if (computed === undefined) return null;
    this.#computed.delete(to);
    const isSame = Buffer.compare(encodeRecord(computed), encodeRecord(message)) === 0;
    return isSame ? null : `its kernels found ${JSON.stringify(computed)} now`;
  }
}

function birthFromTrace(machine: string | null, input: unknown): Birth {
  const found = MACHINES.get(machine ?? '');
  if (found === undefined) throw new MinipodError('invalid_trace', `the trace speaks of a machine ${machine}; there are ${[...MACHINES.keys()].join(', ')}`);
  return { machine: found, input };
}
