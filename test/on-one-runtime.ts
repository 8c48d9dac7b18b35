/**
 * What runs on Node alone: files, and folders by a slash at their end. Deno runs what it has a say in.
 * @module
 */

/**
 * Machines, policies, tables, texts, and pods on a virtual clock that compute hashes. They start no thread and no process (see one-thread.ts), wait for no atomic,
 * serve no socket and run no kernel, so all of them is JavaScript that V8 runs on both. Where virtual runs could differ all the same, both runtimes run
 * test/system/virtual.test.ts: one seed's trace there has one hash, whichever it is.
 */
export const WITHOUT_THREADS: readonly string[] = [
  'test/actors/',
  'test/chaos/detection.test.ts',
  'test/chaos/plans.test.ts',
  'test/chaos/recoveries.test.ts',
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
  'test/system/standby-experts.test.ts',
  'test/trace/causal-order.test.ts',
];

/**
 * Pods on threads, or with kernels, that promise what machines, policies and views decide: who is asked, what is kept, what moves, what is drawn, how a life is told.
 * Deno starts, stops and loses threads, runs kernels, and writes and reads traces, sockets and terminals in the tests of the same folders that are not listed here:
 * pods of every topology (same-bits, tensor-parallel, moe-attention, scale), of whom any part dies, hangs or traps (failure, quarantine, recovery, takeover,
 * the -failure tests, chaos/live), of which anything is recorded, replayed and looked at (recording, replay, live-recorder, inspection, observability), or asked by
 * many (life, soak, crowd, api/); the models' bits (golden/, fidelity/, quantize/) and kernels (property/).
 */
export const OF_DECISIONS: readonly string[] = [
  'test/chaos/run.test.ts',
  'test/cli/expert-heat.test.ts',
  'test/cli/experts-look.test.ts',
  'test/cli/experts-plan.test.ts',
  'test/cli/experts-routing.test.ts',
  'test/cli/scale.test.ts',
  'test/cli/sglang-loads.test.ts',
  'test/cli/top.test.ts',
  'test/cli/trace-explain.test.ts',
  'test/cli/trace-export.test.ts',
  'test/system/cache-tiers.test.ts',
  'test/system/contexts.test.ts',
  'test/system/degraded.test.ts',
  'test/system/dp-groups.test.ts',
  'test/system/drafting.test.ts',
  'test/system/expert-balancing.test.ts',
  'test/system/experts-gone.test.ts',
  'test/system/experts.test.ts',
  'test/system/failed-pod.test.ts',
  'test/system/foreign-text.test.ts',
  'test/system/kv-events.test.ts',
  'test/system/kv-int8.test.ts',
  'test/system/lost-domains.test.ts',
  'test/system/lost-experts.test.ts',
  'test/system/lost-tokens.test.ts',
  'test/system/mtp.test.ts',
  'test/system/output-shortcut.test.ts',
  'test/system/prefill-decode.test.ts',
  'test/system/prefix-cache.test.ts',
  'test/system/prefix-sharing.test.ts',
  'test/system/rehoming.test.ts',
  'test/system/role-switch.test.ts',
  'test/system/routing-trace.test.ts',
  'test/system/scale-losses.test.ts',
  'test/system/scheduling.test.ts',
  'test/system/topology.test.ts',
  'test/system/weight-broadcasts.test.ts',
  'test/system/weight-flips.test.ts',
  'test/system/wire-int8.test.ts',
  'test/trace/mutation.test.ts',
  'test/trace/redaction.test.ts',
  'test/trace/replay-drafts.test.ts',
  'test/trace/replay-handoffs.test.ts',
  'test/trace/views-exports.test.ts',
  'test/trace/views-lives.test.ts',
  'test/trace/views-page.test.ts',
];
