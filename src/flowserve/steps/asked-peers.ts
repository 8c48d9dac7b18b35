/**
 * What a step has asked of other NPUs at one point, and was not answered yet: shares of its tokens for the slots of experts, or columns of an output projection.
 * A peer is asked one thing at a time. What it refuses, since its slot does not hold that expert (any more, or not yet), goes to whoever holds it by the
 * present map; nothing of it was computed. So does what a lost peer was asked, as soon as others have it by the map; else its successor is asked again.
 * @module
 */
import { MinipodError } from '../../protocol/errors.ts';
import { dueOf } from '../../xccl/due-time.ts';
import type { Answer, Exchange } from '../../xccl/exchange.ts';
import { deadlineExceeded } from '../../xccl/operation.ts';
import type { ExpertBatches, Share } from '../experts/expert-batches.ts';
import type { ExpertService } from '../experts/expert-service.ts';
import type { OutputProjection } from '../forward/output-projection.ts';
import type { Range } from '../forward/tensor-share.ts';

/** What a peer was asked, and under which event: an NPU's share of the pairs of tokens and experts, or its columns of the output projection. */
type Asked = {
  readonly share: Share | null;
  /** Of the map by which it was asked. */
  readonly epoch: number;
  event: number;
  /** How often it was lost since. */
  losses?: number;
};
/** By which map it had been asked, and when. */
type Refused = { readonly share: Share; readonly epoch: number; readonly at_ms: number };

/** A peer that lives answers within milliseconds. */
export const PEERS_DEADLINE_MS = 30_000;
/** So often a peer may be lost under one question: fewer times than end the pod (restart-intensity.ts), since what it is asked may be what kills it. */
export const LOSSES_MAX = 4;
/** So many steps in a row may be computed again because of rows that went bad: memory that goes on going bad is not waited for. */
export const DAMAGED_MAX = 8;
/** Who is refused by the map that it has waits so long for another one before it asks again. */
export const ASK_AGAIN_MS = 1;
/** For a peer that is asked something else just now, or is lost. */
const NO_EPOCH = -1;

export class AskedPeers {
  readonly #npu: number;
  readonly #batches: ExpertBatches;
  readonly #service: ExpertService;
  readonly #projection: OutputProjection;
  readonly #exchange: Exchange;
  readonly #dieOf: (npu: number) => number;
  readonly #lane: number;
  readonly #now_ms: () => number;
  /** By NPU that has not answered. */
  readonly #missing = new Map<number, Asked>();
  #refused: Refused[] = [];
  #layer = 0;
  #rows = 0;
  #asked_ms = 0;
  #due = 0;
  #failed: number | null = null;
  /** Rows that were sent to that peer, or came from it, are not what they were. */
  #damaged: number | null = null;
  #damaged_in_a_row = 0;
  /** So many dispatches are served, all in all, when peers were answered as often as they were asked. */
  #even = 0;
  /** Shares that were refused, since this was made. */
  refusals = 0;

  /** `service`: what this NPU computes itself. `lane`: of the micro-batch that asks. */
  constructor(batches: ExpertBatches, service: ExpertService, projection: OutputProjection, dieOf: (npu: number) => number, lane = 0) {
    this.#lane = lane;
    const { npu, exchange } = service;
    this.#npu = npu;
    this.#batches = batches;
    this.#service = service;
    this.#projection = projection;
    this.#exchange = exchange;
    this.#dieOf = dieOf;
    this.#now_ms = exchange.endpoint.surroundings.now_ms;
  }

  get isMissing(): boolean {
    return this.#missing.size > 0 || this.#refused.length > 0;
  }

  /** Some of it was refused, and is asked for again in a while: nothing arrives that tells when. */
  get mustAskAgain(): boolean {
    return this.#refused.length > 0;
  }

