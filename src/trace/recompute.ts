/**
 * Computes the kernels of a recorded run again: all of its NPUs on one thread, whatever threads they had.
 * What an NPU's own launches decide is compared (its tokens, their log-probabilities, its errors); loads of experts are counted over all NPUs at a moment
 * that is not recorded, so they are taken as they were.
 * @module
 */

import { speculativeOf } from '../flowserve/drafters/speculative-config.ts';
import { ROUTED } from '../flowserve/experts/routed-steps.ts';
import { KvCopies } from '../flowserve/kv/kv-copies.ts';
import type { NpusHost } from '../flowserve/npus.ts';
import type { PlanOptions } from '../flowserve/pod-plan.ts';
import { openCheckpoint } from '../model/checkpoint.ts';
import { modelDigest } from '../model/model-digest.ts';
import { listModels, resolveModel } from '../model/registry.ts';
import { podOptionsSchema } from '../options/options.ts';
import { buildMachine, type Machine, type OnProgress } from '../platform/build-machine.ts';
import { MachineNpus } from '../platform/machine.ts';
import { routingHeaderOf } from '../platform/recording.ts';
import { type Address, address } from '../protocol/address.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Work } from '../protocol/messages.ts';
import { numericsOf } from '../protocol/numerics.ts';
import { parseTopology } from '../protocol/topology.ts';
import type { Transfer, TransferMessage } from '../protocol/transfers.ts';
import { Directory } from '../runtime/directory.ts';
import { KvAgain } from './kv-again.ts';
import type { Computed, Recompute } from './replay.ts';
import { promptsOf, type RunHeader } from './run-header.ts';
import { TraceWriter } from './trace-writer.ts';

/** Where weights lie changes no bit: here they are everywhere. */
const RECOMPUTED: ReadonlySet<Work['kind']> = new Set<Work['kind']>(['step', 'release-slots', 'reset']);

export class KernelRecomputation implements Recompute {
  readonly #npus: MachineNpus;
  readonly #kv: KvAgain;
  readonly #copies: KvCopies;
  /** NPUs with blocks that nobody knows: the trace has not what was lent to them. */
  readonly #unknown = new Set<Address>();
  /** NPUs that have lived before, on a thread that was lost. */
  readonly #lived = new Set<Address>();
  #computed: Computed[] = [];
  #time_us = 0;
  readonly #routing: TraceWriter | null;

  /**
   * `model`: a shipped model's name or a folder; missing: the name in the header. `record_routing`: a file for what its gates choose again.
   * @throws `invalid_request` (param `model`) when there is no such model, or it is not the one of the run, (param `compute`) when the trace holds no prompts; `out_of_memory`; `trace_not_written`
   */
  static async create(
    header: RunHeader,
    model: string | undefined,
    onProgress: OnProgress = async () => {},
    record_routing?: string,
  ): Promise<KernelRecomputation> {
    if (promptsOf(header) === 'redacted')
      throw new MinipodError('invalid_request', 'the prompts were left out of the trace, so its kernels have nothing to compute from', { param: 'compute' });
    using checkpoint = openCheckpoint(folderOf(header, model));
    const digest = modelDigest(checkpoint);
    if (digest !== header.model.digest)
      throw wrongModel(`${checkpoint.folder} is not the model of the run: its digest is ${short(digest)}, in the trace it is ${short(header.model.digest)}`);
    const { kv_blocks, dram_blocks, kv_block_size, max_batch_tokens, max_batch_requests, max_queued, job_executors, speculative_config, average_routing } =
      header.options;
    const options: PlanOptions = {
      ...{ kv_blocks, dram_blocks, kv_block_size, max_batch_tokens, max_batch_requests, max_queued, job_executors },
      ...numericsOf(header.options),
      ...(average_routing === true && { average_routing }),
      ...(header.options.hash_foreseeable !== undefined && { hash_foreseeable: header.options.hash_foreseeable }),
      ...(speculative_config !== undefined && { speculative: speculativeOf(speculative_config) }),
      topology: parseTopology(header.topology),
      records_routing: record_routing !== undefined,
      workers: header.workers,
      spare_workers: 0,
      segment_bytes: SEGMENT_BYTES,
      memory_bytes: undefined,
      // Which blocks are shared is in the steps that the trace holds.
      prefix_caching: true,
      // Nobody plans here.
      async_scheduling: false,
      enforce_eager: false,
      scheduling_policy: 'fcfs',
      load_balancing: 'auto',
      long_prompt_groups: 0,
      long_prompt_tokens: 1,
      kv_transfer: 'request',
      // What memory did in the run is in the trace, and what it does here is nobody's affair.
      kv_checks: 'off',
      row_checks: 'off',
    };
    const machine = await buildMachine(checkpoint, header.kernels, options, onProgress);
    const routing = record_routing === undefined ? null : TraceWriter.create(record_routing, routingHeaderOf(header, { checkpoint, plan: machine.plan }));
    return new KernelRecomputation(machine, routing);
  }

