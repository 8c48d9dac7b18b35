/** With what a worker begins. @module */
import type { Address } from '../protocol/address.ts';
import type { Message } from '../protocol/messages.ts';
import type { Birth } from '../runtime/cast.ts';
import type { Seating } from '../runtime/directory.ts';
import type { KvLine } from './kv/kv-network.ts';
import type { ExpertNpuLayout } from './layouts/expert-layout.ts';
import type { NpuLayout } from './layouts/npu-layout.ts';
import type { PodPlan } from './pod-plan.ts';

export type WorkerData = {
  readonly plan: PodPlan;
  readonly worker: number;
  /** Of the worker, from 1. */
  readonly life: number;
  readonly seating: Seating;
  /** Threads whose rings nobody may touch now. */
  readonly lost: readonly number[];
  /** By thread: the epochs when this thread was started. Its own raised since, it was given up before it began; a peer's, that one was. */
  readonly epochs: readonly number[];
  /** The same of its dies, in the order of `layouts`. */
  readonly die_epochs: readonly number[];
  /** Of this worker's NPUs, in order, on the dies that they have now. */
  readonly layouts: readonly (NpuLayout | ExpertNpuLayout)[];
  /** Of this thread's seat: what its task executors pull by, where they share no memory. */
  readonly kv_lines: readonly KvLine[];
  readonly memories: readonly WebAssembly.Memory[];
  readonly module: WebAssembly.Module;
  /** Of the checkpoint. */
  readonly folder: string;
  readonly origin_ms: number;
  readonly protocol: number;
  /** What it does is recorded. */
  readonly isTraced: boolean;
};

/** What lives on workers but is not of the engine: how it comes to life. */
export type Controllers = {
  readonly birthOf: (to: Address, message: Message) => Birth | null;
  readonly birthOfController: (self: Address, plan: PodPlan, life: number) => Birth;
};