  /**
   * All that peers were asked for is there, and they were answered as often since: who asks now is a layer ahead, and would be two if he were answered before this NPU
   * has asked for its next one. That ends in both waiting between steps, where nobody serves (docs/performance.md).
   */
  get goesOnFirst(): boolean {
    if (this.#missing.size === 0 || this.#refused.length > 0 || this.#exchange.served < this.#even) return false;
    for (const [npu, { event }] of this.#missing) if (!this.#exchange.isAnswered(this.#dieOf(npu), event, this.#lane)) return false;
    return true;
  }

  /** The last layer that peers were asked for. */
  get layer(): number {
    return this.#layer;
  }

  /** @throws `worker_failed` for a peer that failed at its part; `undone` where rows went bad on their way: the step is to be computed once more */
  check(): void {
    if (this.#failed !== null) throw new MinipodError('worker_failed', `NPU ${this.#failed} failed at its part of layer ${this.#layer}`);
    if (this.#damaged === null) return;
    const code = ++this.#damaged_in_a_row > DAMAGED_MAX ? 'worker_failed' : 'undone';
    throw new MinipodError(code, `rows between NPU ${this.#npu} and NPU ${this.#damaged} in layer ${this.#layer} are not what was left there`);
  }

  /** All that it asked for has come, and was what it had been. */
  end(): void {
    this.#damaged_in_a_row = 0;
  }

  /** NPUs that have not answered. */
  get npus(): number[] {
    return [...this.#missing.keys()];
  }

  /** A step begins: what it asks is due as long after now as what any other asks after it began. */
  begin(): void {
    this.#due = dueOf(this.#now_ms());
  }

  /** Asks for all shares of those rows but this NPU's own, which is returned; undefined: there is none, or its slots do not hold what it is for, and others are asked. */
  askShares(layer: number, shares: readonly Share[], range: Range): Share | undefined {
    this.#layer = layer;
    if (shares.some(({ npu }) => npu !== this.#npu)) this.#exchange.leaveRows(this.#lane, this.#batches.sent(range));
    for (const share of shares) {
      if (share.npu === this.#npu) continue;
      if (this.#mayMove(share)) this.#refused.push({ share, epoch: NO_EPOCH, at_ms: this.#now_ms() });
      else this.#await(share.npu, share);
    }
    const own = shares.find(({ npu }) => npu === this.#npu);
    const isHeld = own === undefined || this.#service.holds(this.#batches.describe(own, layer));
    if (!isHeld) this.#refuse(own, this.#batches.routing.epoch);
    if (this.isMissing) this.#asked_ms = this.#now_ms();
    this.#even = this.#exchange.served + this.#missing.size;
    return isHeld ? own : undefined;
  }

  /** Asks for the columns that others have of `rows` rows. */
  askColumns(layer: number, rows: number): void {
    this.#layer = layer;
    this.#rows = rows;
    const { rowsAddress: address, bytes } = this.#projection.describe(layer, rows);
    this.#exchange.leaveRows(this.#lane, [{ address, bytes }]);
    for (const npu of this.#projection.peers) this.#await(npu, null);
    this.#even = Number.POSITIVE_INFINITY;
    this.#asked_ms = this.#now_ms();
  }

  /** Pulls the answers that have come. True: none is missing any more. */
  pull(): boolean {
    for (const [npu, { share, event, epoch }] of this.#missing) {
      if (share !== null && this.#mayMove(share)) {
        this.#exchange.abandon(this.#dieOf(npu), event, this.#lane);
        this.#missing.delete(npu);
        this.#asked_ms = this.#now_ms();
        this.#refused.push({ share, epoch: NO_EPOCH, at_ms: this.#asked_ms });
        continue;
      }
      const answer = share === null ? this.#pullColumns(npu, event) : this.#pullRows(npu, event, share);
      if (answer === 'pending') continue;
      this.#missing.delete(npu);
      if (answer === 'failed') this.#failed = npu;
      else if (answer === 'damaged') this.#damaged = npu;
      else if (answer === 'refused' && share !== null) this.#refuse(share, epoch);
    }
    if (this.#refused.length > 0) this.#askElsewhere();
    return !this.isMissing;
  }

  /** Asks a peer once more for what it has not answered: it was restarted. Who serves keeps no state, so asking twice is harmless. */
  askAgain(npu: number): void {
    const missing = this.#missing.get(npu);
    if (missing === undefined) return;
    this.#asked_ms = this.#now_ms();
    missing.losses = (missing.losses ?? 0) + 1;
    if (missing.losses <= LOSSES_MAX) missing.event = this.#ask(npu, missing.share);
    else {
      this.#missing.delete(npu);
      this.#failed = npu;
    }
  }

  /** Its NPU is lost, and others have what it was to compute. */
  #mayMove(share: Share): boolean {
    return this.#batches.lost.has(share.npu) && this.#batches.mayMove(this.#layer, share);
  }

  /**
   * While somebody who is lost is awaited no time passes: how long his successor takes, or others who are to have his experts, is for requests to bear, which have
   * deadlines of their own (undone-steps.ts).
   * @throws `deadline_exceeded` naming the NPUs that have not answered for too long; `others`: whom the step waits for besides.
   */
  checkDeadline(others: readonly number[]): void {
    if (!this.isMissing) return;
    if (this.npus.some((npu) => this.#batches.lost.has(npu))) this.#asked_ms = this.#now_ms();
    const waited_ms = this.#now_ms() - this.#asked_ms;
    if (waited_ms > PEERS_DEADLINE_MS) throw deadlineExceeded(`layer ${this.#layer} of NPU ${this.#npu}`, [...this.npus, ...others], waited_ms);
  }

  /** Nobody is waited for: what peers still compute lies in their memory, and is not looked for. */
  reset(): void {
    for (const [npu, { event }] of this.#missing) this.#exchange.abandon(this.#dieOf(npu), event, this.#lane);
    this.#missing.clear();
    this.#refused = [];
    this.#failed = null;
    this.#damaged = null;
  }

  #await(npu: number, share: Share | null): void {
    this.#missing.set(npu, { share, event: this.#ask(npu, share), epoch: this.#batches.routing.epoch });
  }

  #ask(npu: number, share: Share | null): number {
    const die = this.#dieOf(npu);
    if (share === null) return this.#exchange.dispatchRows(die, this.#projection.describe(this.#layer, this.#rows));
    return this.#exchange.dispatch(die, this.#batches.describe(share, this.#layer), this.#due, this.#lane);
  }

  #pullRows(npu: number, event: number, share: Share): Answer {
    return this.#exchange.pull(this.#dieOf(npu), event, this.#batches.replyAddress(share), share.pairs, this.#lane);
  }

  #pullColumns(npu: number, event: number): Answer {
    const { target, skip, bytes } = this.#projection.columnsOf(npu);
    return this.#exchange.pullColumns(this.#dieOf(npu), event, target, this.#rows, skip, bytes);
  }

  /** `epoch`: of the map by which it was asked: a later one may have come since, and then it need not wait for another. */
  #refuse(share: Share, epoch: number): void {
    this.#refused.push({ share, epoch, at_ms: this.#now_ms() });
    this.refusals++;
  }

  /** At once where the map is another one, else in a while. */
  #askElsewhere(): void {
    const { epoch } = this.#batches.routing;
    const refused = this.#refused;
    this.#refused = [];
    for (const one of refused) {
      if (one.epoch === epoch && this.#now_ms() - one.at_ms < ASK_AGAIN_MS) {
        this.#refused.push(one);
        continue;
      }
      for (const share of this.#batches.sortAgain(this.#layer, one.share)) {
        const { npu } = share;
        if (npu === this.#npu) this.#computeOwn(share);
        else if (this.#missing.has(npu)) this.#refused.push({ share, epoch: NO_EPOCH, at_ms: one.at_ms });
        else this.#await(npu, share);
      }
    }
  }

  #computeOwn(share: Share): void {
    const dispatch = this.#batches.describe(share, this.#layer);
    if (this.#service.holds(dispatch)) this.#service.compute(dispatch, this.#batches.replyAddress(share), share.pairs);
    else this.#refuse(share, this.#batches.routing.epoch);
  }
}
