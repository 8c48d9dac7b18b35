/** What the keeper of worker threads needs of the pod. @module */
import type { PodPlan } from '../flowserve/pod-plan.ts';
import type { Address } from '../protocol/address.ts';
import type { ErrorRecord, MinipodError } from '../protocol/errors.ts';
import type { RoleSwitchMessage } from '../protocol/role-switch.ts';
import type { Clock, Timers } from '../runtime/clock.ts';
import type { Directory, Seat } from '../runtime/directory.ts';
import type { MessagePort } from '../runtime/message-port.ts';
import type { NetworkCardKeeper } from './network-card.ts';
import type { Recordings } from './recording.ts';

export type WorkersPorts = {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly port: MessagePort;
  /** For a life that begins: to whom its acts are shown. */
  readonly recordings: Pick<Recordings, 'newActRings' | 'newRoutingRing'>;
  readonly directory: Directory;
  readonly network: Pick<NetworkCardKeeper, 'linesOf' | 'release'>;
  /** Of the checkpoint. */
  readonly folder: string;
  /** What a worker thread runs. */
  readonly entry: URL;
  readonly onLost: (worker: number, error: ErrorRecord) => void;
  /** It stays lost for now. */
  readonly onGone: (worker: number, reason: string) => void;
  /** Loads what the worker's NPUs need onto the dies of a seat, and says where it lies. */
  readonly furnish: (worker: number, seat: Seat) => PodPlan['layouts'];
  readonly tell: (to: Address, message: RoleSwitchMessage) => void;
  /** The pod cannot go on. */
  readonly onGivenUp: (error: MinipodError) => void;
};
