/**
 * What a virtual pod is made of, and whom it tells.
 * @module
 */
import type { PlanOptions } from '../flowserve/pod-plan.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import type { Tokenizer } from '../model/tokenizer.ts';
import type { PodToCaller } from '../protocol/caller.ts';
import type { Inspect } from '../trace/inspection-events.ts';
import type { TraceDisk } from '../trace/output-file.ts';
import type { OnProgress } from './build-machine.ts';

export type VirtualOptions = PlanOptions & {
  readonly folder: string;
  readonly seed: number;
  readonly kernels: 'real' | 'hash';
  /** The trace to write, if any. */
  readonly record: string | undefined;
  /** The routing trace to write, if any. */
  readonly record_routing: string | undefined;
  /** False: no prompt is in it. */
  readonly record_prompts: boolean;
};

/** A model's files, read. */
export type OpenModel = { readonly tokenizer: Tokenizer; readonly checkpoint: Checkpoint };

export type VirtualPorts = {
  /** Of whoever opens many pods of it; missing: this one opens it. */
  readonly model?: OpenModel | undefined;
  /** `group`: the DP group that it comes from; −1: none. */
  readonly tell: (message: PodToCaller, group: number) => void;
  readonly onProgress: OnProgress;
  /** Who looks on, if anybody does. */
  readonly inspect?: Inspect | undefined;
  /** What its traces are written on; missing: the machine's. */
  readonly disk?: TraceDisk | undefined;
  /** When it begins, by the clock of the pod whose place it takes. */
  readonly begins_ns?: number | undefined;
};
