/**
 * An expert rank among the DP domains that share it (xDeepServe §5.2): of each domain it takes part in the rounds of some micro-batches, each on a lane of its own,
 * and computes one round at a time. Three streams, as bounded polls of one loop:
 *
 *   receive    all lanes: pulls what has come, forwards what it is the trampoline of
 *   compute    one lane, whose tokens are all here: domains and their micro-batches take turns
 *   send       all lanes: leaves the answers, bundles those that it is the trampoline of
 *
 *   lane    receiving ─▶ arrived ─▶ sending ─▶ receiving …          a round each; from the first one again in each life of its domain
 *           idle                                                    while all attention ranks of its domain are lost
 *
 * So while experts compute for one domain the others' tokens travel; a domain that has nothing to do sends nothing, and is not looked for. Nobody waits here with
 * a deadline: who does are the attention ranks, which name whoever is silent.
 * @module
 */
import { UnsoundMemory } from '../protocol/errors.ts';
import type { Replies } from './combine.ts';
import type { DpDomain, DpDomainLife } from './dp-domain.ts';
import type { ExpertEnd } from './ends.ts';
import type { Operation } from './operation.ts';

const NO_DEADLINE = { timeout_ms: Number.POSITIVE_INFINITY } as const;

export type TurnLane = {
  readonly domain: DpDomain;
  /** This rank's end in a life of the domain. */
  readonly makeEnd: (life: DpDomainLife) => ExpertEnd;
};

/** Computes what `end` has received, and says where the answers lie. `round`: of the domain's life, from 0. */
export type ComputeRound = (end: ExpertEnd, round: number) => Replies;

class ExpertLane {
  readonly #domain: DpDomain;
  readonly #makeEnd: TurnLane['makeEnd'];
  #end: ExpertEnd;
  #operation: Operation | null = null;
  #round = 0;
  #state: 'idle' | 'receiving' | 'arrived' | 'sending' = 'idle';

  constructor({ domain, makeEnd }: TurnLane) {
    this.#domain = domain;
    this.#makeEnd = makeEnd;
    this.#end = this.#beginLife();
  }

  get hasArrived(): boolean {
    return this.#state === 'arrived';
  }

  /** Receives or sends as far as that goes. True: something came to its end. */
  poll(): boolean {
    if (this.#operation === null || this.#state === 'arrived') return false;
    const { state } = this.#operation.poll();
    if (state === 'pending') return false;
    if (state === 'failed') this.#beginAnew();
    else if (this.#state === 'receiving') this.#state = 'arrived';
    else {
      this.#round++;
      this.#receive(this.#end);
    }
    return true;
  }

  /** What fails here fails the round for all. */
  compute(compute: ComputeRound): void {
    try {
      this.#operation = this.#end.e2a({ ...compute(this.#end, this.#round), ...NO_DEADLINE });
      this.#state = 'sending';
    } catch (error) {
      if (error instanceof UnsoundMemory) throw error;
      this.#beginAnew();
    }
  }

  reseat(): void {
    if (!this.#domain.isLifeOf(this.#end.membership)) this.#beginAnew();
  }

  #receive(end: ExpertEnd): void {
    this.#operation = end.a2e(NO_DEADLINE);
    this.#state = 'receiving';
  }

  #beginAnew(): void {
    this.#domain.end(this.#end.membership);
    this.#end = this.#beginLife();
  }

  #beginLife(): ExpertEnd {
    const life = this.#domain.life();
    const end = this.#makeEnd(life);
    this.#round = 0;
    // Rounds of nobody would end at once, for ever.
    if (life.attention > 0) this.#receive(end);
    else [this.#operation, this.#state] = [null, 'idle'];
    return end;
  }
}

export class ExpertTurns {
  readonly #lanes: readonly ExpertLane[];
  readonly #compute: ComputeRound;
  /** The lane whose turn it is, if its tokens are here. */
  #turn = 0;
  /** Rounds computed since this was made. */
  rounds = 0;

  /** `lanes`: by micro-batch, of each by domain: so that a domain that is at the experts again finds the others to have had their turn. */
  constructor(lanes: readonly TurnLane[], compute: ComputeRound) {
    this.#lanes = lanes.map((lane) => new ExpertLane(lane));
    this.#compute = compute;
  }

  /** All lanes receive and send, one is computed. True: there may be more to do at once. */
  takePart(): boolean {
    let isMoving = false;
    for (const lane of this.#lanes) isMoving = lane.poll() || isMoving;
    const lane = this.#next();
    if (lane === null) return isMoving;
    this.rounds++;
    lane.compute(this.#compute);
    lane.poll();
    return true;
  }

  /** Members may have moved, or have been given up. */
  reseat(): void {
    for (const lane of this.#lanes) lane.reseat();
  }

  #next(): ExpertLane | null {
    const count = this.#lanes.length;
    for (let look = 0; look < count; look++) {
      const index = (this.#turn + look) % count;
      const lane = this.#lanes[index] as ExpertLane;
      if (!lane.hasArrived) continue;
      this.#turn = (index + 1) % count;
      return lane;
    }
    return null;
  }
}
