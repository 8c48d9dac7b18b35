/** What a pod tells its caller about itself, live or virtual. @module */
import type { AnyPodPlan } from './flowserve/pod-plan.ts';
import type { ControlStats } from './platform/control.ts';
import type { LinkRead } from './protocol/threads.ts';
import type { LinkStats, PodStats } from './results.ts';
import type { Clock } from './runtime/clock.ts';

/** Of a reader that is lost. */
const NOTHING_READ: LinkRead = { received_frames: 0, received_bytes: 0, stale: 0, latencies_us: [], latency_us_sum: 0 };

/** Each link once, with what its writer and what its reader count. */
function linkStats(views: ControlStats['links'], threads: ControlStats['threads']): LinkStats[] {
  const nameOf = (thread: number): string => threads[thread]?.name ?? `${thread}`;
  return views.flatMap(({ thread, reports }) =>
    reports.map(({ peer, ...report }) => {
      const reader = views.find((view) => view.thread === peer)?.reports.find((other) => other.peer === thread && other.lane === report.lane);
      // What the writer's thread reads is the ring of the other direction.
      const { received_frames, received_bytes, stale, latencies_us, latency_us_sum } = reader ?? NOTHING_READ;
      return { from: nameOf(thread), to: nameOf(peer), ...report, received_frames, received_bytes, stale, latencies_us, latency_us_sum };
    }),
  );
}

export function podStats(model: string, clock: Clock, plan: AnyPodPlan, report: ControlStats): PodStats {
  const { memory, hosting, layouts, options } = plan;
  return {
    model,
    uptime_seconds: clock.now_ms() / 1000,
    requests_running: report.npus.reduce((sum, { requests_running }) => sum + requests_running, 0),
    requests_waiting: report.npus.reduce((sum, { requests_waiting }) => sum + requests_waiting, 0),
    requests_finished: report.finished,
    prompt_tokens: report.prompt_tokens,
    generation_tokens: report.generation_tokens,
    kv_block_size: options.kv_block_size,
    npus: report.npus.map((npu) => ({ ...npu, worker: hosting.worker_of_npu[npu.npu] as number, hbm_bytes: layouts[npu.npu]?.bytes ?? 0 })),
    expert_loads: report.expert_loads,
    memory: { total_bytes: memory.bytes, regions: report.regions },
    fabric: { links: linkStats(report.links, report.threads), threads: report.threads },
    unexpected_messages: report.unexpected,
  };
}
