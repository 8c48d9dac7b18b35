/** Whether memory is trusted to hold what was written there. @module */
import * as z from 'zod';
import { KV_CHECKS, ROW_CHECKS, WEIGHT_CHECKS } from '../protocol/steps.ts';

export const memoryCheckOptions = {
  /**
   * When KV that rests in memory is held against the sums that were taken when it was written. `each-step`: all that a step has read, before any token is drawn from
   * it: a block that went bad is taken out of use, and what lay in it computed again. `off`: never; memory is trusted. No token depends on it while memory is good.
   */
  kv_checks: z.enum(KV_CHECKS).default('each-step'),
  /**
   * Whether rows of activations that one NPU takes from another's memory, to compute with its experts or as their answers, are held against the sums that were taken
   * when they were left there. `each-step`: before anything comes of them; a step whose rows went bad is computed once more. `off`: never. No token depends on it while
   * memory is good.
   */
  row_checks: z.enum(ROW_CHECKS).default('each-step'),
  /**
   * When weights are held against the sums that were taken when they were loaded. `scrub`: all of them once in `weight_scrub_s`, where a thread has nothing else to do
   * as far as it may: what is computed between a flip of a bit and its being found came of it, so all workers begin anew then. `each-step`: what a step has used, before
   * anybody hears of it, so that nothing comes of a flip, and one worker begins anew. `off`: never. Either way successors load their weights again from the
   * checkpoint. No token depends on it while memory is good.
   */
  weight_checks: z.enum(WEIGHT_CHECKS).default('scrub'),
  /** With `weight_checks: 'scrub'`, in how many seconds all weights are looked at once, 0.05 at least: threads have others to serve. A flip is found within two such times. Default: 60. */
  weight_scrub_s: z.number().min(0.05).optional(),
} as const;
