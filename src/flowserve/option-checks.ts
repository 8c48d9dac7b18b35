/**
 * Options that contradict the model, the topology or one another: refused before anything is laid out, with what would be right. What would do nothing is
 * refused as well, where somebody asked for it by name.
 * @module
 */
import { balancingOf } from '../../actors/policies/placement.ts';
import type { ModelConfig } from '../model/config.ts';
import { PANEL } from '../model/kernels/kernels.ts';
import { MinipodError } from '../protocol/errors.ts';
import { JOB_EXECUTORS_MAX } from '../protocol/request-ids.ts';
import { type Deployment, firstGroups, formatTopology, isSplit, type Topology } from '../protocol/topology.ts';
import type { ModelShape } from './layouts/step-layout.ts';
import type { PlanOptions } from './pod-plan.ts';

/** Tokens from which on a prompt is very long, where nothing is said of it. */
export const LONG_PROMPT_TOKENS = 8_192;
/** How long KV is lent, where nothing is said of it. */
export const KV_LEASE_MS = 600_000;

const refuse = (param: keyof PlanOptions | 'npus', why: string): never => {
  throw new MinipodError('invalid_request', `${param}: ${why}`, { param });
};

/** @throws `invalid_request` where attention or output projection would be split finer than they are made of */
export function checkSplits({ heads, hiddenSize }: Pick<ModelConfig, 'heads' | 'hiddenSize'>, topology: Topology): void {
  const tp = Math.max(...topology.map((executor) => executor.tp));
  if (tp > heads) refuse('topology', `tp ${tp} for ${heads} attention heads; each rank of a DP group has at least one`);
  const panels = Math.ceil(hiddenSize / PANEL);
  const oproj = Math.max(...topology.map((executor) => executor.oproj ?? 1));
  if (oproj > panels)
    refuse('topology', `oproj ${oproj} for an output projection of ${hiddenSize} columns = ${panels} panels of ${PANEL}; each NPU has at least one`);
}

/** @throws `invalid_request` naming the option */
export function checkOptions({ moe }: ModelShape, deployment: Deployment, options: PlanOptions): void {
  checkThreads(deployment, options);
  checkLosses(options);
  checkMemory(options);
  for (const { id, role, dp, tp, experts, split } of deployment.executors)
    if (experts.npus > moe.experts)
      refuse(
        options.topology.length === 1 && split === undefined ? 'npus' : 'topology',
        `task executor ${id} (${role}) has ${split === undefined ? `dp ${dp} × tp ${tp} = ${experts.npus}` : `${experts.npus} expert`} NPUs for ${moe.experts} experts a layer; each NPU owns at least one`,
      );
  checkLongPrompts(options);
  checkBalancing(moe, deployment, options);
  checkRouting(moe, options);
  checkSchedule(deployment, options);
  checkMicroBatches(deployment, options);
  checkHandoffs(deployment, options);
  checkCache(deployment, options);
}

function checkThreads({ npus }: Deployment, { workers, job_executors, recovery }: PlanOptions): void {
  if (recovery !== undefined && workers === 1)
    refuse('recovery', `'${recovery}' is about workers that live on where one is lost, and there is 1: use 2 or more`);
  if (workers > npus.length) refuse('workers', `${workers} threads for ${npus.length} NPUs; an NPU lives on one worker, so use at most ${npus.length}`);
  const most = Math.min(JOB_EXECUTORS_MAX, 1 + workers);
  if (job_executors > most)
    refuse('job_executors', `${job_executors} of at most ${most}; each lives on a thread of its own, which are the control thread and ${workers} workers`);
}

function checkLosses({
  workers,
  recovery,
  respawn,
  degraded,
  rehome_after_ms,
  role_switch,
  expert_balancing,
  scale_max,
  schedule,
  topology,
  average_routing,
}: PlanOptions): void {
  if (degraded === true) {
    if (workers === 1) refuse('degraded', 'a pod of 1 worker ends with it: use 2 workers or more, of which some are left');
    if (average_routing === true) refuse('degraded', 'average_routing asks all experts in turn, whatever a gate does without: leave one of them out');
    if (topology.some(({ oproj = 1 }) => oproj > 1))
      refuse('degraded', 'a lost NPU has columns of output projections that others need: use a topology without oproj');
  }
  if (respawn === false && workers === 1) refuse('respawn', 'a pod of 1 worker ends with it: use 2 workers or more, of which some are left');
  if (respawn === false && recovery === 'restart')
    refuse('respawn', "false: lost workers have no successors, and recovery 'restart' has all of them begin anew");
  if (role_switch !== undefined) {
    if (respawn !== false)
      refuse('role_switch', `'${role_switch}' is for lost workers without successors, and these have some: say respawn: false, or leave it out`);
    if (!topology.some(({ split, dp }) => split !== undefined && dp > 1))
      refuse('role_switch', `'${role_switch}' is for attention NPUs that can be spared and experts apart, as 'moe-attention:domains=1x3,experts=2' has them`);
    if (schedule === 'domains') refuse('role_switch', "none of a domain's NPUs is spared where domains take turns: use schedule 'dataflow'");
  }
  if (rehome_after_ms === undefined) return;
  if (respawn === false) refuse('rehome_after_ms', 'no successor is waited for with respawn: false; leave one of them out');
  if (recovery === 'restart')
    refuse('rehome_after_ms', "with recovery 'restart' all workers begin anew with a lost one, and nobody is left to load its experts: leave one of them out");
  if (expert_balancing === undefined && scale_max?.experts === undefined)
    refuse('rehome_after_ms', 'experts of this pod stay where they are: give them room elsewhere with expert_balancing (--enable-eplb)');
}

