/**
 * DP groups whose NPUs live, and that wait for columns of their output projections, which an NPU has in whose place nobody comes for now. Nobody knows for how long, so
 * what is there goes elsewhere, as where nobody ever comes; they take part again when it is back.
 */
import { type Address, address } from '../../src/protocol/address.ts';
import { handBack, takePart } from '../../src/protocol/constructors.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import type { TaskPlacement } from './placement.ts';

/** None, where the NPU is not gone. */
export const strandedBy = (placement: TaskPlacement, npu: number): readonly number[] => (placement.goneNpus.includes(npu) ? placement.needing(npu) : []);

export const giveBack = (self: Address, stranded: readonly number[]): Commands['send'][] =>
  stranded.map((group) => ({ to: address('dp-group', group), message: handBack(self, false) }));

/** Those that are to serve, and lack nobody else. */
export const takePartAgain = ({ standby, goneGroups }: TaskPlacement, stranded: readonly number[]): Commands['send'][] =>
  stranded.filter((group) => !standby.has(group) && !goneGroups.includes(group)).map((group) => ({ to: address('dp-group', group), message: takePart() }));
