/**
 * What runs on Node alone, files and folders (by a slash at their end): machines, policies, tables, texts, and pods on a virtual clock that compute hashes.
 * They start no thread and no process (see one-thread.ts), wait for no atomic, serve no socket and run no kernel, so all of them is JavaScript that V8 runs on both.
 * Where virtual runs could differ all the same, both runtimes run test/system/virtual.test.ts: one seed's trace there has one hash, whichever it is.
 * @module
 */
export const ON_ONE_RUNTIME: readonly string[] = [
  'test/actors/',
  'test/chaos/clients.test.ts',
  'test/chaos/detection.test.ts',
  'test/chaos/plans.test.ts',
  'test/chaos/recoveries.test.ts',
  'test/cli/expert-heat.test.ts',
  'test/cli/experts-plan.test.ts',
  'test/cli/experts-routing.test.ts',
  'test/cli/sglang-loads.test.ts',
  'test/cli/trace-explain.test.ts',
  'test/docs.test.ts',
  'test/fabric/small-model.test.ts',
  'test/house.test.ts',
  'test/platform/control-loops.test.ts',
  'test/platform/domain-steps.test.ts',
  'test/platform/recovery.test.ts',
  'test/platform/step-costs.test.ts',
  'test/platform/suspicions.test.ts',
  'test/platform/virtual-workers.test.ts',
  'test/simulate/',
  'test/system/deaths-in-turn.test.ts',
  'test/system/lost-deadlines.test.ts',
  'test/system/rebalance-faults.test.ts',
  'test/system/scale-faults.test.ts',
  'test/system/scale-losses.test.ts',
  'test/system/standby-experts.test.ts',
  'test/system/virtual-control-lost.test.ts',
  'test/trace/causal-order.test.ts',
];
