/**
 * What a pod's actors do, in the protocol that Stately's inspector speaks: what `createActor(machine, { inspect })` would tell of each, had XState hosted it.
 *
 *   it comes to life:   @xstate.actor, with its machine's definition ─▶ @xstate.event ─▶ @xstate.snapshot
 *   it is sent to:      @xstate.event ─▶ @xstate.snapshot
 *
 * A session is an address: an actor that is brought to life anew, after its thread was lost, registers under its name again. An actor's parent is whoever
 * sent the message that brought it to life: a task's is its job, a job's its request; those that the host brings to life are roots.
 * @module
 */
import { type Address, type Role, roleOf } from '../protocol/address.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Act, Birth } from '../runtime/cast.ts';
import type { Snapshot } from '../runtime/xstate/machine-host.ts';
import { HANDS } from './hands.ts';

/** Of @statelyai/inspect, whose events these are. */
const PROTOCOL_VERSION = '0.7.2';

type Session = {
  readonly _version: string;
  /** The actor's address. */
  readonly sessionId: string;
  /** The topmost of its parents, or itself. */
  readonly rootId: string;
  /** Milliseconds: of the machine's epoch, live; since the pod's start on a virtual clock and in a trace. */
  readonly createdAt: string;
  readonly id: string;
};

/** A message as it was delivered; `xstate.init` with the input where the host brought the actor to life. */
export type InspectedMessage = { readonly type: string; readonly [field: string]: unknown };

/** Plain data, as XState writes a snapshot into JSON. */
export type InspectedSnapshot = {
  readonly status: 'active' | 'done';
  readonly output: undefined;
  readonly error: undefined;
  readonly value?: unknown;
  readonly context?: unknown;
};

/** An event of the Stately inspection protocol: what an inspector's `adapter.send` takes. */
export type InspectionEvent =
  | (Session & {
      readonly type: '@xstate.actor';
      readonly name: string;
      readonly parentId: string | undefined;
      /** Its machine's configuration as JSON, from which it is drawn. */
      readonly definition: string;
      readonly snapshot: InspectedSnapshot;
    })
  | (Session & { readonly type: '@xstate.event'; readonly sourceId: string | undefined; readonly event: InspectedMessage })
  | (Session & { readonly type: '@xstate.snapshot'; readonly event: InspectedMessage; readonly snapshot: InspectedSnapshot });

export type Inspect = (event: InspectionEvent) => void;

const NOT_ENDED = { output: undefined, error: undefined } as const;
const US_PER_MS = 1_000;
/** They send to actors, or are sent to, and are none. */
const OUTSIDE: ReadonlySet<Role> = new Set([...HANDS, 'caller']);

/** What an event says of its act. */
type Moment = { readonly name: string; readonly createdAt: string };

export class InspectionEvents {
  readonly #tell: Inspect;
  readonly #origin_ms: number;
  /** Of all that are alive: the topmost parent. */
  readonly #roots = new Map<Address, Address>();

  /** `origin_ms`: what is added to the acts' times. */
  constructor(tell: Inspect, origin_ms = 0) {
    this.#tell = tell;
    this.#origin_ms = origin_ms;
  }

  /** `name`: of the act, unlike that of any other. */
  tell({ to, from, birth, message, after }: Act, name: string, time_us: number): void {
    const moment: Moment = { name, createdAt: String(Math.floor(this.#origin_ms + time_us / US_PER_MS)) };
    this.#meetOutsider(from, moment);
    this.#meetOutsider(to, moment);
    const sourceId = from === to ? undefined : from;
    const snapshot = after === null ? null : plain(after);
    if (birth !== null && snapshot !== null) this.#register(to, sourceId, definitionOf(birth), snapshot, moment);
    const event: InspectedMessage = structuredClone(message ?? { type: 'xstate.init', input: birth?.input });
    this.#tell({ type: '@xstate.event', ...this.#session(to, 'event', moment), sourceId, event });
    if (snapshot === null) return;
    this.#tell({ type: '@xstate.snapshot', ...this.#session(to, 'snapshot', moment), event, snapshot });
    if (snapshot.status === 'done') this.#roots.delete(to);
  }

  /** Who is no machine comes to life when it is first heard of, and has one state. */
  #meetOutsider(address: Address, moment: Moment): void {
    if (!OUTSIDE.has(roleOf(address)) || this.#roots.has(address)) return;
    this.#register(address, undefined, JSON.stringify({ id: address }), { status: 'active', ...NOT_ENDED }, moment);
  }

  #register(address: Address, parentId: Address | undefined, definition: string, snapshot: InspectedSnapshot, moment: Moment): void {
    this.#roots.set(address, parentId === undefined ? address : this.#rootOf(parentId));
    this.#tell({ type: '@xstate.actor', ...this.#session(address, 'actor', moment), name: address, parentId, definition, snapshot });
  }

  #session(address: Address, what: string, { name, createdAt }: Moment): Session {
    return { _version: PROTOCOL_VERSION, sessionId: address, rootId: this.#rootOf(address), createdAt, id: `${name} ${address} ${what}` };
  }

  #rootOf(address: Address): Address {
    return this.#roots.get(address) ?? address;
  }
}

/** The run goes on; whoever looks on must hear that there is nothing more to see. */
export const endInspection = (error: unknown): void =>
  process.emitWarning(`nothing more of the pod is inspected: ${error instanceof Error ? error.message : error}`, { type: 'InspectionEnded' });

/** What a caller gave as `inspect`, which may answer with a promise: one that is rejected ends the inspection, as a throw does. @throws `invalid_request` */
export function asInspect(inspect: unknown): Inspect {
  if (typeof inspect !== 'function')
    throw new MinipodError('invalid_request', `createPod: inspect: is a ${typeof inspect}; it must be a function that takes an event`, { param: 'inspect' });
  let hasEnded = false;
  return (event) => {
    if (hasEnded) return;
    const answer: unknown = inspect(event);
    if (!(answer instanceof Promise)) return;
    answer.catch((error: unknown) => {
      if (!hasEnded) endInspection(error);
      hasEnded = true;
    });
  };
}

/** Detached from the actor, whose stores go on changing. */
const plain = (snapshot: Snapshot): InspectedSnapshot => ({ ...(JSON.parse(JSON.stringify(snapshot)) as InspectedSnapshot), ...NOT_ENDED });

const definitions = new WeakMap<Birth['machine'], string>();

function definitionOf({ machine }: Birth): string {
  const known = definitions.get(machine);
  if (known !== undefined) return known;
  // As Stately writes functions: an inspector shows their names.
  const definition = JSON.stringify(machine.config, (_key, value: unknown) => (typeof value === 'function' ? { type: value.name } : value));
  definitions.set(machine, definition);
  return definition;
}
