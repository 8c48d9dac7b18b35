/**
 * The experts as a micro-batch asks them where everything flows (xDeepServe §5.3): each expert NPU that it needs, on a lane of the micro-batch's own, and it goes on
 * when those have answered, whatever else goes on.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import { invariantBroken } from '../../protocol/errors.ts';
import type { LaneAnswer } from '../../xccl/iterations.ts';
import type { Arithmetic } from '../forward/arithmetic.ts';
import type { AskedPeers } from './asked-peers.ts';
import type { BatchParts, LaneExperts } from './micro-batch.ts';
import { MicroBatches, type Surrounding } from './micro-batches.ts';
import type { Experts } from './step-parts.ts';

/** A step of fewer rows is one batch: halves of it read all weights twice, for rows that take less than that. */
export const TWO_BATCHES_ROWS_MIN = 8;

class DataflowLane implements LaneExperts {
  readonly #asked: AskedPeers;

  constructor(asked: AskedPeers) {
    this.#asked = asked;
  }

  get missing(): number[] {
    return this.#asked.npus;
  }

  /** Whoever refuses is asked again by each share for itself (asked-peers.ts). */
  stepBegins(): void {}

  ask(part: Experts, rows: number): boolean {
    if (rows > 0) this.#asked.askShares(part.layer, part.route(rows), part.range(rows));
    return true;
  }

  pass(): void {
    invariantBroken('a step that flows leaves no iteration');
  }

  readonly mustWait = false;
  readonly awaitsLost = false;
  readonly refusals = 0;

  answer(): LaneAnswer {
    const asked = this.#asked;
    const isThere = !asked.isMissing || asked.pull();
    asked.check();
    return isThere ? 'here' : 'pending';
  }
}

/** A micro-batch's own: what it computes with, what it goes through, and whom it has asked. */
export type DataflowBatch = { readonly model: Arithmetic; readonly parts: () => BatchParts; readonly asked: AskedPeers };

export function newDataflowBatches(batches: readonly DataflowBatch[], space: AddressSpace): MicroBatches {
  const options = batches.map(({ model, parts, asked }) => ({ model, parts, experts: new DataflowLane(asked) }));
  return new MicroBatches(options, flowing(batches.map(({ asked }) => asked)), space);
}

/** A step waits for nobody before it begins, and an NPU without one for nothing. */
const flowing = (lanes: readonly AskedPeers[]): Surrounding => ({
  begin: () => true,
  awaited: [],
  poll: () => false,
  // Whoever has moved an expert is asked again, by each step for itself.
  asksBefore: () => false,
  giveUp: () => {
    for (const lane of lanes) lane.reset();
  },
  // Whoever has moved is asked again.
  reseat: () => {},
});
