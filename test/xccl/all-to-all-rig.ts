/** Ranks that dispatch and combine for some rounds, each on its own, against the plain sum. */
import { AllToAll } from '../../src/xccl/all-to-all.ts';
import type { Domain } from '../../src/xccl/domain.ts';
import type { Endpoint } from '../../src/xccl/endpoint.ts';
import type { Operation } from '../../src/xccl/operation.ts';
import { WIRE_FORMATS, type WireFormat, type WireKernels } from '../../src/xccl/wire-format.ts';
import {
  type Batch,
  computeReceived,
  type Desk,
  type Desks,
  expectedSum,
  floatsAt,
  inTurn,
  layBatch,
  makeBatch,
  type Shape,
  sameBits,
} from './exchange-rig.ts';
import { numbers } from './rig.ts';

export const TIMEOUT_MS = 1_000;

/** Each rank chooses its formats round by round. */
export function formatsOf(seed: number, rank: number, round: number): { there: WireFormat; back: WireFormat } {
  const next = numbers(seed + rank * 31 + round * 1_009);
  next();
  const pick = (): WireFormat => WIRE_FORMATS[Math.floor(next() * WIRE_FORMATS.length)] as WireFormat;
  return { there: pick(), back: pick() };
}

export type Place = { readonly endpoint: Endpoint; readonly domain: Domain; readonly kernels: WireKernels; readonly desk: Desk };

export const placeOf = (desks: Desks, die: number, domain = desks.domain): Place => ({
  endpoint: desks.endpoints[die] as Endpoint,
  domain,
  kernels: desks.kernelsOf(die),
  desk: desks.desks[die] as Desk,
});

export function makeAllToAll({ endpoint, domain, kernels, desk }: Place, shape: Shape): AllToAll {
  const { dispatch_bytes, reply_bytes } = endpoint.areas;
  return new AllToAll({
    endpoint,
    domain,
    kernels,
    hidden: shape.hidden,
    rank_of_expert: shape.rank_of_expert,
    dispatch: { offset: 0, bytes: dispatch_bytes },
    reply: { offset: 0, bytes: reply_bytes },
    collect: desk.collect,
    receive: desk.receive,
  });
}

/** Some rounds of one rank; answers are computed where they need not be copied, every other round. */
export function allToAllRounds(place: Place, shape: Shape, seed: number, rounds: number, timeout_ms = TIMEOUT_MS): Operation {
  const exchange = makeAllToAll(place, shape);
  const { endpoint, domain, desk } = place;
  const { space } = endpoint;
  const rank = domain.dies.indexOf(endpoint.die);
  const steps = Array.from({ length: rounds }, (_, round) => {
    const { there, back } = formatsOf(seed, rank, round);
    let batch: Batch;
    return [
      () => {
        batch = makeBatch(shape, seed, rank, round);
        layBatch(space, desk, batch);
        return exchange.dispatch({
          tokens: batch.tokens,
          rows: desk.rows,
          experts: desk.experts,
          weights: desk.weights,
          format: there,
          timeout_ms,
        });
      },
      () => {
        const rows = round % 2 === 0 ? exchange.reply_rows : desk.answers;
        // A block in the reply area may be narrower than what is computed: only f32 may be computed there.
        const answers = back === 'f32' ? rows : desk.answers;
        computeReceived(space, exchange.received, answers);
        return exchange.combine({ rows: answers, format: back, into: desk.into, shared: batch.shared === null ? 0 : desk.shared, timeout_ms });
      },
      () => {
        const backOf = (expert: number): WireFormat => formatsOf(seed, shape.rank_of_expert[expert] as number, round).back;
        sameBits(floatsAt(space, desk.into, batch.residual.length), expectedSum(shape, batch, there, backOf), `rank ${rank} in round ${round}`);
        return { poll: () => ({ state: 'done' as const }) };
      },
    ];
  });
  return inTurn(steps.flat());
}

/** A shape for `ranks` colocated ranks. */
export function colocated(ranks: number, hidden: number, top_k: number, tokens_max: number, experts: number, seed: number): Shape {
  const next = numbers(seed);
  next();
  const rank_of_expert = Array.from({ length: experts }, () => Math.floor(next() * ranks));
  return { sources: ranks, destinations: ranks, hidden, top_k, tokens_max, rank_of_expert };
}
