/**
 * Sums of weights where they rest: taken when they are loaded, and looked at again while the pod serves, so that a bit that has flipped is found, and named.
 *
 *   scrub       all of an NPU's weights once in a period, a bounded number of bytes a turn: what is computed between a flip and its being found came of it
 *   each-step   all that a step has used, before anybody hears of what came of it: nothing that anybody is told came of a flip
 *
 * An expert's weights have their sum in the table of slots, where it moves with them; all others' lie beside them:
 *
 *   sums   u32 [pieces][2]   sum │ 1: it was taken, 0: nothing is known of what lies there
 *
 * What is found has lain there for a while, and KV and answers may have come of it: so nobody mends it in place. Whoever finds it ends, and its successor begins with
 * weights that were loaded anew (platform/workers.ts).
 * @module
 */
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Arena } from '../../fabric/arena.ts';
import { UnsoundMemory } from '../../protocol/errors.ts';
import { CHUNK_BYTES, type Checksum } from '../distflow/checksum.ts';
import { expertIn, placeOfSlot, sumOfSlot } from '../experts/expert-slots.ts';
import type { ExpertLayout, StepLayout } from '../layouts/step-layout.ts';
import type { WeightPiece } from './replicated-weights.ts';
import { sumOfWeights } from './slot-weights.ts';

export type RestingLayout = StepLayout | ExpertLayout;
type Sums = Pick<Checksum, 'sum' | 'rest'>;

const SUM_WORDS = 2;

const sumBytes = (pieces: number): number => pieces * SUM_WORDS * 4;
export const layoutWeightSums = (pieces: number, arena: Arena): number => arena.allocate(sumBytes(pieces));

/** Where the sums of its pieces lie. They go with the weights where those are copied; zeros: nothing is known of what lies there. */
export const sumsOf = (layout: RestingLayout): WeightPiece => ({ address: layout.weightSums, bytes: sumBytes(piecesOf(layout).length) });

/** All weights of an NPU but its slots': in the order of their sums. */
export const piecesOf = (layout: RestingLayout): readonly WeightPiece[] => (layout.kind === 'attention' ? layout.replicated : layout.shared);

/** Of an NPU that runs steps: what is in no slot has been loaded there, or copied. */
export const holdsPieces = (layout: RestingLayout, space: AddressSpace): boolean => space.wordsOf(layout.base)[offsetOf(layout.weightSums) / 4 + 1] === 1;

/** Weights that do not hold what was loaded there. */
export class WeightDamage extends UnsoundMemory {
  constructor(npu: number, what: string) {
    super(`weights of NPU ${npu} do not hold what was loaded there: ${what}`);
  }
}

/** A slot, or a piece of what is in none; `layer` −1: of no layer. */
type Part =
  | { readonly kind: 'slot'; readonly layer: number; readonly slot: number }
  | { readonly kind: 'piece'; readonly layer: number; readonly index: number };

export class RestingWeights {
  readonly npu: number;
  readonly #layout: RestingLayout;
  readonly #words: Int32Array;
  readonly #checksum: Sums;
  readonly #parts: readonly Part[];
  /** Of the part that is being looked at: which, how far, its sum so far, and what the table said of it then. */
  #at = 0;
  #done = 0;
  #sum = 0;
  #held = '';

  constructor(layout: RestingLayout, space: AddressSpace, checksum: Sums) {
    this.npu = layout.npu;
    this.#layout = layout;
    this.#words = space.wordsOf(layout.base);
    this.#checksum = checksum;
    const { weights, each } = layout.expertSlots;
    const slots = weights.flatMap((of, layer) => (of === null ? [] : Array.from({ length: each }, (_, slot): Part => ({ kind: 'slot', layer, slot }))));
    this.#parts = [...piecesOf(layout).map(({ layer = -1 }, index): Part => ({ kind: 'piece', layer, index })), ...slots];
  }

  /** That there are at most. */
  get bytes(): number {
    return this.#parts.reduce((sum, part) => sum + this.#placeOf(part).bytes, 0);
  }

  /** Of the pieces as they lie there now: they have just been loaded. */
  take(): void {
    for (const part of this.#parts) {
      if (part.kind !== 'piece') continue;
      this.#words[this.#sumAt(part.index)] = this.#sumOf(part);
      this.#words[this.#sumAt(part.index) + 1] = 1;
    }
  }

  /** All has been looked at, or nothing. */
  get isAtBegin(): boolean {
    return this.#at === 0 && this.#done === 0;
  }

