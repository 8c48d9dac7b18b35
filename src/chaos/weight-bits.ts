/** Flips a bit of an NPU's weights. @module */
import { offsetOf } from '../fabric/address.ts';
import { expertIn, placeOfSlot } from '../flowserve/expert-slots.ts';
import { holdsPieces, piecesOf, type RestingLayout } from '../flowserve/resting-weights.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';

type Memory = Pick<VirtualControl, 'plan' | 'space' | 'npus' | 'directory'>;

/**
 * Of what is there; `which`: of its matrices and vectors, then of its slots that hold an expert, counted round. Null: it has none. What is returned flips it back,
 * and says whether it lay there still: nobody had found it, or loaded anything over it.
 */
export function flipWeightBit({ plan, space, npus, directory }: Memory, npu: number, bit: number, which: number): (() => boolean) | null {
  // On a virtual clock NPUs stay on their dies.
  const layout = plan.layouts[npu] as RestingLayout;
  const words = space.wordsOf(layout.base);
  const { weights, each } = layout.expertSlots;
  const slots = weights.flatMap((of, layer) =>
    of === null
      ? []
      : Array.from({ length: each }, (_, slot) => slot)
          .filter((slot) => expertIn(words, layout.expertSlots, layer, slot) >= 0)
          .map((slot) => placeOfSlot(layout.expertSlots, layer, slot)),
  );
  const parts = [...(holdsPieces(layout, space) ? piecesOf(layout) : []), ...slots];
  const part = parts[which % Math.max(1, parts.length)];
  if (part === undefined) return null;
  const at = offsetOf(part.address) / 4 + Math.floor((bit % (8 * part.bytes)) / 32);
  const whole = words[at] as number;
  const bad = whole ^ (1 << (bit % 32));
  words[at] = bad;
  return () => {
    if (words[at] !== bad) return false;
    words[at] = whole;
    // Who ended for it, and has no successor, has it still.
    return !npus.damaged.has(directory.workerOfNpu(npu));
  };
}
