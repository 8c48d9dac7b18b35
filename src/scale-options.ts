/**
 * What a caller may ask of a pod's shape, checked once at the boundary.
 * @module
 */
import * as z from 'zod';

/** Of each kind so many at most. */
export const scaleMaxSchema = z.strictObject({
  /** DP groups with attention, of `tp` NPUs each. */
  attention: z.int().min(1).max(512),
});

/** What a pod is to have from now on; what is not named stays as it is. */
export const scaleSchema = z.strictObject({
  attention: z.int().min(1).optional(),
  /** Expert NPUs, where they are apart. */
  experts: z.int().min(1).optional(),
});
