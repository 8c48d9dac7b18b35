/**
 * An NPU's ends in the exchanges of its DP domains (dp-domains.ts): of an attention NPU its iterations, of an expert NPU its turns.
 * @module
 */
import type { AddressSpace } from '../fabric/address-space.ts';
import { assert } from '../protocol/errors.ts';
import { createAttentionEnd, createExpertEnd } from '../xccl/a2e.ts';
import { DpDomain } from '../xccl/dp-domain.ts';
import type { Endpoint } from '../xccl/endpoint.ts';
import type { Exchange } from '../xccl/exchange.ts';
import { Iterations } from '../xccl/iterations.ts';
import { laneOf } from '../xccl/lane.ts';
import { ExpertTurns } from '../xccl/turns.ts';
import type { Arithmetic, ExpertArithmetic } from './arithmetic.ts';
import { PEERS_DEADLINE_MS } from './asked-peers.ts';
import type { ExpertRouting } from './expert-routing.ts';
import { ExpertService } from './expert-service.ts';
import { ExpertTimes } from './expert-times.ts';
import type { BatchParts } from './micro-batch.ts';
import { MicroBatches } from './micro-batches.ts';
import { RoundExperts } from './round-experts.ts';
import { RoundLane } from './round-lanes.ts';
import type { ExpertLayout } from './step-layout.ts';
import type { AttentionTurnsPlace, ExchangePlace, ExpertTurnsPlace, MicroBatchPlace } from './turns-layout.ts';

/** What an exchange is made of, in any life of its domain. */
const endOptions = ({ layout, wire }: ExpertArithmetic, { form, domain, rank_of_expert, dispatch, reply, lane }: ExchangePlace, endpoint: Endpoint) => ({
  ...{ form, attention: domain.attention.length, endpoint, kernels: wire, hidden: layout.row_bytes / 4 },
  ...{ rank_of_expert, dispatch, reply, lane: laneOf(lane) },
});

/** `model`: of the NPU's first micro-batch. */
function newIterations(
  model: ExpertArithmetic,
  { batches, rounds, shared }: AttentionTurnsPlace,
  endpoint: Endpoint,
  dieOf: (npu: number) => number,
): Iterations {
  const [first] = batches;
  assert(first, `NPU ${model.layout.npu} has no micro-batches`);
  return new Iterations({
    domain: new DpDomain(endpoint, first.domain, dieOf),
    rounds,
    makeEnds: batches.map((place) => {
      const options = { ...endOptions(model, place, endpoint), collect: place.collect, last: shared?.rank };
      return (life) => createAttentionEnd({ ...options, domain: life });
    }),
    lane: laneOf(first.lane),
    timeout_ms: PEERS_DEADLINE_MS,
  });
}

/** Null: its domain takes no turns, so a step is one batch. `partsOf`: of a step, as a model goes through them. */
export function newMicroBatches(
  model: Arithmetic,
  partsOf: (model: Arithmetic) => BatchParts,
  space: AddressSpace,
  endpoint: Endpoint,
  dieOf: (npu: number) => number,
  routing: ExpertRouting,
): MicroBatches | null {
  const { turns } = model.layout;
  if (turns === null) return null;
  const sharedId = turns.shared?.id ?? null;
  const iterations = newIterations(model, turns, endpoint, dieOf);
  const batches = [model, model.second()].map((one, lane) => ({
    model: one,
    parts: () => partsOf(one),
    experts: new RoundLane(lane, one, iterations, turns.batches[lane] as MicroBatchPlace, sharedId, space, routing, endpoint.surroundings.now_ms),
  }));
  return new MicroBatches(batches, iterations, space);
}

/** Of an expert NPU. */
export function newExpertService(
  model: ExpertArithmetic & { readonly layout: ExpertLayout },
  space: AddressSpace,
  exchange: Exchange,
  dieOf: (npu: number) => number,
): ExpertService {
  const { turns } = model.layout;
  const times = new ExpertTimes();
  return new ExpertService(model, space, exchange, null, turns === null ? null : newExpertTurns(model, turns, space, exchange.endpoint, dieOf, times), times);
}

function newExpertTurns(
  model: ExpertArithmetic,
  { lanes, layers, round }: ExpertTurnsPlace,
  space: AddressSpace,
  endpoint: Endpoint,
  dieOf: (npu: number) => number,
  times: ExpertTimes,
): ExpertTurns {
  const experts = new RoundExperts(model, space, round, times);
  return new ExpertTurns(
    lanes.map((lane) => {
      const options = { ...endOptions(model, lane, endpoint), receive: lane.receive };
      return { domain: new DpDomain(endpoint, lane.domain, dieOf), makeEnd: (life) => createExpertEnd({ ...options, domain: life }) };
    }),
    (end, number) => experts.compute(layers[number % layers.length] as number, end),
  );
}