function checkMemory({ weight_checks = 'off', weight_scrub_s }: PlanOptions): void {
  if (weight_scrub_s !== undefined && weight_checks !== 'scrub')
    refuse(
      'weight_scrub_s',
      `${weight_scrub_s}: is how long a scrub takes, and weights are not looked at so with weight_checks '${weight_checks}': leave it out`,
    );
}

/** Groups for very long prompts alone are a leader's to keep, who has to have others too. */
function checkLongPrompts({ topology, load_balancing, long_prompt_groups: own }: PlanOptions): void {
  const heeds = topology.some(({ role, dp }) => balancingOf(role, dp, load_balancing) === 'cost_model' && dp > own);
  if (own === 0 || heeds) return;
  const choices = topology.map(({ role, dp }) => `${dp} in a ${role} executor, chosen by ${balancingOf(role, dp, load_balancing)}`);
  refuse(
    'long_prompt_groups',
    `${own} for very long prompts alone needs an executor that has more DP groups and chooses among them by cost_model; '${formatTopology(topology)}' has ${[...new Set(choices)].join('; ')}: use load_balancing 'cost_model' or a prefill executor, with dp ${own + 1} or more`,
  );
}

function checkMicroBatches(deployment: Deployment, { topology, schedule, micro_batches }: PlanOptions): void {
  if (micro_batches === undefined) return;
  if (!isSplit(deployment))
    refuse('micro_batches', `topology '${formatTopology(topology)}' has experts beside attention; 'moe-attention:domains=1x2,experts=2' has them apart`);
  if (schedule === 'domains' && micro_batches !== 2)
    refuse('micro_batches', `${micro_batches}: where domains take turns a step is 2 micro-batches; leave it out`);
}

function checkSchedule(deployment: Deployment, { topology, schedule }: PlanOptions): void {
  if (schedule !== undefined && !isSplit(deployment))
    refuse(
      'schedule',
      `'${schedule}' is between attention NPUs and expert NPUs, which topology '${formatTopology(topology)}' does not tell apart; 'moe-attention:domains=1x2,experts=2' does`,
    );
}

function checkHandoffs({ executors }: Deployment, options: PlanOptions): void {
  const { topology, kv_fabric = 'memory', kv_transfer, kv_lease_ms, prefix_sharing, scale_max, scale_min } = options;
  const handsOver = executors.some(({ role }) => role === 'prefill');
  if (kv_fabric !== 'memory' && executors.length === 1)
    refuse(
      'kv_fabric',
      `'${kv_fabric}' joins task executors, and topology '${formatTopology(topology)}' has one; with several, such as 'pd:prefill=1,decode=1', it would be right`,
    );
  if (kv_transfer === 'layer' && !handsOver)
    refuse(
      'kv_transfer',
      `'layer' is how prefill executors hand KV over, and topology '${formatTopology(topology)}' has none; with some, such as 'pd:prefill=1,decode=1', it would be right`,
    );
  if (kv_lease_ms !== undefined && !handsOver && prefix_sharing !== true && scale_max === undefined && scale_min === undefined)
    refuse(
      'kv_lease_ms',
      `${kv_lease_ms} is how long KV is lent, and nobody lends any: topology '${formatTopology(topology)}' has no prefill executor; with one, such as 'pd:prefill=1,decode=1', with prefix_sharing or with scale_max it would be right`,
    );
}

function checkCache(deployment: Deployment, { topology, prefix_caching, prefix_sharing, dram_blocks = 0 }: PlanOptions): void {
  if (dram_blocks > 0 && !prefix_caching)
    refuse('dram_blocks', `${dram_blocks} blocks for what is cached, and prefix_caching is off: leave out one of the two`);
  if (prefix_sharing === true && !prefix_caching) refuse('prefix_sharing', 'is of what is cached, and prefix_caching is off: leave out one of the two');
  if (prefix_sharing === true && firstGroups(deployment).length === 1)
    refuse('prefix_sharing', `is between DP groups in which requests begin, and topology '${formatTopology(topology)}' has one; 'colocated:dp=2' has two`);
}

function checkRouting({ experts }: ModelShape['moe'], { average_routing }: PlanOptions): void {
  if (average_routing === true && experts === 0) refuse('average_routing', 'is about experts, and the model has none: leave it out');
}

function checkBalancing(moe: ModelShape['moe'], { executors }: Deployment, { expert_balancing, topology }: PlanOptions): void {
  if (expert_balancing === undefined) return;
  const { nodes, policy } = expert_balancing;
  if (executors.every(({ experts }) => experts.npus === 1))
    refuse(
      'expert_balancing',
      `is between NPUs, and topology '${formatTopology(topology)}' has one for the experts of each executor; 'colocated:dp=2' has two`,
    );
  for (const { id, experts } of executors)
    if (experts.npus % nodes !== 0)
      refuse('expert_balancing', `nodes ${nodes} do not divide the ${experts.npus} NPUs that have the experts of task executor ${id}`);
  if (policy === 'hierarchical' && moe.experts % nodes !== 0)
    refuse('expert_balancing', `nodes ${nodes} do not divide ${moe.experts} experts; use policy 'global'`);
}