  /** Looks on, at about so many bytes at most, to the end. How many there were. @throws `WeightDamage` */
  scrub(bytes_max: number): number {
    let looked = 0;
    while (looked < bytes_max && this.#at < this.#parts.length) {
      const part = this.#parts[this.#at] as Part;
      const held = this.#heldIn(part);
      // It holds something else than when this began.
      if (this.#done > 0 && held !== this.#held) this.#begin(this.#at);
      const { bytes } = this.#placeOf(part);
      if (held !== '') {
        this.#held = held;
        looked += this.#sumOn(part, bytes_max - looked);
        if (this.#done < bytes) break;
        this.#judge(part, this.#sum);
      }
      this.#begin(this.#at + 1);
    }
    if (this.#at === this.#parts.length) this.#begin(0);
    return looked;
  }

  /** All. @throws `WeightDamage` */
  check(): void {
    for (const part of this.#parts) this.#look(part);
  }

  /** An expert's; the slot after the last is the shared expert. @throws `WeightDamage` */
  checkSlot(layer: number, slot: number): void {
    if (slot < this.#layout.expertSlots.each) this.#look({ kind: 'slot', layer, slot });
    else for (const part of this.#parts) if (part.kind === 'piece' && (part.layer === layer || part.layer < 0)) this.#look(part);
  }

  /** What is in no slot. @throws `WeightDamage` */
  checkPieces(): void {
    for (const part of this.#parts) if (part.kind === 'piece') this.#look(part);
  }

  #begin(at: number): void {
    this.#at = at;
    this.#done = 0;
    this.#sum = 0;
  }

  #look(part: Part): void {
    if (this.#heldIn(part) !== '') this.#judge(part, this.#sumOf(part));
  }

  #judge(part: Part, sum: number): void {
    if (sum === this.#expectedOf(part)) return;
    const { address, bytes } = this.#placeOf(part);
    const where = `${bytes} bytes at ${address - this.#layout.base} of its HBM`;
    if (part.kind === 'slot') {
      const expert = expertIn(this.#words, this.#layout.expertSlots, part.layer, part.slot);
      throw new WeightDamage(this.npu, `expert ${expert} of layer ${part.layer}, in slot ${part.slot}, ${where}`);
    }
    throw new WeightDamage(this.npu, `${part.layer < 0 ? 'what is of no layer' : `layer ${part.layer}`}, ${where}`);
  }

  /** Empty: nothing that anybody has summed. */
  #heldIn(part: Part): string {
    if (part.kind === 'piece') return this.#words[this.#sumAt(part.index) + 1] === 1 ? 'a piece' : '';
    const { expertSlots } = this.#layout;
    const expert = expertIn(this.#words, expertSlots, part.layer, part.slot);
    return expert < 0 ? '' : `${expert} ${sumOfSlot(this.#words, expertSlots, part.layer, part.slot)}`;
  }

  #expectedOf(part: Part): number {
    return part.kind === 'piece' ? (this.#words[this.#sumAt(part.index)] as number) : sumOfSlot(this.#words, this.#layout.expertSlots, part.layer, part.slot);
  }

  #placeOf(part: Part): { readonly address: number; readonly bytes: number } {
    return part.kind === 'piece' ? (piecesOf(this.#layout)[part.index] as WeightPiece) : placeOfSlot(this.#layout.expertSlots, part.layer, part.slot);
  }

  #sumOf(part: Part): number {
    const { address, bytes } = this.#placeOf(part);
    return sumOfWeights(this.#kindOf(part), address, bytes);
  }

  /** Experts' sums are those that they travel with. */
  #kindOf({ kind }: Part): Checksum['sum'] {
    return kind === 'slot' ? this.#checksum.sum : this.#checksum.rest;
  }

  /** On with the part at hand, in chunks as it was summed: at least one. */
  #sumOn(part: Part, bytes_max: number): number {
    const { address, bytes } = this.#placeOf(part);
    const sum = this.#kindOf(part);
    let looked = 0;
    do {
      const chunk = Math.min(CHUNK_BYTES, bytes - this.#done);
      this.#sum = sum(this.#sum, address + this.#done, chunk);
      this.#done += chunk;
      looked += chunk;
    } while (this.#done < bytes && looked + CHUNK_BYTES <= bytes_max);
    return looked;
  }

  #sumAt(index: number): number {
    return offsetOf(this.#layout.weightSums) / 4 + index * SUM_WORDS;
  }
}
