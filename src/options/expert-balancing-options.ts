/**
 * How experts are moved and replicated as they are asked for.
 * @module
 */
import * as z from 'zod';
import { PLACEMENT_POLICIES } from '../../actors/policies/expert-placement/policies.ts';

/** `redundant_slots`: of a layer, over all of an executor's NPUs together. `nodes`: over which these are spread, for the hierarchical policy. */
export const expertBalancingSchema = z.strictObject({
  policy: z.enum(PLACEMENT_POLICIES).default('global'),
  redundant_slots: z.int().min(1).max(4096),
  period_ms: z
    .int()
    .min(10)
    .max(2 ** 31 - 1)
    .default(60_000),
  windows: z.int().min(1).max(64).default(8),
  threshold: z.number().min(1).default(1),
  nodes: z.int().min(1).default(1),
});
