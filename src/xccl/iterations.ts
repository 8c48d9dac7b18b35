/**
 * An attention rank's part in the iterations of its DP domain (xDeepServe §5.2): all ranks go through the same rounds, one for each layer of experts and micro-batch,
 * also those that have nothing to do, as the dummy batches of data-parallel groups in vLLM and SGLang: the expert ranks wait for all.
 *
 *   rank 0   step ─────────────────────────────▶ step ────────────…         begins an iteration, and tells the others so
 *   rank 1   │ (nothing: empty batches) ────────▶ step ────────────…         has a step in the midst of one: it begins with the next
 *   rank 2   │ (nothing) ──────────────────────▶ │ (nothing) ─────…
 *
 *   lane     ask ─▶ answered ─▶ ask …        × rounds; the lanes of an iteration's micro-batches go their own ways, so that one asks while another computes
 *
 * How many rounds there are is fixed by the model, and how many rows a batch has is its rank's affair: so ranks need not agree on anything but that an iteration
 * begins. Who has a step tells the others by a field in their metadata: no controller hears of it, and nobody needs to be told twice, since the iteration
 * after it cannot begin anywhere before all have ended this one.
 *
 *   field    dispatch channel of the first lane, which attention ranks do not use among themselves   | a iteration | d the life's tag |
 *
 * A step that is given up leaves its rank in the iteration, with nothing to do; so does one whose batch some expert rank refuses, which goes on with the next
 * iteration: the others hear nothing of it. A round that fails ends the domain's life for all (dp-domain.ts).
 *
 * Race: another rank may have begun the next iteration, and told so, before this one has pulled the last answers of its step: who has a step of its own does not look for
 * others', and what it was told of then nobody tells again. So a rank that has had a step tells itself to look once more when that is over, however it ends.
 * @module
 */
import { assert, MinipodError } from '../protocol/errors.ts';
import { FIELD_WORD } from './areas.ts';
import type { TokenBatch } from './dispatch.ts';
import type { DpDomain, DpDomainLife } from './dp-domain.ts';
import type { AttentionEnd } from './ends.ts';
import type { Lane } from './lane.ts';
import { DONE, type Operation, type Poll } from './operation.ts';

/** An iteration has ended in which nobody was lost: somebody is back, and takes part from the next one on. */
export class MemberIsBack extends MinipodError {
  constructor(domain: number) {
    super('worker_lost', `an iteration of DP domain ${domain} ended: a member of it is back`);
  }
}

/** Of what experts were asked for last. */
export type LaneAnswer = 'pending' | 'here' | 'refused';

const NOTHING: TokenBatch = { tokens: 0, rows: 0, experts: 0, weights: 0 };

export type IterationsOptions = {
  readonly domain: DpDomain;
  /** Of each lane in an iteration. */
  readonly rounds: number;
  /** One a micro-batch: this rank's end in a life of the domain. */
  readonly makeEnds: readonly ((life: DpDomainLife) => AttentionEnd)[];
  /** The first of them. */
  readonly lane: Lane;
  /** For one answer. */
  readonly timeout_ms: number;
};

class AttentionLane {
  readonly #end: AttentionEnd;
  readonly #rounds: number;
  readonly #timeout_ms: number;
  #left = 0;
  #answer: Operation | null = null;
  /** Of the batch whose answers are missing. */
  #note = 0;

  constructor(end: AttentionEnd, rounds: number, timeout_ms: number) {
    this.#end = end;
    this.#rounds = rounds;
    this.#timeout_ms = timeout_ms;
  }

  get end(): AttentionEnd {
    return this.#end;
  }

  get isOver(): boolean {
    return this.#left === 0 && this.#answer === null;
  }

  get isAsking(): boolean {
    return this.#answer !== null;
  }

  /** Answers are missing to a batch that has a note below this one. */
  asksBefore(note: number): boolean {
    return this.#answer !== null && this.#note < note;
  }

  begin(): void {
    this.#left = this.#rounds;
  }

