/**
 * Experts that gates do without, since no copy of them is left (ReviveMoE §3, missing experts): what a gate would have given them, the next best get.
 * @module
 */
import { type ExpertMap, replicasOf } from '../../../actors/policies/expert-placement/expert-map.ts';
import { slotsOfRank } from '../../../actors/policies/expert-placement/placement-shape.ts';
import { gateScratchBytes } from '../../model/kernels/kernels.ts';
import { MinipodError } from '../../protocol/errors.ts';
import type { Arithmetic } from '../forward/arithmetic.ts';
import { layersWithExperts } from './expert-slots.ts';

/** As the bits of a float32. */
const MINUS_INFINITY = 0xff800000 | 0;

/** What a gate has before it chooses: scores by row and expert, and whatever is added to those for the choice alone. */
export type GatePlaces = { readonly routerLogits: number; readonly gateScratch: number; readonly experts: number };

export class MaskedExperts {
  readonly #words: Int32Array;
  /** By the model's layer. */
  readonly #masked: ReadonlyMap<number, ReadonlySet<number>>;

  /** `words`: of the memory of the NPU that masks them. */
  constructor(masked: ReadonlyMap<number, ReadonlySet<number>>, words: Int32Array) {
    this.#masked = masked;
    this.#words = words;
  }

  of(layer: number): ReadonlySet<number> {
    return this.#masked.get(layer) ?? NONE;
  }

  /** Of scores that are compared as they are: masked ones are the least there is. */
  maskScores(layer: number, { routerLogits }: GatePlaces, rows: number, experts: number): void {
    for (const expert of this.of(layer)) for (let row = 0; row < rows; row++) this.#words[(routerLogits >>> 2) + row * experts + expert] = MINUS_INFINITY;
  }

  /** Of scores that a bias is added to: where there is one that masks. */
  maskedBias(layer: number, { gateScratch }: GatePlaces, bias: number, experts: number): number {
    const masked = gateScratch + gateScratchBytes(experts);
    this.#words.copyWithin(masked >>> 2, bias >>> 2, (bias >>> 2) + experts);
    for (const expert of this.of(layer)) this.#words[(masked >>> 2) + expert] = MINUS_INFINITY;
    return masked;
  }

  /** @throws `worker_failed` where a gate had to choose one all the same: in the groups that it chose there are too few others. */
  check(layer: number, { experts }: GatePlaces, choices: number): void {
    const masked = this.of(layer);
    for (let at = experts >>> 2; at < (experts >>> 2) + choices; at++)
      if (masked.has(this.#words[at] as number))
        throw new MinipodError('worker_failed', `layer ${layer} cannot do without its lost experts: too few others are left of which its gate may choose`);
  }
}

const NONE: ReadonlySet<number> = new Set();

/** Experts that these NPUs alone have, by the map. `words`: of the memory of the NPU that masks them. */
export function maskOf({ config, layout }: Pick<Arithmetic, 'config' | 'layout'>, map: ExpertMap, npus: readonly number[], words: Int32Array): MaskedExperts {
  const ranks = new Set(npus.map((npu) => npu - layout.expertSlots.group.first));
  const each = slotsOfRank(map.shape);
  const experts = Array.from({ length: map.shape.experts }, (_, expert) => expert);
  const isAlone = (index: number, expert: number): boolean => replicasOf(map, index, expert).every((slot) => ranks.has(Math.floor(slot / each)));
  const masked = layersWithExperts(config).map((layer, index) => [layer, new Set(experts.filter((expert) => isAlone(index, expert)))] as const);
  return new MaskedExperts(new Map(masked), words);
}
