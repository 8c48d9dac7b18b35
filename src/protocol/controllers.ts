/**
 * How the control plane keeps together: who is in it, who leads, and what its members claim of shared memory.
 * @module
 */
import type { Address } from './address.ts';
import type { ErrorRecord } from './errors.ts';
import type { HeartbeatMessage, PingMessage, RequestsComeMessage } from './heartbeats.ts';
import type { Sequence } from './messages.ts';

/** A member of the pod's control plane, in the life that its thread's epoch counts, from 1: its name may have had, and may yet have, others. */
export type MemberLife = { readonly member: Address; readonly life: number };

export type ClusterManagerMessage =
  /** Another cluster manager has come to life: it is told of all members. */
  | { readonly type: 'JOIN'; readonly member: Address; readonly life: number }
  | { readonly type: 'MEMBERS'; readonly serving: readonly MemberLife[]; readonly lost: readonly MemberLife[] }
  | { readonly type: 'MEMBER_READY'; readonly member: Address; readonly life: number }
  | { readonly type: 'MEMBER_LOST'; readonly member: Address; readonly life: number }
  /** Its requests are another's now. */
  | { readonly type: 'TAKEN_OVER'; readonly lost: Address; readonly life: number }
  | { readonly type: 'LEASE_DUE' }
  | HeartbeatMessage
  | PingMessage
  | RequestsComeMessage
  /** Of `claim`: it leads, or goes on leading; another does; it did until now. */
  | { readonly type: 'LEASE_TAKEN'; readonly term: number }
  | { readonly type: 'LEASE_REFUSED'; readonly holder: Address; readonly term: number }
  | { readonly type: 'LEASE_LOST'; readonly holder: Address; readonly term: number };

export type JobExecutorMessage =
  | { readonly type: 'EXECUTOR_READY'; readonly task_executor: Address }
  /** None of its groups serves now. */
  | { readonly type: 'EXECUTOR_UNREADY'; readonly task_executor: Address }
  /** Nor is any of them to for now: who would wait for that fails with this. */
  | { readonly type: 'EXECUTOR_GONE'; readonly task_executor: Address; readonly error: ErrorRecord }
  | { readonly type: 'ADMIT'; readonly request: Address; readonly choices: number; readonly data_parallel_rank: number }
  /** A choice of the request has left `from`'s prefill: which task executor decodes it? */
  | { readonly type: 'CHOOSE_DECODE'; readonly job: Address; readonly request: Address; readonly task: Address; readonly from: Address }
  | { readonly type: 'LEAVE'; readonly request: Address; readonly choices: number }
  /** Another period of admission's measure of throughput is over. */
  | { readonly type: 'MEASURE_THROUGHPUT' }
  /** What computed the request, or a part of it, is lost. */
  | { readonly type: 'REPLACE'; readonly request: Address }
  /** A request that had ended, and of which tokens were lost before its caller had them: its record names this job executor by now. */
  | { readonly type: 'GO_ON'; readonly request: Address }
  /** Of `claim`: what its record says. As RECORD_TAKEN. */
  | {
      readonly type: 'RECORD_REOPENED';
      readonly request: Address;
      readonly sequences: readonly Sequence[];
      readonly deadline_ms: number;
      readonly error: ErrorRecord | null;
    }
  /** Of `claim`: what its record says. */
  | { readonly type: 'RECORD_READ'; readonly request: Address; readonly sequences: readonly Sequence[]; readonly error: ErrorRecord | null }
  /** Of `claim`: the pod has room for its choices, or holds so many of them already. */
  | { readonly type: 'CHOICES_GRANTED'; readonly request: Address; readonly choices: number; readonly data_parallel_rank: number }
  | { readonly type: 'CHOICES_REFUSED'; readonly request: Address; readonly choices: number; readonly held: number }
  /** By the cluster manager that leads: take over what a job executor supervised, that is lost. */
  | { readonly type: 'TAKE_OVER'; readonly lost: Address; readonly life: number }
  /** Of `claim`: one of its requests, by its new address, with the choices that are not finished; `error`: why it cannot go on. */
  | {
      readonly type: 'RECORD_TAKEN';
      readonly request: Address;
      readonly sequences: readonly Sequence[];
      /** What is left of it, as in SUBMIT. */
      readonly deadline_ms: number;
      readonly error: ErrorRecord | null;
    }
  /** That was the last. */
  | { readonly type: 'RECORDS_TAKEN'; readonly lost: Address; readonly life: number }
  | PingMessage
  | { readonly type: 'DRAIN' };

/** Something in shared memory that all threads compete for: what became of it comes back as a delivered message. */
export type Claim =
  /** What time it is. */
  | { readonly kind: 'time' }
  /** What the progress words say of where these live. */
  | { readonly kind: 'progress'; readonly members: readonly Address[] }
  /** Room for more choices in the pod. */
  | { readonly kind: 'choices'; readonly request: Address; readonly choices: number; readonly data_parallel_rank: number; readonly choices_max: number }
  | { readonly kind: 'release-choices'; readonly choices: number }
  /** To lead, or (a term above 0) to go on leading. */
  | { readonly kind: 'lease'; readonly term: number; readonly length_ms: number }
  /** What the record of the claimant's own request says. */
  | { readonly kind: 'record'; readonly request: Address }
  /** The same of one that had ended, and goes on: its choices count again. */
  | { readonly kind: 'reopened-record'; readonly request: Address }
  /** The open requests of a job executor that is lost. */
  | { readonly kind: 'records'; readonly lost: Address; readonly life: number };
