/**
 * Performs on shared memory what controllers claim there, at once, and answers each with a message that carries all they decide on.
 * @module
 */
import { Admission } from '../../fabric/admission.ts';
import type { ControlPage } from '../../fabric/control-page.ts';
import { type Holding, LeaderLease } from '../../fabric/leader-lease.ts';
import { type Address, address, idOf } from '../../protocol/address.ts';
import {
  choicesGranted,
  choicesRefused,
  leaseLost,
  leaseRefused,
  leaseTaken,
  recordRead,
  recordReopened,
  recordsTaken,
  recordTaken,
} from '../../protocol/constructors.ts';
import type { Claim } from '../../protocol/controllers.ts';
import { timeTold } from '../../protocol/expert-maps.ts';
import { progress } from '../../protocol/heartbeats.ts';
import type { Message } from '../../protocol/messages.ts';
import { CONTROL_THREAD, type Directory } from '../../runtime/directory.ts';
import { type Progress, ThreadProgress } from '../thread-progress.ts';
import type { RecordTable } from './record-table.ts';
import { notKept, RecordTaking } from './record-taking.ts';

export type ClaimsPorts = {
  readonly control: ControlPage;
  readonly records: RecordTable;
  readonly directory: Directory;
  readonly now_ms: () => number;
  /** Of this thread: that of its worker, or the control thread's. Missing: all of them live here, and are asked for when they claim. */
  readonly life?: number;
  /** How many messages one who lives on the control thread has taken, for who claims there. That a thread without kernels turns its loop, as all others see, says nothing of one actor. */
  readonly heardBy?: (member: Address) => number;
  /** Missing: its thread's. */
  readonly progressOf?: (member: Address) => Progress;
};

export class Claims {
  readonly #ports: ClaimsPorts;
  readonly #admission: Admission;
  readonly #lease: LeaderLease;
  readonly #records: RecordTaking;
  readonly #threads: ThreadProgress;

  constructor(ports: ClaimsPorts) {
    this.#ports = ports;
    this.#threads = new ThreadProgress(ports);
    this.#admission = new Admission(ports.control);
    this.#lease = new LeaderLease(ports.control);
    this.#records = new RecordTaking(ports.records);
  }

  /** What the claimant is told, in order. */
  perform(actor: Address, claim: Claim): readonly Message[] {
    switch (claim.kind) {
      case 'time':
        return [timeTold(Math.floor(this.#ports.now_ms()))];
      case 'progress':
        return [this.#readProgress(actor, claim.members)];
      case 'choices': {
        const { request, choices, data_parallel_rank, choices_max } = claim;
        const isTaken = this.#admission.take(idOf(actor), choices, choices_max);
        return [isTaken ? choicesGranted(request, choices, data_parallel_rank) : choicesRefused(request, choices, this.#admission.held)];
      }
      case 'release-choices':
        this.#admission.release(idOf(actor), claim.choices);
        return [];
      case 'lease':
        return [this.#takeLease(actor, claim)];
      case 'record': {
        const { sequences, error } = this.#records.read(idOf(claim.request)) ?? { sequences: [], error: notKept('DP group') };
        return [recordRead(claim.request, sequences, error)];
      }
      case 'reopened-record': {
        const read = this.#records.read(idOf(claim.request)) ?? { sequences: [], deadline_at_ms: -1, error: notKept('worker') };
        this.#admission.takeOver(idOf(actor), read.sequences.length);
        return [recordReopened(claim.request, read.sequences, this.#left_ms(read.deadline_at_ms), read.error)];
      }
      case 'records':
        return this.#takeRecords(actor, claim);
    }
  }

  #takeLease(actor: Address, { term, length_ms }: Extract<Claim, { kind: 'lease' }>): Message {
    const life = this.#lifeOf(actor);
    const isOver = (holding: Holding): boolean => this.#lifeNow(address('cluster-manager', holding.holder)) % 256 !== holding.life;
    const held = this.#lease.take(idOf(actor), life, this.#ports.now_ms(), length_ms, isOver);
    const holder = address('cluster-manager', held.holder);
    if (holder === actor && (term === 0 || held.term === term)) return leaseTaken(held.term);
    return term === 0 ? leaseRefused(holder, held.term) : leaseLost(holder, held.term);
  }

  /** A request that is not to go on holds nothing of the pod any more. */
  #takeRecords(actor: Address, { lost, life }: Extract<Claim, { kind: 'records' }>): readonly Message[] {
    const taken = this.#records.take(idOf(lost), life, { job_executor: idOf(actor), life: this.#lifeOf(actor) });
    const choices = taken.reduce((sum, { sequences }) => sum + sequences.length, 0);
    this.#admission.takeOver(idOf(actor), choices);
    return [
      ...taken.map(({ request, sequences, deadline_at_ms, error }) =>
        recordTaken(address('request', request), sequences, this.#left_ms(deadline_at_ms), error),
      ),
      recordsTaken(lost, life),
    ];
  }

  #readProgress(actor: Address, members: readonly Address[]): Message {
    const now_ms = this.#ports.now_ms();
    const { directory, heardBy } = this.#ports;
    const ofThread = (member: Address): Progress => {
      const thread = directory.threadOf(member);
      const progress = this.#threads.of(actor, thread, now_ms);
      return thread === CONTROL_THREAD && heardBy !== undefined ? { ...progress, word: heardBy(member) } : progress;
    };
    const { progressOf = ofThread } = this.#ports;
    const read = members.map(progressOf);
    return progress(
      members,
      read.map(({ word }) => word),
      read.map(({ share }) => share),
      members.map((member) => this.#ports.control.lifeOf(directory.workerOf(member))),
      Math.floor(now_ms),
    );
  }

  #left_ms(deadline_at_ms: number): number {
    return deadline_at_ms < 0 ? deadline_at_ms : Math.max(0, deadline_at_ms - Math.floor(this.#ports.now_ms()));
  }

  #lifeNow(actor: Address): number {
    return this.#ports.control.lifeOf(this.#ports.directory.hostOf(actor));
  }

  #lifeOf(claimant: Address): number {
    return this.#ports.life ?? this.#lifeNow(claimant);
  }
}
