/** Flips a bit of an NPU's weights. @module */
import type { AddressSpace } from '../fabric/address-space.ts';
import { expertIn, placeOfSlot } from '../flowserve/experts/expert-slots.ts';
import { holdsPieces, piecesOf, type RestingLayout } from '../flowserve/weights/resting-weights.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import { flipBit, liesThere, type Spot, undo } from './damage.ts';

type Memory = Pick<VirtualControl, 'plan' | 'space' | 'npus' | 'directory'>;

/**
 * Of what is there; `which`: of its matrices and vectors, then of its slots that hold an expert, counted round. Null: it has none. What is returned flips it back,
 * and says whether it lay there still: nobody had found it, or loaded anything over it.
 */
export function flipWeightBit({ plan, space, npus, directory }: Memory, npu: number, bit: number, which: number): (() => boolean) | null {
  // On a virtual clock NPUs stay on their dies.
  const parts = restingParts(plan.layouts[npu] as RestingLayout, space);
  const part = parts[which % Math.max(1, parts.length)];
  if (part === undefined) return null;
  const damage = flipBit(space, part, bit);
  return () => {
    if (!liesThere(space, damage)) return false;
    undo(space, damage);
    // Who ended for it, and has no successor, has it still.
    return !npus.damaged.has(directory.workerOfNpu(npu));
  };
}

/** Its matrices and vectors, then its slots that hold an expert. */
export function restingParts(layout: RestingLayout, space: AddressSpace): Spot[] {
  const words = space.wordsOf(layout.base);
  const { weights, each } = layout.expertSlots;
  const slots = weights.flatMap((of, layer) =>
    of === null
      ? []
      : Array.from({ length: each }, (_, slot) => slot)
          .filter((slot) => expertIn(words, layout.expertSlots, layer, slot) >= 0)
          .map((slot) => placeOfSlot(layout.expertSlots, layer, slot)),
  );
  return [...(holdsPieces(layout, space) ? piecesOf(layout) : []), ...slots];
}
