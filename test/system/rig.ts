/** A pod whose control plane runs on the test's own thread, so that the test can reach into its memory and break it. */
import type { Worker } from 'node:worker_threads';
import { releaseProxy } from 'comlink';
import { bundleOf } from '../../scripts/bundle-names.ts';
import { offsetOf } from '../../src/fabric/address.ts';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import type { PodPlan } from '../../src/flowserve/pod-plan.ts';
import type { ScaleOptions } from '../../src/flowserve/scale-shapes.ts';
import { resolveModel } from '../../src/model/registry.ts';
import { jobExecutorsOf, type PodOptions, parseOptions, podOptionsSchema } from '../../src/options/options.ts';
import { topologyOf } from '../../src/options/topology-options.ts';
import { Control } from '../../src/platform/control.ts';
import type { ControlOptions } from '../../src/platform/control-handle.ts';
import { LivePod } from '../../src/pod/live-pod.ts';
import { toErrorRecord } from '../../src/protocol/errors.ts';
import { monotonicClock } from '../../src/runtime/clock.ts';
import { CONTROL_THREAD } from '../../src/runtime/directory.ts';
import { LiveInspection } from '../../src/trace/live-inspection.ts';
import { RogueOrder } from './rogue-order.ts';

export type Rig = AsyncDisposable & {
  readonly pod: LivePod;
  readonly plan: PodPlan;
  readonly space: AddressSpace;
  /** Its next attention reads far outside of memory: the kernel traps. */
  readonly poisonBlockTables: (npu: number) => void;
  /**
   * What follows on its ring from the control thread is rubbish: the thread dies of it, and is dead when this returns. Until then this thread, which is the
   * control thread, does nothing else: the next message that it sent would lie where the rubbish does, and a worker that had not looked yet would live on.
   */
  readonly killWorker: (worker: number) => void;
  /** The worker reads neither rings nor stop word for so long, and scribbles over all that it may write (rogue-worker.ts). */
  readonly goRogue: (worker: number, duration_ms: number) => void;
  readonly control: Control;
  /** Actors of the control thread. */
  readonly actors: () => Promise<number>;
};

const FAR_OUTSIDE = 0x7fff_ff00;
/** It dies at its next look at its rings: after a step at most. */
const DEATH_DEADLINE_MS = 10_000;

/** What its threads run instead of the shipped entries. */
export type Misbehaving = Pick<ControlOptions, 'worker_entry' | 'card_entry' | 'card_deadline_ms'> & {
  /** Given up while the caller has not taken its rings yet. */
  readonly lost_at_start?: number;
};

const bundles = process.env['MINIPOD_BUNDLES'];
/** On Deno nobody puts a bundle in its place where a test's own thread opens the rig (bundled-threads.ts). */
const SHIPPED: Misbehaving = bundles === undefined ? {} : { worker_entry: new URL(bundleOf('src/platform/npu-worker-thread'), bundles) };
/** Its workers go rogue when they are told to. */
export const ROGUE: Misbehaving = {
  worker_entry: bundles === undefined ? new URL('rogue-worker.ts', import.meta.url) : new URL(bundleOf('test/system/rogue-worker'), bundles),
};

export async function openRig(options: PodOptions, { lost_at_start, ...misbehaving }: Misbehaving = {}): Promise<Rig> {
  const { inspect, ...rest } = options;
  const resolved = parseOptions(podOptionsSchema, rest, 'rig');
  const { model, npus: _, data_parallel_size: _size, kv_blocks, memory_bytes, ...numbers } = resolved;
  const origin_ms = performance.timeOrigin + performance.now();
  const inspection = inspect === undefined ? null : new LiveInspection(inspect, origin_ms);
  const control = await Control.create(
    {
      ...numbers,
      topology: topologyOf(resolved),
      job_executors: jobExecutorsOf(resolved),
      kv_blocks,
      memory_bytes,
      folder: resolveModel(model),
      origin_ms,
      inspected: inspection?.state,
      ...SHIPPED,
      ...misbehaving,
    },
    { onProgress: async () => {} },
    (ring) => inspection?.add(ring),
  );
  if (lost_at_start !== undefined) control.giveUp(lost_at_start, 'the test wants it so');
  const { handle } = control;
  const { plan, memories } = handle;
  const remote = {
    stats: async () => ({ value: await control.stats() }),
    scale: async (options: ScaleOptions) => {
      try {
        return { value: await control.scale.ask(options) };
      } catch (error) {
        return { error: toErrorRecord(error) };
      }
    },
    experts: async (measure: boolean) => ({ value: await control.experts(measure) }),
    close: async () => ({ value: await control.close() }),
    [releaseProxy]: () => {},
  };
  const thread = { terminate: async () => 0 };
  const pod = new LivePod(
    { handle, thread: thread as unknown as Worker, remote: remote as never, died: new Promise<never>(() => {}) },
    monotonicClock(origin_ms),
    { lives: null, close: async () => inspection?.close() },
  );
  const space = new AddressSpace(memories, plan.memory.regions);
  const first = memories[0] as WebAssembly.Memory;
  const words = new Int32Array(first.buffer);
  return {
    pod,
    plan,
    space,
    poisonBlockTables(npu) {
      const layout = plan.layouts[npu];
      if (layout?.kind !== 'attention') throw new Error(`NPU ${npu} has no block tables`);
      const { blockTables } = layout;
      const at = offsetOf(blockTables.address) / 4;
      space.wordsOf(blockTables.address).fill(FAR_OUTSIDE, at, at + plan.options.max_batch_requests * blockTables.blocks_max);
    },
    killWorker(worker) {
      const thread = control.directory.threadOfWorker(worker);
      const ring = plan.rings.find(({ from, to, lane }) => from === CONTROL_THREAD && to === thread && lane === 'data');
      if (ring === undefined) throw new Error(`no ring to worker ${worker}`);
      if (space.control.hasAcknowledged(thread)) throw new Error(`worker ${worker} is dead already`);
      const head = Atomics.load(words, ring.offset / 4);
      // A frame of a sequence number that nobody sent.
      words.set([1, 0, 0, 0x7fff_ffff, 0, 0, 8, 0, 0, 0], (ring.offset + 256 + (head & (ring.capacity - 1))) / 4);
      Atomics.store(words, ring.offset / 4, head + 40);
      space.control.ring(thread);
      for (const deadline = Date.now() + DEATH_DEADLINE_MS; !space.control.hasAcknowledged(thread); space.control.nap(CONTROL_THREAD, 1))
        if (Date.now() > deadline) throw new Error(`worker ${worker} has not read its rubbish in ${DEATH_DEADLINE_MS / 1000} s`);
    },
    goRogue: (worker, duration_ms) => new RogueOrder(space).give(control.directory.threadOfWorker(worker), duration_ms),
    control,
    actors: async () => (await control.stats()).actors,
    [Symbol.asyncDispose]: () => pod.close(),
  };
}
