/**
 * What a caller may ask of a pod's shape, checked once at the boundary.
 * @module
 */
import * as z from 'zod';
import { EXECUTOR_ROLES } from '../protocol/topology.ts';

/** Which task executor: its number, or its role where no other has it. Needed where a pod has more than one. */
const executor = z.union([z.int().min(0), z.enum(EXECUTOR_ROLES)]).optional();

/** Of each kind so many at most, in one task executor. */
const scaleMaxSchema = z
  .strictObject({
    executor,
    /** DP groups with attention, of `tp` NPUs each. */
    attention: z.int().min(1).max(512).optional(),
    /** Expert NPUs, where they are apart. */
    experts: z.int().min(1).max(512).optional(),
  })
  .refine(({ attention, experts }) => attention !== undefined || experts !== undefined, 'must name attention, experts, or both');

/** So many at least. */
const scaleMinSchema = z.strictObject({
  /** Expert NPUs: each keeps room for its part of the experts when there are so few. Default: as many as the topology has. */
  experts: z.int().min(1).max(512),
});

export const scaleRoom = {
  /**
   * Memory for so many DP groups with attention, and so many expert NPUs, is reserved, of which those of the topology serve at first; the others stand by. Of one task
   * executor: where there are several, `executor` says which, by number or role.
   */
  scale_max: scaleMaxSchema.optional(),
  /** So few expert NPUs it may come to have. */
  scale_min: scaleMinSchema.optional(),
};

/** What a pod is to have from now on; what is not named stays as it is. */
export const scaleSchema = z.strictObject({
  executor,
  attention: z.int().min(1).optional(),
  /** Expert NPUs, where they are apart. */
  experts: z.int().min(1).optional(),
  /** A change that takes longer is undone. */
  deadline_ms: z.int().min(1).max(600_000).default(30_000),
});
