/**
 * How the control plane keeps together: who is in it, who leads, and what its members claim of shared memory.
 * @module
 */
import type { Address } from './address.ts';

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
  /** Of `claim`: it leads, or goes on leading; another does; it did until now. */
  | { readonly type: 'LEASE_TAKEN'; readonly term: number }
  | { readonly type: 'LEASE_REFUSED'; readonly holder: Address; readonly term: number }
  | { readonly type: 'LEASE_LOST'; readonly holder: Address; readonly term: number };

/** Something in shared memory that all threads compete for: what became of it comes back as a delivered message. */
export type Claim =
  /** What time it is. */
  | { readonly kind: 'time' }
  /** Room for more choices in the pod. */
  | { readonly kind: 'choices'; readonly request: Address; readonly choices: number; readonly data_parallel_rank: number; readonly choices_max: number }
  | { readonly kind: 'release-choices'; readonly choices: number }
  /** To lead, or (a term above 0) to go on leading. */
  | { readonly kind: 'lease'; readonly term: number; readonly length_ms: number }
  /** What the record of the claimant's own request says. */
  | { readonly kind: 'record'; readonly request: Address }
  /** The open requests of a job executor that is lost. */
  | { readonly kind: 'records'; readonly lost: Address; readonly life: number };