  private constructor(machine: Machine, routing: TraceWriter | null) {
    this.#routing = routing;
    const directory = new Directory(machine.plan.hosting);
    this.#kv = new KvAgain(machine, directory);
    this.#copies = new KvCopies({ ...machine, directory }, new Map(), () => null);
    const host: NpusHost = {
      spawn: () => {},
      send: () => {},
      tellTransfer: () => {},
      complete: (npu, message) => {
        if (message.type !== 'SERVED_DISPATCHES') this.#computed.push({ npu, message });
      },
    };
    const onRouted = routing === null ? undefined : (words: Int32Array, bytes: number): void => this.#keepRouting(words, bytes, routing);
    this.#npus = new MachineNpus(machine, directory, { host, now_ms: () => this.#time_us / 1000, onRouted });
  }

  at(time_us: number): void {
    this.#time_us = time_us;
  }

  /** `isWhole`: nothing is missing of the run; else its routing has no end mark. */
  closeRouting(isWhole: boolean): void {
    if (isWhole) this.#routing?.close();
    else this.#routing?.[Symbol.dispose]();
  }

  /** What is computed from blocks that nobody knows was not routed so. */
  #keepRouting(words: Int32Array, bytes: number, routing: TraceWriter): void {
    if (!this.#unknown.has(address('npu', words[ROUTED.npu] as number))) routing.append(new Uint8Array(words.buffer, 0, bytes));
  }

  begin(npu: Address): void {
    if (this.#lived.has(npu)) this.launch(npu, { kind: 'reset' });
    this.#unknown.delete(npu);
    this.#lived.add(npu);
  }

  launch(npu: Address, work: Work): readonly Computed[] {
    this.#computed = [];
    if (RECOMPUTED.has(work.kind)) this.#npus.launch([{ npu, work, cause: 0 }]);
    return work.kind === 'step' ? this.#computed.filter((computed) => !this.#unknown.has(computed.npu)) : [];
  }

  transfer(group: Address, work: Transfer): void {
    if (work.kind === 'pull') this.#kv.pull(group, work);
    else if (work.kind === 'offer') this.#kv.offer(group, work);
    else if ('from' in work) this.#copies.perform(this.#kv.npusOf(group), work);
  }

  heard(group: Address, message: TransferMessage): void {
    if (this.#kv.hear(group, message)) return;
    for (const npu of this.#kv.npusOf(group)) this.#unknown.add(address('npu', npu));
  }
}

const SEGMENT_BYTES = podOptionsSchema.shape.segment_bytes.parse(undefined);

function folderOf({ model: { name } }: RunHeader, model: string | undefined): string {
  if (model !== undefined) return resolveModel(model);
  if (listModels().includes(name)) return resolveModel(name);
  throw wrongModel(`the run's model ${name} is not shipped with minipod: say where it is (--model DIR), or leave out its kernels (--no-compute)`);
}

const wrongModel = (message: string): MinipodError => new MinipodError('invalid_request', message, { param: 'model' });

const short = (digest: string): string => `${digest.slice(0, 12)}…`;
