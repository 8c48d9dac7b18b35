/**
 * Weights that NPUs of the same rank have alike: all but those of experts that move. A DP group that stands by does without them: they are copied from a group that
 * serves before it takes part, and cleared when it has nothing left, a bounded number of bytes at a time beside whatever else its thread does. Where several come at
 * once, one group's ranks send them to all of those by broadcast, piece after piece (weight-broadcasts.ts).
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Region } from '../../fabric/memory-plan.ts';
import { weightsCopied } from '../../protocol/constructors.ts';
import { assert, type ErrorRecord, toErrorRecord } from '../../protocol/errors.ts';
import type { WeightBroadcast } from '../../protocol/expert-maps.ts';
import type { Message, Work } from '../../protocol/messages.ts';
import { NOTHING_FURNISHED, type WeightsFurnished } from '../../protocol/scaling.ts';
import type { Directory } from '../../runtime/directory.ts';
import { CHUNK_BYTES } from '../distflow/checksum.ts';
import type { DieLayout, StepLayout } from '../layouts/step-layout.ts';
import type { AnyPodPlan } from '../pod-plan.ts';
import { sumsOf } from './resting-weights.ts';
import type { WeightBroadcasts } from './weight-broadcasts.ts';

/** Neighbouring bytes of them; `layer`: whose they are, missing: of none. */
export type WeightPiece = { readonly address: number; readonly bytes: number; readonly layer?: number };

type Linear = { readonly address: number; readonly head_bytes: number; readonly heads: number };
type Vector = { readonly address: number; readonly length: number };

/** Of whatever is made of matrices and vectors, in its order; what lies in slots is left out. `layer`: whose it is, missing: no layer's. */
export function weightPieces(weights: unknown, layer?: number): WeightPiece[] {
  if (typeof weights !== 'object' || weights === null) return [];
  const pieceOf = (address: number, bytes: number): WeightPiece[] => [layer === undefined ? { address, bytes } : { address, bytes, layer }];
  if ('head_bytes' in weights) {
    const { address, head_bytes, heads } = weights as Linear;
    return pieceOf(address, head_bytes * heads);
  }
  if ('length' in weights && 'address' in weights) {
    const { address, length } = weights as Vector;
    return pieceOf(address, length * 4);
  }
  return Object.entries(weights).flatMap(([name, part]) => (name === 'slots' ? [] : weightPieces(part, layer)));
}

/** Last their sums: what has come is held against what was loaded once. */
const piecesWithSums = (layout: StepLayout): readonly WeightPiece[] => [...layout.replicated, sumsOf(layout)];

/** Bytes on their way, from nowhere: zeros. `end`: when they are there. */
type Job = { readonly npu: number; readonly to: number; readonly from: number | null; readonly bytes: number; done: number; readonly end: (() => void) | null };

/** More than any model has: pieces of one broadcast have numbers of their own, downwards from −1, and those of experts' are counted from 0 upwards. */
const PIECES_MAX = 4_096;

function pieceOf({ number, npus }: WeightBroadcast, index: number): WeightBroadcast {
  assert(index < PIECES_MAX, `weights of more than ${PIECES_MAX} pieces`);
  return { number: -1 - (number * PIECES_MAX + index), npus };
}

/** As of experts' weights on their way (expert-moves.ts). */
const BYTES_PER_TURN = 4 * CHUNK_BYTES;

export type StandbyWeightsOptions = {
  readonly plan: AnyPodPlan;
  readonly space: AddressSpace;
  readonly directory: Directory;
  /** Polled with experts' weights. */
  readonly broadcasts: WeightBroadcasts;
  /** Told when an NPU's are there: why they are not what was loaded once, or null. */
  readonly arrive: (npu: number) => ErrorRecord | null;
};
/** With what has come until then. */
type Tell = (copied: WeightsFurnished, error: ErrorRecord | null) => void;

export class StandbyWeights {
  readonly #options: StandbyWeightsOptions;
  /** NPUs that get them by broadcast. */
  readonly #receiving = new Set<number>();
  /** Of this host's NPUs, on the dies that they have. */
  readonly #layouts: ReadonlyMap<number, DieLayout>;
  #jobs: Job[] = [];

  constructor(options: StandbyWeightsOptions, layouts: readonly DieLayout[]) {
    this.#options = options;
    this.#layouts = new Map(layouts.map((layout) => [layout.npu, layout]));
  }

  perform(npu: number, work: Extract<Work, { kind: 'furnish' | 'send-weights' | 'clear' }>, tell: (message: Message) => void): void {
    if (work.kind === 'clear') this.clear(npu);
    else if (work.kind === 'send-weights') this.send(npu, work.broadcast);
    else this.furnish(npu, work.source, work.broadcast, (copied, error) => tell(weightsCopied(work.scaling, work.query, copied, error)));
  }

