/**
 * Contexts from the caller's side, whatever the pod's clock: asked for, computed once in each DP group in which requests begin, and described.
 * @module
 */
import { promptRecord } from '../calls/call.ts';
import type { Calls } from '../calls/calls.ts';
import { collect } from '../calls/generation.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { type ContextOptions, contextOptionsSchema } from '../options/context-options.ts';
import { checkOptions, generateOptionsSchema, parseOptions } from '../options/options.ts';
import type { ContextRecord, CreateContextCall } from '../protocol/caller.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Prompt } from '../protocol/prompt.ts';
import { firstGroups } from '../protocol/topology.ts';
import type { ContextInfo } from '../results.ts';

const MS_PER_S = 1_000;

export type ContextsRemote = {
  readonly create: (call: CreateContextCall) => Promise<ContextRecord>;
  readonly delete: (id: string, cache_salt: string) => Promise<boolean>;
};

/** `origin_ms`: Unix time at which the pod's clock began. */
export const contextInfo = ({ id, token_count, created_ms, over_ms }: ContextRecord, origin_ms: number): ContextInfo => ({
  id,
  tokens: token_count,
  created: (origin_ms + created_ms) / MS_PER_S,
  expires: over_ms < 0 ? null : (origin_ms + over_ms) / MS_PER_S,
});

/** @throws as `Pod.createContext` does; then nothing is kept */
export async function createContext(
  prompt: Prompt,
  options: ContextOptions,
  calls: Calls,
  { hosting, options: { max_queued } }: Pick<AnyPodPlan, 'hosting' | 'options'>,
  remote: ContextsRemote,
): Promise<ContextRecord> {
  checkOptions(options, 'createContext');
  const { signal, ...rest } = options;
  const { id = '', expires_s, cache_salt, add_special_tokens } = parseOptions(contextOptionsSchema, rest, 'createContext');
  const expires_ms = expires_s === undefined ? -1 : expires_s * MS_PER_S;
  const context = await remote.create({ id, prompt: promptRecord(prompt), add_special_tokens, cache_salt, expires_ms });
  const compute = async (data_parallel_rank: number): Promise<void> => {
    const once = { max_tokens: 1, temperature: 0, ignore_eos: true, context_id: context.id, cache_salt, data_parallel_rank };
    await collect(calls.submit([], parseOptions(generateOptionsSchema, once, 'createContext'), signal), '', 1);
  };
  try {
    const groups = firstGroups(hosting.deployment);
    // More at once than the pod takes in would be refused, whoever else is there.
    for (let at = 0; at < groups.length; at += max_queued) await Promise.all(groups.slice(at, at + max_queued).map(compute));
  } catch (error) {
    // Gone by itself, or by its owner: by now the id may be another context's.
    if (error instanceof MinipodError && error.code === 'context_not_found') throw goneTooSoon(context.id, expires_s, error);
    await remote.delete(context.id, cache_salt);
    throw error;
  }
  return context;
}

function goneTooSoon(id: string, expires_s: number | undefined, cause: MinipodError): MinipodError {
  const why = expires_s === undefined ? 'deleted' : `deleted, or over after its ${expires_s} s`;
  return new MinipodError('context_not_found', `id: context '${id}' was ${why}, before its prompt was computed`, { param: 'id', cause });
}
