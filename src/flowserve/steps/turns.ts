/**
 * An NPU's ends in the exchanges of its DP domains (dp-domains.ts): of an attention NPU its iterations, of an expert NPU its turns.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import { assert } from '../../protocol/errors.ts';
import { createAttentionEnd, createExpertEnd } from '../../xccl/a2e.ts';
import { DpDomain, type DpDomainLife } from '../../xccl/dp-domain.ts';
import type { Exchange } from '../../xccl/exchange.ts';
import { Iterations } from '../../xccl/iterations.ts';
import { laneOf } from '../../xccl/lane.ts';
import { ExpertTurns } from '../../xccl/turns.ts';
import type { ExpertRouting } from '../experts/expert-routing.ts';
import { ExpertService } from '../experts/expert-service.ts';
import { ExpertTimes } from '../experts/expert-times.ts';
import { RoundExperts } from '../experts/round-experts.ts';
import type { Arithmetic, ExpertArithmetic } from '../forward/arithmetic.ts';
import { formOf } from '../layouts/dp-domains.ts';
import type { ExpertLayout } from '../layouts/step-layout.ts';
import type { AttentionTurnsPlace, ExchangePlace, ExpertTurnsPlace, MicroBatchPlace } from '../layouts/turns-layout.ts';
import { PEERS_DEADLINE_MS } from './asked-peers.ts';
import type { BatchParts } from './micro-batch.ts';
import { MicroBatches } from './micro-batches.ts';
import { RoundLane, sharedIn } from './round-lanes.ts';

/** What an exchange is made of in a life of its domain. */
const endOptions = ({ layout, wire }: ExpertArithmetic, { rank_of_expert, dispatch, reply, lane }: ExchangePlace, exchange: Exchange, life: DpDomainLife) => ({
  ...{
    form: formOf(life),
    attention: life.attention,
    domain: life,
    endpoint: exchange.endpoint,
    checks: exchange.checks,
    kernels: wire,
    hidden: layout.row_bytes / 4,
  },
  ...{ rank_of_expert: rank_of_expert.map((rank) => life.rankOfExpert[rank] as number), dispatch, reply, lane: laneOf(lane) },
});

/** `model`: of the NPU's first micro-batch. */
function newIterations(
  model: ExpertArithmetic,
  { batches, rounds, shared }: AttentionTurnsPlace,
  exchange: Exchange,
  dieOf: (npu: number) => number,
  lost: ReadonlySet<number>,
): Iterations {
  const [first] = batches;
  assert(first, `NPU ${model.layout.npu} has no micro-batches`);
  return new Iterations({
    domain: new DpDomain(exchange.endpoint, first.domain, dieOf, lost),
    rounds,
    makeEnds: batches.map((place) => (life) => {
      const holder = sharedIn(shared, life);
      const last = holder === undefined ? undefined : life.rankOfExpert[holder.rank];
      return createAttentionEnd({ ...endOptions(model, place, exchange, life), collect: place.collect, last });
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
  exchange: Exchange,
  dieOf: (npu: number) => number,
  routing: ExpertRouting,
  lost: ReadonlySet<number>,
): MicroBatches | null {
  const { turns } = model.layout;
  if (turns === null) return null;
  const { shared } = turns;
  const { now_ms } = exchange.endpoint.surroundings;
  const iterations = newIterations(model, turns, exchange, dieOf, lost);
  const batches = [model, model.second()].map((one, lane) => ({
    model: one,
    parts: () => partsOf(one),
    experts: new RoundLane({ lane, model: one, iterations, place: turns.batches[lane] as MicroBatchPlace, shared, space, routing, lost, now_ms }),
  }));
  return new MicroBatches(batches, iterations, space);
}

/** Of an expert NPU. */
export function newExpertService(
  model: ExpertArithmetic & { readonly layout: ExpertLayout },
  space: AddressSpace,
  exchange: Exchange,
  dieOf: (npu: number) => number,
  lost: ReadonlySet<number> = new Set(),
): ExpertService {
  const { turns } = model.layout;
  const times = new ExpertTimes();
  const ofTurns = turns === null ? null : newExpertTurns(model, turns, space, exchange, dieOf, lost, times);
  return new ExpertService(model, space, exchange, null, ofTurns, times);
}

function newExpertTurns(
  model: ExpertArithmetic,
  { lanes, layers, round }: ExpertTurnsPlace,
  space: AddressSpace,
  exchange: Exchange,
  dieOf: (npu: number) => number,
  lost: ReadonlySet<number>,
  times: ExpertTimes,
): ExpertTurns {
  const experts = new RoundExperts(model, space, round, times);
  return new ExpertTurns(
    lanes.map((lane) => ({
      domain: new DpDomain(exchange.endpoint, lane.domain, dieOf, lost),
      makeEnd: (life) => createExpertEnd({ ...endOptions(model, lane, exchange, life), receive: lane.receive }),
    })),
    (end, number) => experts.compute(layers[number % layers.length] as number, end),
  );
}
