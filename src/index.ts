/**
 * minipod: a SuperPod in one process.
 *
 * @example
 * ```ts
 * import { createPod } from 'minipod';
 *
 * await using pod = await createPod({ npus: 2, workers: 2 });
 * for await (const chunk of pod.generate('Once upon a time', { max_tokens: 64, seed: 7 })) {
 *   process.stdout.write(chunk.text);
 * }
 * ```
 * @module
 */
import type { Divergence, DivergenceOptions } from './fidelity/divergence.ts';
import type { Perplexity, PerplexityOptions } from './fidelity/perplexity.ts';
import type { PodOptions } from './options/options.ts';
import { checkOptions } from './options/options.ts';
import { createLivePod } from './pod/live-pod.ts';
import type { Pod } from './pod.ts';
import type { Quantized, QuantizeOptions } from './quantize/quantize-model.ts';

/**
 * Starts a pod: memory, model, and threads, unless its clock is virtual.
 * @throws MinipodError: `invalid_request` for options, `invalid_checkpoint` naming file and tensor, `out_of_memory` with the sum.
 */
export async function createPod(options: PodOptions = {}): Promise<Pod> {
  checkOptions(options, 'createPod');
  if (options.clock !== 'virtual') return createLivePod(options);
  // It brings a whole pod onto this thread, which is not loaded for those that have threads of their own.
  const { createVirtualPod } = await import('./pod/virtual-pod.ts');
  return createVirtualPod(options);
}

/**
 * How well the model that a pod serves foresees a text.
 * @throws MinipodError: `invalid_request` for a text, window or stride that cannot be, and as `pod.complete` does
 */
export async function perplexityOf(pod: Pod, options: PerplexityOptions): Promise<Perplexity> {
  return (await import('./fidelity/perplexity.ts')).perplexityOf(pod, options);
}

/**
 * How far a model's predictions are from another's, computed side by side on this thread.
 * @throws MinipodError: `invalid_request` for models that do not read the same tokens, `cancelled` when its signal is aborted
 */
export async function divergenceOf(options: DivergenceOptions): Promise<Divergence> {
  return (await import('./fidelity/divergence.ts')).divergenceOf(options);
}

/**
 * Makes an INT8 checkpoint of a model (xDeepServe §4.7), calibrated on a text.
 * @throws MinipodError: `invalid_request` where the folder is there already or the text leaves an expert with too few tokens, `invalid_checkpoint`, `cancelled`
 */
export async function quantizeModel(options: QuantizeOptions): Promise<Quantized> {
  return (await import('./quantize/quantize-model.ts')).quantizeModel(options);
}

export type { Divergence, DivergenceOptions, LayerError, WorstToken } from './fidelity/divergence.ts';
export type { Perplexity, PerplexityOptions } from './fidelity/perplexity.ts';
export type { ReasoningParserName, ToolCallParserName } from './flowserve/frontend/parsers/formats.ts';
export { ReplyParser, type ReplyParserOptions } from './flowserve/frontend/parsers/reply-parser.ts';
export type { ReplyPart } from './flowserve/frontend/parsers/reply-part.ts';
export { listModels } from './model/registry.ts';
export type { ContextOptions, ContextsOf } from './options/context-options.ts';
export type { GenerateOptions, LoadProgress, PodOptions } from './options/options.ts';
export type { ModelInfo, Pod } from './pod.ts';
export { type ErrorCode, MinipodError } from './protocol/errors.ts';
export type { KvEvent, KvEventBatch, KvEventPage } from './protocol/kv-events.ts';
export type { ChatMessage, Conversation, Prompt, ToolCall } from './protocol/prompt.ts';
export type { Quantized, QuantizeOptions } from './quantize/quantize-model.ts';
export type {
  ChoiceTimes,
  Chunk,
  Completion,
  CompletionChoice,
  ContextInfo,
  DraftUsage,
  FinishReason,
  Generation,
  ParsedReply,
  PromptInfo,
  RequestTimes,
  TokenLogprob,
  Usage,
} from './results.ts';
export type {
  DpGroupStats,
  ExecutorExperts,
  ExpertLayerStats,
  ExpertMoved,
  ExpertReplicaStats,
  ExpertServiceTimes,
  ExpertStats,
  LayerRebalance,
  LinkStats,
  NpuStats,
  PodExperts,
  PodStats,
  RegionStats,
  ScaleReport,
  ScalingStats,
  ServingStats,
  TaskExecutorStats,
  ThreadStats,
} from './stats.ts';
export { inspectTrace } from './trace/inspect-trace.ts';
export type { InspectionEvent } from './trace/inspection-events.ts';
export type { RoutedSpan, RoutedStep } from './trace/routing-record.ts';
export { type RoutingHeader, type RoutingSteps, RoutingTraceReader, RoutingTraceWriter } from './trace/routing-trace.ts';
