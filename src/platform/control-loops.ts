/**
 * Whether the loops go on that nobody asks for: one that has died says nothing, so it is judged by what it has done. A loop that makes no progress for two of its
 * periods is stalled, and health says which, and since when; but one that waits for others has twice the time that it gives them (`STATE_MS_MAX`).
 *
 *   rebalance    each expert map: the state it is in, and the periods and changes that have ended
 *   heartbeat    the cluster manager's lease, which its holder renews; each task executor's beats, while it has tasks
 *   scaling      a change of the pod's shape that is under way: its state, and how often it has asked
 *   role_switch  an attention NPU that takes a lost expert NPU's role: its state, and when it came to it
 *   scheduling   each DP group that has requests waiting: steps, and blocks that were evicted for them
 *
 * @module
 */
import { LEASE_MS } from '../../actors/cluster-manager.ts';
import { BEAT_MS, type Heartbeats } from '../../actors/policies/heartbeats.ts';
import { SWITCH_MS_MAX } from '../../actors/role-switch.ts';
import type { ControlPage } from '../fabric/control-page.ts';
import { LeaderLease } from '../fabric/leader-lease.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { type Address, address } from '../protocol/address.ts';
import type { NpuReport } from '../protocol/threads.ts';
import type { Cast } from '../runtime/cast.ts';
import { balancingReports } from './expert-balancing.ts';

export type LoopName = 'rebalance' | 'heartbeat' | 'scaling' | 'role_switch' | 'scheduling';
/** `still_ms`: for how long it has made no progress, though it had something to do. */
export type LoopReport = {
  readonly loop: LoopName;
  readonly owner: Address;
  readonly state: string;
  readonly period_ms: number;
  readonly still_ms: number;
  readonly is_stalled: boolean;
};
/** `progress`: what differs when it has made some; or `progressed_ms`, when it did by its own account. `runs`: it has something to do. */
type Loop = Pick<LoopReport, 'loop' | 'owner' | 'state' | 'period_ms'> & { readonly runs: boolean } & (
    | { readonly progress: string }
    /** `state_ms`: so long it may take for the next progress, where that is longer than a period. */
    | { readonly progressed_ms: number; readonly state_ms?: number }
  );
type Seen = { readonly progress: string; still_ms: number };

const PERIODS_TO_STALL = 2;
/** A beat is due more often, and late where its thread has to wait for a processor. */
const BEATS_PERIOD_MS = Math.max(BEAT_MS, 500);
/** Longer than any step. */
const SCHEDULING_PERIOD_MS = 5_000;
/** A thread that was away for longer has kept its own loops from their progress. */
const LOOK_MS_MAX = 500;
const LOOK_MS = 200;

export type LoopsPorts = {
  readonly plan: AnyPodPlan;
  readonly control: ControlPage;
  readonly cast: Pick<Cast, 'stateOf' | 'contextOf'>;
};

export class ControlLoops {
  readonly #ports: LoopsPorts;
  readonly #lease: LeaderLease;
  readonly #seen = new Map<string, Seen>();
  #looked_ms = 0;
  #reported_ms = 0;

  constructor(ports: LoopsPorts) {
    this.#ports = ports;
    this.#lease = new LeaderLease(ports.control);
  }

