/** Entry of the control thread: what Comlink carries. @module */
import { parentPort } from 'node:worker_threads';
import * as Comlink from 'comlink';
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs';
import type { ScaleOptions } from '../flowserve/scale-shapes.ts';
import type { ContextRecord, CreateContextCall, PromptRecord } from '../protocol/caller.ts';
import { assert, type ErrorRecord, toErrorRecord } from '../protocol/errors.ts';
import type { RebalanceReport } from '../protocol/expert-maps.ts';
import type { KvEventPage } from '../protocol/kv-events.ts';
import type { ScaleReport } from '../stats.ts';
import { setAlive, setLoaded, setRunning } from './beginning.ts';
import { Control } from './control.ts';
import type { ControlHandle, ControlOptions, ControlStats, ExpertsReport, OnInspected } from './control-handle.ts';
import type { ProgressReport } from './weights.ts';

/** Comlink keeps of an error its message only; so errors travel as values. */
export type Outcome<Value> = { readonly value: Value } | { readonly error: ErrorRecord };

let control: Control | null = null;

async function attempt<Value>(work: (control: Control) => Value | Promise<Value>): Promise<Outcome<Value>> {
  try {
    assert(control, 'the pod is not created yet');
    return { value: await work(control) };
  } catch (error) {
    return { error: toErrorRecord(error) };
  }
}

const remote = {
  /** `worker_entry`: as a text, since no URL crosses. */
  async create(
    options: ControlOptions,
    onProgress: ((report: ProgressReport) => void) | null,
    onInspected?: OnInspected,
    worker_entry?: string,
  ): Promise<Outcome<ControlHandle>> {
    const { beginning } = options;
    try {
      if (beginning !== undefined) setRunning(beginning);
      control = await Control.create(
        worker_entry === undefined ? options : { ...options, worker_entry: new URL(worker_entry) },
        {
          onProgress: async (report) => {
            if (beginning !== undefined) setLoaded(beginning, report);
            await onProgress?.(report);
          },
          onRepeat: () => {
            if (beginning !== undefined) setAlive(beginning);
          },
        },
        onInspected,
      );
      return { value: control.handle };
    } catch (error) {
      return { error: toErrorRecord(error) };
    }
  },
  tokenize: (prompt: PromptRecord, addSpecialTokens: boolean) => attempt((pod) => pod.tokenize(prompt, addSpecialTokens)),
  detokenize: (ids: readonly number[], skipSpecialTokens: boolean) => attempt((pod) => pod.detokenize(ids, skipSpecialTokens)),
  createContext: (call: CreateContextCall): Promise<Outcome<ContextRecord>> => attempt((pod) => pod.contexts.create(call)),
  listContexts: (cache_salt: string): Promise<Outcome<ContextRecord[]>> => attempt((pod) => pod.contexts.list(cache_salt)),
  deleteContext: (id: string, cache_salt: string): Promise<Outcome<boolean>> => attempt((pod) => pod.contexts.delete(id, cache_salt)),
  kvEvents: (dp_group: number, from: number): Promise<Outcome<KvEventPage>> => attempt((pod) => pod.kvEvents.read(dp_group, from)),
  rebalance: (force: boolean): Promise<Outcome<RebalanceReport[]>> => attempt((pod) => pod.rebalance(force)),
  resetPrefixCache: (): Promise<Outcome<void>> => attempt((pod) => pod.resetPrefixCache()),
  experts: (measure: boolean): Promise<Outcome<ExpertsReport>> => attempt((pod) => pod.experts(measure)),
  scale: (options: ScaleOptions): Promise<Outcome<ScaleReport>> => attempt((pod) => pod.scale.ask(options)),
  stats: (): Promise<Outcome<ControlStats>> => attempt((pod) => pod.stats()),
  close: (): Promise<Outcome<void>> => attempt((pod) => pod.close()),
};

export type ControlRemote = typeof remote;

assert(parentPort, 'the control thread is started by createPod');
Comlink.expose(remote, nodeEndpoint(parentPort));
