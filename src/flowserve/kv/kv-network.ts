/**
 * Links between the task executors of a pod by a network in place of their shared memory (`kv_fabric: 'tcp'`): a stand-in for RoCE, by which prefill may run on
 * other machines than decode (xDeepServe §5.1).
 *
 *   worker that pulls ─▶ queue pair ─▶ card ══ TCP, this machine ══▶ card ─▶ memory of the worker that lends
 *
 * Each thread has a queue pair for each two executors between which it may pull: its links break one by one. They belong to the seat, not to the worker, so that
 * one that was given up and goes on has none that its successor has.
 * @module
 */
import type { ControlPage } from '../../fabric/control-page.ts';
import { assert } from '../../protocol/errors.ts';
import { type Hosting, networkThreadOf, seatsOf } from '../../runtime/directory.ts';
import type { LinkClusterOptions } from '../distflow/link-cluster.ts';
import { QueuePair } from '../distflow/network/queue-pair.ts';
import { SocketBackend } from '../distflow/network/socket-backend.ts';
import type { AnyPodPlan } from '../pod-plan.ts';

/** What a card answers in microseconds, and on a crowded machine in milliseconds: one that has answered nothing for so long hangs. */
export const CARD_DEADLINE_MS = 5_000;

/** By which a thread pulls from one executor for another, and how long the card may be silent: a plain value, as it travels to threads. */
export type KvLine = {
  readonly thread: number;
  readonly source: number;
  readonly target: number;
  readonly queue: SharedArrayBuffer;
  readonly deadline_ms: number;
};

/** All queue pairs of a pod, for spare seats too; none where its executors share a memory. */
export function kvLinesOf({ hosting, options: { kv_fabric } }: AnyPodPlan, deadline_ms = CARD_DEADLINE_MS): KvLine[] {
  if (kv_fabric === 'memory') return [];
  const ids = hosting.deployment.executors.map(({ id }) => id);
  return seatsOf(hosting).flatMap(({ thread }, seat) =>
    ids
      .filter((target) => maySit(seat, target, hosting))
      .flatMap((target) => ids.filter((source) => source !== target).map((source) => ({ thread, source, target, queue: new QueuePair().buffer, deadline_ms }))),
  );
}

/** With spares any worker may come to sit on any seat. */
const maySit = (seat: number, executor: number, { deployment, worker_of_npu, spare_workers }: Hosting): boolean =>
  spare_workers > 0 || deployment.npus.some(({ id, executor: of }) => of === executor && worker_of_npu[id] === seat);

export type KvNetworkOptions = {
  readonly hosting: Hosting;
  readonly control: ControlPage;
  /** The epoch of the thread whose lines these are, as it knows it. */
  readonly owner: number;
  readonly now_ms: () => number;
};

/** What a worker's links between executors are made of; null: they share a memory. */
export function kvNetworkOf(lines: readonly KvLine[], { hosting, control, owner, now_ms }: KvNetworkOptions): LinkClusterOptions['network'] {
  if (lines.length === 0) return null;
  const card = networkThreadOf(hosting);
  const ring = (): void => void control.ring(card);
  const last = new Map<KvLine, SocketBackend>();
  return (source, target) => {
    const line = lines.find((one) => one.source === source.executor && one.target === target.executor);
    assert(line, `no queue pair leads from executor ${source.executor} to ${target.executor} here`);
    const backend = new SocketBackend({ queue: new QueuePair(line.queue), owner, ring, now_ms, deadline_ms: line.deadline_ms, before: last.get(line) });
    last.set(line, backend);
    return backend;
  };
}