  ask(batch: TokenBatch): void {
    assert(this.#left > 0 && this.#answer === null, 'a lane asks once a round');
    this.#left--;
    this.#note = batch.tokens === 0 ? Number.POSITIVE_INFINITY : (batch.note ?? 0);
    const asked = this.#end.a2e(batch).poll();
    if (asked.state === 'failed') throw asked.error;
    this.#answer = this.#end.e2aRows({ timeout_ms: this.#timeout_ms });
  }

  poll(): Poll {
    const poll = this.#answer?.poll() ?? DONE;
    if (poll.state === 'done') this.#answer = null;
    return poll;
  }
}

export class Iterations {
  readonly #options: IterationsOptions;
  #life: DpDomainLife;
  #lanes: readonly AttentionLane[] = [];
  /** Of this life. */
  #number = 0;
  /** Whose the iteration at hand is. */
  #state: 'none' | 'own' | 'nothing' = 'none';

  constructor(options: IterationsOptions) {
    this.#options = options;
    this.#life = this.#beginLife();
  }

  /** Who takes part in the iteration at hand. */
  get life(): DpDomainLife {
    return this.#life;
  }

  /** Expert NPUs of the domain without which no iteration begins: all of them, where all are lost. */
  get awaited(): readonly number[] {
    return this.#life.experts > 0 ? [] : this.#options.domain.place.experts;
  }

  /** Batches of this rank's own are under way: `ask` and `answer` are its to call. */
  get isOwn(): boolean {
    return this.#state === 'own';
  }

