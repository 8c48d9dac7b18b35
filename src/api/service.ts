/** What every route works with. @module */
import type { ReasoningParserName, ToolCallParserName } from '../flowserve/frontend/parsers/formats.ts';
import type { Pod } from '../pod.ts';
import type { Admission } from './admission.ts';
import type { Clock } from './clock.ts';
import { ApiError } from './errors.ts';
import type { HiddenTokens } from './hidden-tokens.ts';
import type { Metrics } from './metrics.ts';
import type { TraceParent, Traces } from './traces.ts';

export type Env = { Variables: { request_id: string } };

/** One HTTP request that generates. */
export type Call = {
  readonly request_id: string;
  readonly parent: TraceParent | null;
  /** vLLM's X-data-parallel-rank header: the DP group that is to generate. */
  readonly data_parallel_rank: number | undefined;
};

export type Service = {
  readonly pod: Pod;
  readonly clock: Clock;
  readonly metrics: Metrics;
  /** Null: no spans are wanted. */
  readonly traces: Traces | null;
  readonly admission: Admission;
  readonly hidden: HiddenTokens;
  readonly body_limit_bytes: number;
  /** Whoever gets so far may change the pod's shape. */
  readonly admin_open: boolean;
  /** How replies of chats are parsed; null: they are not. */
  readonly reasoning_parser: ReasoningParserName | null;
  readonly tool_call_parser: ToolCallParserName | null;
  /** Hears of every failure that is not the caller's fault. */
  readonly onError: (error: unknown, request_id: string) => void;
};

/** A request may leave the model out (as in vLLM), but not name another. */
export function checkModel(service: Service, model: string | undefined): void {
  const served = service.pod.model.name;
  if (model === undefined || model === served) return;
  const named = JSON.stringify(model.length > 200 ? `${model.slice(0, 200)}…` : model);
  throw new ApiError(404, `The model ${named} does not exist here; this server serves ${JSON.stringify(served)}.`, {
    param: 'model',
    code: 'model_not_found',
  });
}