  /** Asked at each turn of the thread that hosts them: what it looks at, it looks at now and then. A virtual pod's does not ask: those loops never stall there. */
  look(now_ms: number): void {
    const passed_ms = now_ms - this.#looked_ms;
    if (passed_ms < LOOK_MS) return;
    this.#looked_ms = now_ms;
    for (const loop of this.#ownLoops()) this.#note(loop, Math.min(passed_ms, LOOK_MS_MAX));
  }

  /** `npus`: what they say of themselves now. */
  report(now_ms: number, npus: readonly NpuReport[]): readonly LoopReport[] {
    const passed_ms = now_ms - this.#reported_ms;
    this.#reported_ms = now_ms;
    const groups = this.#groupLoops(npus);
    for (const loop of groups) this.#note(loop, passed_ms);
    return [...this.#accountedLoops(now_ms), ...this.#ownLoops(), ...groups].map((loop) => this.#reportOf(loop, now_ms));
  }

  #reportOf(loop: Loop, now_ms: number): LoopReport {
    const { loop: name, owner, state, period_ms, runs } = loop;
    const still_ms = 'progressed_ms' in loop ? Math.max(0, now_ms - loop.progressed_ms) : (this.#seen.get(keyOf(loop))?.still_ms ?? 0);
    const due_ms = 'state_ms' in loop ? loop.state_ms : period_ms;
    return { loop: name, owner, state, period_ms, still_ms, is_stalled: runs && still_ms > PERIODS_TO_STALL * due_ms };
  }

  #note(loop: Loop, passed_ms: number): void {
    if (!('progress' in loop)) return;
    const seen = this.#seen.get(keyOf(loop));
    if (seen === undefined || seen.progress !== loop.progress || !loop.runs) this.#seen.set(keyOf(loop), { progress: loop.progress, still_ms: 0 });
    else seen.still_ms += passed_ms;
  }

  #accountedLoops(now_ms: number): Loop[] {
    const { plan, cast } = this.#ports;
    const period_ms = plan.options.expert_balancing?.period_ms;
    const maps = period_ms === undefined ? [] : balancingReports(cast, plan, now_ms);
    const held = this.#lease.holding;
    return [
      ...maps.map(
        ({ executor, state, progress_ms, state_ms }): Loop => ({
          ...{ loop: 'rebalance', owner: address('expert-map', executor), state, period_ms: period_ms ?? 0, runs: true, progressed_ms: progress_ms, state_ms },
        }),
      ),
      {
        ...{ loop: 'heartbeat', owner: address('cluster-manager', held?.holder ?? 0), state: held === null ? 'nobody leads' : `term ${held.term}` },
        // Who leads renews it three times before it is over, and who stands by takes it then.
        ...{ period_ms: LEASE_MS, runs: true, progressed_ms: held === null ? 0 : held.until_ms - LEASE_MS },
      },
    ];
  }

  #ownLoops(): Loop[] {
    const { plan, cast } = this.#ports;
    return plan.hosting.deployment.executors.flatMap(({ id }) => {
      const [beating, scaling, switching] = [address('task-executor', id), address('scaling', id), address('role-switch', id)];
      const executor = cast.contextOf(beating) as { heartbeats: Heartbeats; placement: { isHolding: boolean } } | null;
      const change = cast.contextOf(scaling) as { deadline_ms: number; query: number } | null;
      const role = cast.contextOf(switching) as { turn: number } | null;
      const [state, switchState] = [cast.stateOf(scaling) ?? 'gone', cast.stateOf(switching) ?? 'gone'];
      return [
        {
          ...{ loop: 'heartbeat' as const, owner: beating, state: cast.stateOf(beating) ?? 'gone', period_ms: BEATS_PERIOD_MS },
          ...{ runs: executor === null || executor.heartbeats.isBeating || executor.placement.isHolding, progress: String(executor?.heartbeats.beats) },
        },
        ...(change === null
          ? []
          : [
              {
                loop: 'scaling' as const,
                owner: scaling,
                state,
                period_ms: change.deadline_ms,
                // Lent, it does nothing: who has it changes the shape.
                runs: state !== 'stable' && state !== 'lent',
                progress: `${state} ${change.query}`,
              },
            ]),
        ...(role === null
          ? []
          : [
              {
                ...{ loop: 'role_switch' as const, owner: switching, state: switchState, period_ms: SWITCH_MS_MAX },
                // One that is with the host, and late, keeps nobody waiting: experts are lost, or done without.
                // While it claims the map, whoever has that is watched.
                ...{ runs: switchState !== 'watching' && switchState !== 'claiming', progress: `${switchState} ${role.turn}` },
              },
            ]),
      ];
    });
  }

  #groupLoops(npus: readonly NpuReport[]): Loop[] {
    return this.#ports.plan.hosting.deployment.groups.flatMap(({ id, npus: [leader] }) => {
      const report = npus.find(({ npu }) => npu === leader);
      if (report === undefined) return [];
      const { state, steps, requests_waiting, kv_blocks_used, kv_blocks_cached } = report;
      const progress = `${steps} ${kv_blocks_used} ${kv_blocks_cached}`;
      return [{ loop: 'scheduling' as const, owner: address('dp-group', id), state, period_ms: SCHEDULING_PERIOD_MS, runs: requests_waiting > 0, progress }];
    });
  }
}

const keyOf = ({ loop, owner }: Loop): string => `${loop} ${owner}`;