  /** The rank has a step: true when the iteration begins with it, false while one is under way in which it has no part, or nobody has experts. */
  begin(): boolean {
    assert(this.#state !== 'own', 'an iteration has one step of a rank');
    if (this.#state === 'nothing') return false;
    this.#ensureLife();
    if (this.#life.experts === 0) return false;
    this.#begin('own');
    return true;
  }

  /** Sends a lane's batch on its way. @throws as `AttentionEnd.a2e`; then the domain's life is over. */
  ask(lane: number, batch: TokenBatch): void {
    try {
      this.#lane(lane).ask(batch);
    } catch (error) {
      throw this.#fail(error);
    }
  }

  /**
   * Whether the answers to a lane's batch are here, as rows (`AttentionEnd.e2aRows`). Once one is refused, or is not what it was, the step has no part in the
   * iteration any more.
   * @throws `worker_lost` if the domain's life has ended, naming why
   */
  answer(lane: number): LaneAnswer | 'damaged' {
    const poll = this.#lane(lane).poll();
    if (poll.state === 'failed') throw this.#fail(poll.error);
    if (poll.state === 'pending') return 'pending';
    const { isRefused, isDamaged } = this.#lane(lane).end;
    if (this.#lanes.every(({ isOver }) => isOver)) this.#leave('none');
    else if (isRefused) this.#leave('nothing');
    if (isDamaged) return 'damaged';
    return isRefused ? 'refused' : 'here';
  }

  /** Answers are missing to batches, of this rank's step or of one that was given up, that have a note below this one. */
  asksBefore(note: number): boolean {
    return this.#lanes.some((lane) => lane.asksBefore(note));
  }

  /** Ranks that a lane's answers wait for, as numbers of NPUs. */
  missing(lane: number): number[] {
    const poll = this.#lane(lane).poll();
    return poll.state === 'pending' ? poll.missing.map((rank) => this.#life.npus[rank] as number) : [];
  }

  /** The rank's step is no more: what is left of the iteration it does with nothing. */
  giveUp(): void {
    if (this.#state === 'own') this.#leave('nothing');
  }

  /** For a rank without a step under way: takes part in what others have begun. True if something went on. */
  poll(): boolean {
    if (this.#state === 'own') return false;
    if (this.#state === 'none') {
      this.#ensureLife();
      if (!this.#isCalled()) return false;
      this.#begin('nothing');
    }
    let isMoving = false;
    for (const lane of this.#lanes) isMoving = this.#goOn(lane) || isMoving;
    if (this.#state === 'nothing' && this.#lanes.every(({ isOver }) => isOver)) this.#state = 'none';
    return isMoving;
  }

  /** Members may have moved, have been given up, or be back. @throws `worker_lost` where batches of its own were under way */
  reseat(): void {
    const { domain } = this.#options;
    if (this.#state === 'none' || domain.isLifeOf(this.#membership)) return;
    const wasOwn = this.#state === 'own';
    const before = this.#membership;
    const hasGrown = this.#beginLife().npus.length > before.size && before.isWhole;
    if (!wasOwn) return;
    if (hasGrown) throw new MemberIsBack(domain.place.id);
    throw new MinipodError('worker_lost', `an iteration of DP domain ${domain.place.id} ended: a member of it was given up`);
  }

  get #membership(): AttentionEnd['membership'] {
    return this.#lane(0).end.membership;
  }

  #lane(index: number): AttentionLane {
    return this.#lanes[index] as AttentionLane;
  }

  /** A step of its own is over, or is no more. */
  #leave(state: 'nothing' | 'none'): void {
    this.#state = state;
    const { surroundings, die } = this.#membership.endpoint;
    surroundings.arrive(die);
  }

  #begin(state: 'own' | 'nothing'): void {
    this.#number = (this.#number + 1) | 0;
    if (state === 'own') this.#call();
    this.#state = state;
    for (const lane of this.#lanes) lane.begin();
  }

  #goOn(lane: AttentionLane): boolean {
    if (this.#state !== 'nothing') return false;
    let isMoving = false;
    for (;;) {
      if (lane.isAsking) {
        const poll = lane.poll();
        if (poll.state === 'failed') {
          this.#fail(poll.error);
          return true;
        }
        if (poll.state === 'pending') return isMoving;
        isMoving = true;
      }
      if (lane.isOver) return isMoving;
      isMoving = true;
      try {
        lane.ask(NOTHING);
      } catch (error) {
        this.#fail(error);
        return true;
      }
    }
  }

  /** Tells the other attention ranks, but for those that have told this one. */
  #call(): void {
    const { endpoint, tag } = this.#membership;
    const { lane } = this.#options;
    for (let rank = 0; rank < this.#life.attention; rank++)
      if (rank !== this.#membership.rank && this.#callOf(rank) !== this.#number)
        endpoint.write(this.#membership.dieOf(rank), lane.dispatch, this.#number, 0, 0, tag, 0);
  }

  #isCalled(): boolean {
    const next = (this.#number + 1) | 0;
    for (let rank = 0; rank < this.#life.attention; rank++) if (rank !== this.#membership.rank && this.#callOf(rank) === next) return true;
    return false;
  }

  /** The iteration that a rank has begun last, as far as it has told; 0: none of this life. */
  #callOf(rank: number): number {
    const { endpoint, tag } = this.#membership;
    const die = this.#membership.dieOf(rank);
    const { dispatch } = this.#options.lane;
    const event = endpoint.newEventFrom(die, dispatch);
    if (event === 0) return 0;
    const number = endpoint.wordFrom(die, dispatch, FIELD_WORD.a);
    return endpoint.wordFrom(die, dispatch, FIELD_WORD.d) === tag && endpoint.isStill(die, dispatch, event) ? number : 0;
  }

  #fail(error: unknown): MinipodError {
    const { domain } = this.#options;
    const isOver = !domain.isLifeOf(this.#membership);
    domain.end(this.#membership);
    this.#beginLife();
    const reason =
      error instanceof MinipodError ? error : new MinipodError('internal', `an iteration of DP domain ${domain.place.id} broke off`, { cause: error });
    return isOver ? new MinipodError('worker_lost', `DP domain ${domain.place.id} begins anew: ${reason.message}`) : reason;
  }

  #ensureLife(): void {
    if (!this.#options.domain.isLifeOf(this.#membership)) this.#beginLife();
  }

  #beginLife(): DpDomainLife {
    const { domain, makeEnds, rounds, timeout_ms } = this.#options;
    const life = domain.life();
    this.#life = life;
    const wasOwn = this.#state === 'own';
    this.#lanes = makeEnds.map((makeEnd) => new AttentionLane(makeEnd(life), rounds, timeout_ms));
    this.#number = 0;
    if (wasOwn) this.#leave('none');
    else this.#state = 'none';
    return life;
  }
}
