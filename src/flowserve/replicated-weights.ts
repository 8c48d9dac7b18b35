/**
 * Weights that NPUs of the same rank have alike: all but those of experts that move. A DP group that stands by does without them: they are copied from a group that
 * serves before it takes part, and cleared when it has nothing left, a bounded number of bytes at a time beside whatever else its thread does.
 * @module
 */
import type { AddressSpace } from '../fabric/address-space.ts';
import type { Region } from '../fabric/memory-plan.ts';
import { weightsCopied } from '../protocol/constructors.ts';
import { assert, type ErrorRecord } from '../protocol/errors.ts';
import type { Message, Work } from '../protocol/messages.ts';
import type { Directory } from '../runtime/directory.ts';
import { CHUNK_BYTES } from './distflow/checksum.ts';
import type { AnyPodPlan } from './pod-plan.ts';
import type { DieLayout, StepLayout } from './step-layout.ts';

/** Neighbouring bytes of them. */
export type WeightPiece = { readonly address: number; readonly bytes: number };

type Linear = { readonly address: number; readonly head_bytes: number; readonly heads: number };
type Vector = { readonly address: number; readonly length: number };

/** Of whatever is made of matrices and vectors, in its order; what lies in slots is left out. */
export function weightPieces(weights: unknown): WeightPiece[] {
  if (typeof weights !== 'object' || weights === null) return [];
  if ('head_bytes' in weights) {
    const { address, head_bytes, heads } = weights as Linear;
    return [{ address, bytes: head_bytes * heads }];
  }
  if ('length' in weights && 'address' in weights) {
    const { address, length } = weights as Vector;
    return [{ address, bytes: length * 4 }];
  }
  return Object.entries(weights).flatMap(([name, part]) => (name === 'slots' ? [] : weightPieces(part)));
}

/** Bytes on their way, from nowhere: zeros. `end`: when they are there. */
type Job = { readonly npu: number; readonly to: number; readonly from: number | null; readonly bytes: number; done: number; readonly end: (() => void) | null };

/** As of experts' weights on their way (expert-moves.ts). */
const BYTES_PER_TURN = 4 * CHUNK_BYTES;

export class StandbyWeights {
  readonly #plan: AnyPodPlan;
  readonly #space: AddressSpace;
  readonly #directory: Directory;
  /** Of this host's NPUs, on the dies that they have. */
  readonly #layouts: ReadonlyMap<number, DieLayout>;
  #jobs: Job[] = [];

  constructor(plan: AnyPodPlan, space: AddressSpace, directory: Directory, layouts: readonly DieLayout[]) {
    this.#plan = plan;
    this.#space = space;
    this.#directory = directory;
    this.#layouts = new Map(layouts.map((layout) => [layout.npu, layout]));
  }

  perform(npu: number, work: Extract<Work, { kind: 'furnish' | 'clear' }>, tell: (message: Message) => void): void {
    if (work.kind === 'clear') this.clear(npu);
    else this.furnish(npu, work.source, (error) => tell(weightsCopied(work.scaling, work.query, error)));
  }

  /** Copies those of `source`, which serves. Asked again while it copies, it goes on. */
  furnish(npu: number, source: number, tell: (error: ErrorRecord | null) => void): void {
    if (this.#jobs.some((job) => job.npu === npu && job.from !== null)) return;
    const die = this.#directory.dieOfNpu(source);
    const epoch = this.#space.control.epochOfDie(die);
    const { base, replicated } = this.#plan.layouts[source] as StepLayout;
    const moved = (this.#plan.dies[die] as Region).base - base;
    const end = (): void => {
      const isWhole = this.#space.control.epochOfDie(die) === epoch;
      tell(isWhole ? null : { code: 'worker_lost', message: `npu/${source} was lost while its weights were copied to npu/${npu}`, param: null });
    };
    const pieces = this.#piecesOf(npu);
    assert(pieces.length === replicated.length, `npu/${npu} has other weights than npu/${source}`);
    for (const [index, { address: to, bytes }] of pieces.entries()) {
      const from = (replicated[index] as WeightPiece).address + moved;
      this.#jobs.push({ npu, to, from, bytes, done: 0, end: index === pieces.length - 1 ? end : null });
    }
  }

  /** What is being copied there is not any more. */
  clear(npu: number): void {
    this.#jobs = this.#jobs.filter((job) => job.npu !== npu);
    for (const { address: to, bytes } of this.#piecesOf(npu)) this.#jobs.push({ npu, to, from: null, bytes, done: 0, end: null });
  }

  /** Goes on, a bounded number of bytes. True if there was something to do. */
  poll(): boolean {
    if (this.#jobs.length === 0) return false;
    for (let left = BYTES_PER_TURN; left > 0; ) {
      const [job] = this.#jobs;
      if (job === undefined) break;
      const bytes = Math.min(left, job.bytes - job.done);
      if (job.from === null) this.#space.bytesAt(job.to + job.done, bytes).fill(0);
      else this.#space.copy(job.to + job.done, job.from + job.done, bytes);
      job.done += bytes;
      left -= bytes;
      if (job.done < job.bytes) break;
      this.#jobs.shift();
      job.end?.();
    }
    return true;
  }

  #piecesOf(npu: number): readonly WeightPiece[] {
    const layout = this.#layouts.get(npu) as StepLayout | undefined;
    assert(layout?.kind === 'attention', `npu/${npu} runs no steps here`);
    return layout.replicated;
  }
}
