/** Attention ranks and expert ranks that exchange for some rounds, in either form, against the plain sum. */
import { type A2EForm, createAttentionEnd, createExpertEnd } from '../../src/xccl/a2e.ts';
import type { AttentionEnd, ExpertEnd } from '../../src/xccl/ends.ts';
import type { Operation } from '../../src/xccl/operation.ts';
import type { Extent } from '../../src/xccl/parts.ts';
import type { WireFormat } from '../../src/xccl/wire-format.ts';
import { formatsOf, type Place, placeOf } from './all-to-all-rig.ts';
import { type Batch, computeReceived, type Desks, expectedSum, floatsAt, inTurn, layBatch, makeBatch, type Shape, sameBits } from './exchange-rig.ts';
import { numbers } from './rig.ts';

export const TIMEOUT_MS = 1_000;
const DONE: Operation = { poll: () => ({ state: 'done' }) };

export function split(attention: number, experts: number, hidden: number, top_k: number, tokens_max: number, expertIds: number, seed: number): Shape {
  const next = numbers(seed);
  next();
  const rank_of_expert = Array.from({ length: expertIds }, () => Math.floor(next() * experts));
  return { sources: attention, destinations: experts, hidden, top_k, tokens_max, rank_of_expert };
}

const optionsOf = ({ endpoint, domain, kernels, desk, dispatch }: Place & { dispatch?: Extent }, shape: Shape, form: A2EForm) => ({
  ...{ form, attention: shape.sources, endpoint, domain, kernels, hidden: shape.hidden, rank_of_expert: shape.rank_of_expert },
  dispatch: dispatch ?? { offset: 0, bytes: endpoint.areas.dispatch_bytes },
  reply: { offset: 0, bytes: endpoint.areas.reply_bytes },
  ...{ collect: desk.collect, receive: desk.receive },
});

export const makeAttentionEnd = (place: Place, shape: Shape, form: A2EForm): AttentionEnd => createAttentionEnd(optionsOf(place, shape, form));
export const makeExpertEnd = (place: Place & { dispatch?: Extent }, shape: Shape, form: A2EForm): ExpertEnd => createExpertEnd(optionsOf(place, shape, form));

export type Sums = Map<string, Float32Array>;

export function attentionRounds(place: Place, shape: Shape, form: A2EForm, seed: number, rounds: number, sums: Sums, timeout_ms = TIMEOUT_MS): Operation {
  const { endpoint, domain, desk } = place;
  const { space } = endpoint;
  const rank = domain.dies.indexOf(endpoint.die);
  const end = makeAttentionEnd(place, shape, form);
  const steps = Array.from({ length: rounds }, (_, round) => {
    const { there } = formatsOf(seed, rank, round);
    const batch: Batch = makeBatch(shape, seed, rank, round);
    return [
      () => {
        layBatch(space, desk, batch);
        return end.a2e({ tokens: batch.tokens, rows: desk.rows, experts: desk.experts, weights: desk.weights, format: there });
      },
      () => end.e2a({ into: desk.into, shared: batch.shared === null ? 0 : desk.shared, timeout_ms }),
      () => {
        const backOf = (expert: number): WireFormat => formatsOf(seed, shape.sources + (shape.rank_of_expert[expert] as number), round).back;
        const sum = floatsAt(space, desk.into, batch.residual.length).slice();
        sums.set(`${rank} ${round}`, sum);
        sameBits(sum, expectedSum(shape, batch, there, backOf), `rank ${rank} in round ${round}`);
        return DONE;
      },
    ];
  });
  return inTurn(steps.flat());
}

export function expertRounds(place: Place, shape: Shape, form: A2EForm, seed: number, rounds: number, timeout_ms = TIMEOUT_MS): Operation {
  const { endpoint, domain, desk } = place;
  const rank = domain.dies.indexOf(endpoint.die);
  const end = makeExpertEnd(place, shape, form);
  const steps = Array.from({ length: rounds }, (_, round) => {
    const { back } = formatsOf(seed, rank, round);
    return [
      () => end.a2e({ timeout_ms }),
      () => {
        const rows = back === 'f32' && round % 2 === 0 ? end.reply_rows : desk.answers;
        computeReceived(endpoint.space, end.received, rows);
        return end.e2a({ rows, format: back, timeout_ms });
      },
    ];
  });
  return inTurn(steps.flat());
}

export type Exchange = { readonly shape: Shape; readonly form: A2EForm; readonly seed: number; readonly rounds: number; readonly timeout_ms?: number };

/** One program a rank: attention ranks first. */
export function programsOf(
  desks: Desks,
  { shape, form, seed, rounds, timeout_ms = TIMEOUT_MS }: Exchange,
  sums: Sums = new Map(),
  domain = desks.domain,
): Operation[] {
  return domain.dies.map((die, rank) => {
    const place = placeOf(desks, die, domain);
    return rank < shape.sources
      ? attentionRounds(place, shape, form, seed, rounds, sums, timeout_ms)
      : expertRounds(place, shape, form, seed, rounds, timeout_ms);
  });
}