  /** What it sends already is of a change that is over: nobody waits for it. */
  send(npu: number, broadcast: WeightBroadcast): void {
    const { broadcasts } = this.#options;
    for (const { address } of this.#piecesOf(npu)) broadcasts.cancelAt(npu, address);
    for (const [index, { address, bytes }] of this.#piecesOf(npu).entries()) broadcasts.send(npu, pieceOf(broadcast, index), address, bytes);
  }

  /** As `source` has them, which serves. Asked again while they are on their way, it goes on. */
  furnish(npu: number, source: number, broadcast: WeightBroadcast | null, tell: Tell): void {
    if (this.#receiving.has(npu) || this.#jobs.some((job) => job.npu === npu && job.from !== null)) return;
    if (broadcast === null) this.#copy(npu, source, tell);
    else {
      // What was to be cleared is written over.
      this.#jobs = this.#jobs.filter((job) => job.npu !== npu);
      this.#receiving.add(npu);
      this.#forgetSums(npu);
      this.#receive(npu, broadcast, 0, 0, tell);
    }
  }

  /** The pieces from this one on; `broadcast_bytes`: of those before it. */
  #receive(npu: number, broadcast: WeightBroadcast, index: number, broadcast_bytes: number, tell: Tell): void {
    const piece = this.#piecesOf(npu)[index];
    const over = (error: ErrorRecord | null): void => {
      this.#receiving.delete(npu);
      tell({ ...NOTHING_FURNISHED, broadcast_bytes }, error);
    };
    if (piece === undefined) {
      over(this.#arrive(npu));
      return;
    }
    this.#options.broadcasts.receive(npu, pieceOf(broadcast, index), {
      to: piece.address,
      bytes: piece.bytes,
      end: () => this.#receive(npu, broadcast, index + 1, broadcast_bytes + piece.bytes, tell),
      fail: (error) => over(toErrorRecord(error)),
    });
  }

  #copy(npu: number, source: number, tell: Tell): void {
    const { plan, space, directory } = this.#options;
    const die = directory.dieOfNpu(source);
    const epoch = space.control.epochOfDie(die);
    const from = plan.layouts[source] as StepLayout;
    const sources = piecesWithSums(from);
    const moved = (plan.dies[die] as Region).base - from.base;
    const pieces = this.#piecesOf(npu);
    assert(pieces.length === sources.length, `npu/${npu} has other weights than npu/${source}`);
    const end = (): void => {
      const isWhole = space.control.epochOfDie(die) === epoch;
      const copied = { ...NOTHING_FURNISHED, pulled_bytes: pieces.reduce((sum, { bytes }) => sum + bytes, 0) };
      const lost: ErrorRecord = { code: 'worker_lost', message: `npu/${source} was lost while its weights were copied to npu/${npu}`, param: null };
      tell(copied, isWhole ? this.#arrive(npu) : lost);
    };
    this.#forgetSums(npu);
    for (const [index, { address: to, bytes }] of pieces.entries()) {
      const from = (sources[index] as WeightPiece).address + moved;
      this.#jobs.push({ npu, to, from, bytes, done: 0, end: index === pieces.length - 1 ? end : null });
    }
  }

  /** What is being copied there is not any more. */
  clear(npu: number): void {
    this.#jobs = this.#jobs.filter((job) => job.npu !== npu);
    this.#receiving.delete(npu);
    this.#forgetSums(npu);
    for (const { address } of this.#piecesOf(npu)) this.#options.broadcasts.cancelAt(npu, address);
    for (const { address: to, bytes } of this.#piecesOf(npu)) this.#jobs.push({ npu, to, from: null, bytes, done: 0, end: null });
  }

  /** Goes on, a bounded number of bytes. True if there was something to do. */
  poll(): boolean {
    if (this.#jobs.length === 0) return false;
    for (let left = BYTES_PER_TURN; left > 0; ) {
      const [job] = this.#jobs;
      if (job === undefined) break;
      const bytes = Math.min(left, job.bytes - job.done);
      if (job.from === null) this.#options.space.bytesAt(job.to + job.done, bytes).fill(0);
      else this.#options.space.copy(job.to + job.done, job.from + job.done, bytes);
      job.done += bytes;
      left -= bytes;
      if (job.done < job.bytes) break;
      this.#jobs.shift();
      job.end?.();
    }
    return true;
  }

  /** What is no good is nobody's weights: whoever sent it finds out for himself. */
  #arrive(npu: number): ErrorRecord | null {
    const error = this.#options.arrive(npu);
    if (error !== null) this.#forgetSums(npu);
    return error;
  }

  #piecesOf(npu: number): readonly WeightPiece[] {
    return piecesWithSums(this.#layoutOf(npu));
  }

  /** Until they have come behind what they are of. */
  #forgetSums(npu: number): void {
    const { address, bytes } = sumsOf(this.#layoutOf(npu));
    this.#options.space.bytesAt(address, bytes).fill(0);
  }

  #layoutOf(npu: number): StepLayout {
    const layout = this.#layouts.get(npu) as StepLayout | undefined;
    assert(layout?.kind === 'attention', `npu/${npu} runs no steps here`);
    return layout;
  }
}
