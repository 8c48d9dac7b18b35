/**
 * vLLM's `kv_transfer_params`. There, whoever asks two servers in turn, one for prefill and one for decode, hands the KV's whereabouts from one to the other by
 * it. Here the pod disaggregates by itself (its topology says how), so there is nothing to hand on: a request that asks for half of the work is refused, and
 * one that asks with both halves off is told where its KV was made and where it went. There, what an answer says of the halves is what the next server is to be
 * asked for: so here they are false always, whatever the pod did inside.
 * @module
 */
import type { ChoiceTimes } from '../results.ts';
import { ApiError } from './errors.ts';
import type { Generations } from './generations.ts';

const HALVES = ['do_remote_decode', 'do_remote_prefill'] as const;

export type KvTransferParams = Readonly<Record<string, unknown>> | undefined;

/** @throws 400 for half a request */
export function refuseHalves(params: KvTransferParams): void {
  for (const half of HALVES)
    if (params?.[half] !== undefined && params[half] !== null && params[half] !== false)
      throw new ApiError(
        400,
        `kv_transfer_params.${half}: this server prefills and decodes by itself (serve --topology pd:…), and hands no KV to another; leave it out or false.`,
        { param: `kv_transfer_params.${half}`, code: 'unsupported_parameter' },
      );
}

/** Of a whole answer, one entry for each choice that was generated (with `best_of` more than are returned); nothing where the request did not ask. */
export function kvTransferOf(params: KvTransferParams, generations: Generations): { kv_transfer_params?: object } {
  if (params === undefined) return {};
  const where = ({ prefill_group, decode_group }: ChoiceTimes, index: number) => ({
    index,
    prefill_engine: prefill_group,
    decode_engine: decode_group,
  });
  return { kv_transfer_params: { do_remote_decode: false, do_remote_prefill: false, choices: generations.choices().map(where) } };
}
