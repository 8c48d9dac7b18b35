/**
 * Expert placement: how even each policy makes the ranks, on the loads that it planned on and on others; what its plans move; and how long planning takes.
 *
 * @example
 * node bench/expert-placement.ts          # writes bench/results/expert-placement.json
 * @module
 */
import { readFileSync } from 'node:fs';
import { type ExpertLoads, expertLoads, windowsOf } from '../actors/policies/expert-placement/expert-loads.ts';
import { movesBetween } from '../actors/policies/expert-placement/map-moves.ts';
import type { PlacementShape } from '../actors/policies/expert-placement/placement-shape.ts';
import { PLACE_EXPERTS, PLACEMENT_POLICIES, type PlacementPolicy, planFrom } from '../actors/policies/expert-placement/policies.ts';
import { imbalance } from '../actors/policies/expert-placement/predicted-balance.ts';
import { drawer, drawnWindow, skewedLoads } from './expert-loads.ts';
import { atMost, digits, resultsPath } from './fabric-report.ts';
import { median, printTable, writeResults } from './harness.ts';

const even = (value: number): string => value.toFixed(3);
const average = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Real loads of OLMoE 1B-7B, three layers: EP32, one redundant slot a rank. */
const FILE = JSON.parse(readFileSync(new URL('../test/golden/expert-loads.json', import.meta.url), 'utf8'));
const DOMAINS = FILE['olmoe-1b-7b (64 experts, top-8)'] as Readonly<Record<string, number[][]>>;
const EP32: PlacementShape = { layers: 3, experts: 64, slots: 96, ranks: 32, nodes: 4, groups: 8 };
const EXPERTS_A_TOKEN = 8;
const GOALS: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  global: { c4: 1.03, github: 1.09 },
  fixed_primaries: { c4: 1.2, github: 1.31 },
};

/** Planned on one domain's counts; `seen`: scored on them too, `unseen`: on each other domain's, the mean. */
function balanceOn(domain: string, policy: PlacementPolicy) {
  const loads = expertLoads([DOMAINS[domain] ?? []]);
  const map = PLACE_EXPERTS[policy](loads, EP32);
  const others = Object.keys(DOMAINS).filter((other) => other !== domain);
  const unseen = others.map((other) => imbalance(map, expertLoads([DOMAINS[other] ?? []])));
  return { domain, policy, goal: GOALS[policy]?.[domain] ?? null, seen: imbalance(map, loads), unseen: average(unseen) };
}

/** Planned on one drawn window of so many tokens, scored on the next; the mean of 10 such pairs. */
function balanceOfNext(domain: string, tokens: number) {
  const draw = drawer(7);
  const counts = DOMAINS[domain] ?? [];
  const windows = Array.from({ length: 11 }, () => expertLoads([drawnWindow(counts, tokens * EXPERTS_A_TOKEN, draw)]));
  return PLACEMENT_POLICIES.map((policy) => {
    const next = windows.slice(1).map((scored, at) => imbalance(PLACE_EXPERTS[policy](windows[at] as ExpertLoads, EP32), scored));
    return { domain, policy, tokens, next: average(next) };
  });
}

/** DeepSeek-R1's size. */
const R1: PlacementShape = { layers: 58, experts: 256, slots: 288, ranks: 32, nodes: 4, groups: 8 };
const PLAN_GOAL_MS = 3.7;
const WARM = 20;
const ROUNDS = 61;

/** `ms`: the median. `cpu_ms`: the mean of what the thread itself had of a core, so without the slices that went to other programs. */
function time(run: () => unknown): { readonly ms: number; readonly cpu_ms: number } {
  for (let round = 0; round < WARM; round++) run();
  const took: number[] = [];
  const before = cpuMs();
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now();
    run();
    took.push(performance.now() - start);
  }
  return { ms: median(took), cpu_ms: (cpuMs() - before) / ROUNDS };
}

/** Deno does not tell. */
function cpuMs(): number {
  if (typeof process.threadCpuUsage !== 'function') return Number.NaN;
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1_000;
}

/** On loads that drift from window to window. `replicas`: those placed beside the primaries; the moves are those from a plan on the windows before. */
function planTime(policy: PlacementPolicy, windows: number) {
  const all = skewedLoads(2 * windows, R1.layers, R1.experts, 1_000, drawer(11));
  const [before, loads] = [windowsOf(all, 0, windows), windowsOf(all, windows)];
  const place = PLACE_EXPERTS[policy];
  const present = place(before, R1);
  const plan = place(loads, R1);
  const kept = planFrom(present, policy, loads);
  return {
    policy,
    windows,
    replicas: plan.replicas.length - R1.layers * R1.experts,
    goal_ms: policy === 'global' ? PLAN_GOAL_MS : null,
    plan: time(() => place(loads, R1)),
    in_place: time(() => planFrom(present, policy, loads)),
    moved: movesBetween(present, plan),
    moved_in_place: movesBetween(present, kept),
    native: imbalance(PLACE_EXPERTS.native(loads, R1), loads),
    stale: imbalance(present, loads),
    seen: imbalance(plan, loads),
  };
}

const balance = Object.keys(DOMAINS).flatMap((domain) => PLACEMENT_POLICIES.map((policy) => balanceOn(domain, policy)));
printTable(
  'Busiest rank over mean rank, mean of three layers of OLMoE, EP32 with one redundant slot a rank: on the domain that was planned on, and on the others',
  ['planned on', 'policy', 'seen', 'goal', 'unseen'],
  balance.map(({ domain, policy, goal, seen, unseen }) => [domain, policy, even(seen), atMost(goal, seen), even(unseen)]),
);
const next = ['c4', 'github'].flatMap((domain) => [1_000, 10_000, 100_000].flatMap((tokens) => balanceOfNext(domain, tokens)));
printTable(
  'The same, planned on one window of tokens drawn from a domain, scored on the next window',
  ['domain', 'policy', 'tokens a window', 'next window'],
  next.map((row) => [row.domain, row.policy, String(row.tokens), even(row.next)]),
);
const plans = [1, 10, 60].flatMap((windows) => PLACEMENT_POLICIES.map((policy) => planTime(policy, windows)));
printTable(
  'Planning 58 layers × 256 experts → 288 slots on 32 ranks, warm, median ms; what moves from the plan on the windows before',
  ['policy', 'windows', 'replicas', 'ms', 'goal', 'CPU ms', 'CPU ms in place', 'weights moved', 'in place', 'native', 'old plan', 'new plan'],
  plans.map((row) => [
    row.policy,
    String(row.windows),
    String(row.replicas),
    digits(row.plan.ms),
    atMost(row.goal_ms, row.plan.ms),
    digits(row.plan.cpu_ms),
    digits(row.in_place.cpu_ms),
    String(row.moved.weights),
    String(row.moved_in_place.weights),
    even(row.native),
    even(row.stale),
    even(row.seen),
  ]),
);
writeResults(resultsPath('expert-placement'), { balance, next, plans });
