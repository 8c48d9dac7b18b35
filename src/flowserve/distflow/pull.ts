/**
 * Pulls the blocks of an offer: claims its lease, copies, proves what came, and lets go.
 *
 *   claim ─▶ header ─▶ blocks ─▶ generations ─▶ transfer (transfer.ts) ─▶ sealed? ─▶ sums ─▶ release ─▶ done
 *     │         └────────────┬──────────┴─────────────┴──────────────────────┴─────────┘
 *     ▼ refused              ▼ fenced, stale, corrupt, cancelled, …: what is under way lands, then stop ─▶ failed
 *
 * Meanwhile it looks at the header, over and over: at the progress, where layers come one by one, and whether the holder has fenced it. Over a network, where
 * each look is a request, it pauses between two that find nothing new.
 * The sum by which a block is guarded where it rests is always taken before the one that proves it, of its source or of its target: what goes bad between the two
 * is not what is guarded, so whoever reads it finds out. The other way round the sum at rest would prove what came after the proof.
 * Blocks that are offered with their sums at rest are proved by those, of their targets, which keep them: whatever goes bad from then on differs from what was guarded.
 * It is done only if its release was the lease's next word after its claim: then the holder knows it too. Where link or puller are lost while the release is on
 * its way, the holder may know of a pull that counts for nothing; that is the decode's to compute anew, as after any loss of its own.
 * @module
 */
import { MinipodError } from '../../protocol/errors.ts';
import { WorkRequest } from './backend.ts';
import { BlockWalk } from './block-walk.ts';
import { type Guard, POLL_BYTES, type SumAtRest } from './copying.ts';
import type { End } from './end.ts';
import type { UnreturnedLease } from './lease-return.ts';
import { isSerialOf, LEASE, leaseWord, pullerOf, stateName } from './lease-word.ts';
import { isProgressOf, isSealed, layersThere, OFFER_HEADER_WORDS, OFFER_WORD, type OfferPlace, offerPlace, SUMS } from './offer-layout.ts';
import { DONE, type FailureReason, failed, PENDING, type Poll, reasonOf } from './outcome.ts';
import type { OfferSource, Registration } from './registration.ts';
import { Transfer } from './transfer.ts';

/** So long after a look that found nothing new the next one is taken where no holder's bell rings here: a layer takes about as long. */
const LOOK_PAUSE_MS = 1;

const PHASE = { claim: 0, header: 1, blocks: 2, generations: 3, transfer: 4, seal: 5, sums: 6, release: 7, settle: 8, stop: 9, over: 10 } as const;

export class Pull {
  readonly registration: Registration;
  readonly #end: End;
  readonly #source: OfferSource;
  readonly #place: OfferPlace;
  readonly #targets: ArrayLike<number>;
  readonly #layers: number;
  readonly #guard: Guard | null;
  readonly #held: number;
  readonly #pulling: number;
  readonly #fenced: number;
  readonly #stopped: number;
  readonly #released: number;
  readonly #work = new WorkRequest();
  readonly #look = new WorkRequest();
  readonly #header = new Int32Array(OFFER_HEADER_WORDS);
  readonly #blocks: Int32Array;
  readonly #generations: Int32Array;
  readonly #sums: Int32Array;
  #phase: number = PHASE.claim;
  /** What the lease is when it is let go of. */
  #lease: number;
  /** When it failed: whether it has a claim is still on its way. */
  #wasClaiming = false;
  #restsUntil_ms = Number.NEGATIVE_INFINITY;
  #isUnreturned = false;
  /** Both sums are taken where the blocks have come to rest: over a network, and where layers come one by one. */
  #sumsLate = false;
  /** It is proved by the sums at rest of its source. */
  #isAtRest = false;
  #transfer: Transfer | null = null;
  #result: Poll = PENDING;

  /** `targets`: where each block goes, in their order. `guard` null: they are not guarded. @throws `invalid_request` where they are another number, or the slot is none. */
  constructor(end: End, registration: Registration, source: OfferSource, targets: ArrayLike<number>, guard: Guard | null = null) {
    const { slot, serial, blocks } = registration;
    if (blocks !== targets.length) throw new MinipodError('invalid_request', `pull: ${blocks} blocks are on offer, and ${targets.length} are to be filled`);
    const puller = pullerOf(end.die, end.epoch);
    this.registration = registration;
    this.#end = end;
    this.#source = source;
    this.#place = offerPlace(source.offers, slot);
    this.#targets = targets;
    this.#guard = guard;
    this.#layers = source.kv.block_bytes / source.kv.layer_bytes;
    this.#held = leaseWord(serial, 0, LEASE.held);
    this.#pulling = leaseWord(serial, puller, LEASE.pulling);
    this.#fenced = leaseWord(serial, puller, LEASE.fenced);
    this.#stopped = leaseWord(serial, puller, LEASE.stopped);
    this.#released = leaseWord(serial, puller, LEASE.released);
    this.#lease = this.#pulling;
    this.#blocks = new Int32Array(blocks);
    this.#generations = new Int32Array(blocks);
    this.#sums = new Int32Array(blocks);
  }

  get copied_bytes(): number {
    return this.#transfer?.copied_bytes ?? 0;
  }

  /** Of one that has failed: the lease, where its link broke before it could let go of it for certain. */
  get unreturned(): UnreturnedLease | null {
    const lease = {
      address: this.#place.header + 4 * OFFER_WORD.lease,
      held: this.#held,
      pulling: this.#pulling,
      fenced: this.#fenced,
      stopped: this.#stopped,
    };
    return this.#isUnreturned ? lease : null;
  }

  /**
   * Nothing is to be done before the holder's next layer or its sums are there, or it ends the lease. That it will tell, who is of the same memory; over a
   * network it is looked for at a poll that comes LOOK_PAUSE_MS later.
   */
  get waitsForHolder(): boolean {
    return this.#isUpToDate && (this.#end.backend.isMemory || this.#look.isIdle);
  }

  get #isUpToDate(): boolean {
    // Sums that were there before all was copied are told of no more.
    if (this.#phase === PHASE.seal) return !isSealed(this.#header[OFFER_WORD.progress] as number);
    return this.#phase === PHASE.transfer && this.#transfer?.waitsForHolder === true;
  }

  /** Goes on by about so many bytes at most. After `done` or `failed` it answers the same again and touches nothing. */
  poll(budget_bytes = POLL_BYTES): Poll {
    const work = this.#work;
    let mayCopy = true;
    while (this.#phase !== PHASE.over) {
      if (this.#phase === PHASE.settle) {
        if (!this.#hasSettled()) return PENDING;
      } else if (this.#phase < PHASE.settle && this.#end.isGivenUp) this.#fail('given_up', `die ${this.#end.die} was given up`);
      else if (this.#phase === PHASE.transfer || this.#phase === PHASE.seal) {
        if (!mayCopy) return PENDING;
        mayCopy = false;
        if (this.#lookAtHeader() && this.#phase === PHASE.transfer) this.#pollTransfer(budget_bytes);
      } else if (work.state === 'failed') this.#failBy(work);
      else if (work.state === 'done') this.#take();
      else if (work.state === 'posted') return PENDING;
      else {
        this.#post();
        if (work.isIdle) return PENDING;
      }
    }
    return this.#result;
  }

  /** What is under way lands first: the blocks are the caller's again once `poll` has said so. */
  cancel(): void {
    this.#giveUp('cancelled', 'it was cancelled');
  }

  /** The holder was given up: it makes no sums any more, and what it offered is over. */
  loseSource(): void {
    this.#giveUp('source_lost', 'who offered it was given up');
  }

  #giveUp(reason: FailureReason, why: string): void {
    // A release that is on its way decides it.
    const isReleasing = this.#phase === PHASE.release && this.#work.isUnderWay;
    if (this.#phase < PHASE.settle && !isReleasing) this.#fail(reason, why);
  }

  #post(): void {
    const { backend } = this.#end;
    const work = this.#work;
    const { header, blocks, generations, checksums } = this.#place;
    const lease = header + 4 * OFFER_WORD.lease;
    const count = this.#blocks.length;
    switch (this.#phase) {
      case PHASE.claim:
        backend.compareSwap(work, lease, this.#held, this.#pulling);
        break;
      case PHASE.header:
        backend.readWords(work, header, null, OFFER_HEADER_WORDS, this.#header);
        break;
      case PHASE.blocks:
        backend.readWords(work, blocks, null, count, this.#blocks);
        break;
      case PHASE.generations:
        backend.readWords(work, generations, null, count, this.#generations);
        break;
      case PHASE.sums:
        backend.readWords(work, checksums, null, count, this.#sums);
        break;
      case PHASE.release:
        backend.compareSwap(work, lease, this.#pulling, this.#released);
        break;
      default:
        backend.compareSwap(work, lease, this.#lease, this.#stopped);
    }
  }

  #take(): void {
    const work = this.#work;
    const { value } = work;
    work.state = 'idle';
    switch (this.#phase) {
      case PHASE.claim:
        if (value === this.#held) this.#phase = PHASE.header;
        else this.#close(failed('refused', `${this.#what()}: the lease is ${this.#leaseText(value)}`));
        break;
      case PHASE.header:
        this.#checkHeader();
        break;
      case PHASE.blocks:
        this.#phase = PHASE.generations;
        break;
      case PHASE.generations:
        this.#startTransfer();
        break;
      case PHASE.sums:
        this.#compareSums();
        break;
      case PHASE.release:
        if (value === this.#pulling) this.#close(DONE);
        else this.#expire(value);
        break;
      default:
        // The holder may have fenced it in between: that is acknowledged instead.
        if (value === this.#fenced && this.#lease === this.#pulling) this.#lease = this.#fenced;
        else this.#phase = PHASE.over;
    }
  }

  /** The lease's own bits of the serial came round: the whole of it tells. */
  #checkHeader(): void {
    const { serial, blocks } = this.registration;
    const found = (this.#header[OFFER_WORD.serial] as number) >>> 0;
    if (found === serial && this.#header[OFFER_WORD.blocks] === blocks) this.#phase = PHASE.blocks;
    else this.#fail('refused', `it is offer ${found} of ${this.#header[OFFER_WORD.blocks]} blocks by now`);
  }

  #startTransfer(): void {
    const { address, block_bytes, layer_bytes, blocks, generations } = this.#source.kv;
    const stray = this.#blocks.find((block) => block < 0 || block >= blocks);
    if (stray !== undefined) {
      this.#fail('fault', `block ${stray} is on offer, and there are ${blocks}`);
      return;
    }
    const sources = Float64Array.from(this.#blocks, (block) => address + block * block_bytes);
    const progress = this.#header[OFFER_WORD.progress] as number;
    const there = layersThere(progress, this.#layers);
    this.#isAtRest = this.#header[OFFER_WORD.sums] === SUMS.rest;
    const isGuarded = this.#guard !== null && !this.#isAtRest;
    this.#sumsLate = isGuarded && !(this.#end.backend.isMemory && there === this.#layers);
    const transfer = new Transfer(
      this.#end,
      { addresses: sources, bytes: block_bytes },
      { addresses: this.#targets, bytes: block_bytes },
      {
        // A sum at rest is of the block as a whole.
        layers: this.#isAtRest ? null : { layer_bytes, first: 0, end: this.#layers },
        generations: { table: generations, blocks: this.#blocks, values: this.#generations },
        checksums: this.#isAtRest ? 'at rest' : this.#sumsLate ? null : 'later',
        sumAtRest: isGuarded && !this.#sumsLate ? (this.#guard as Guard).sum : null,
      },
      there === this.#layers ? 'by request' : 'by layer',
    );
    transfer.layers_there = there;
    this.#transfer = transfer;
    this.#phase = PHASE.transfer;
  }

  /** True: nothing has changed for the worse. */
  #lookAtHeader(): boolean {
    const look = this.#look;
    const { backend } = this.#end;
    if (look.isIdle && !backend.isMemory && this.#isUpToDate && backend.now_ms() < this.#restsUntil_ms) return true;
    if (look.isIdle) backend.readWords(look, this.#place.header, null, OFFER_HEADER_WORDS, this.#header);
    if (look.state === 'failed') this.#failBy(look);
    if (look.state !== 'done') return this.#phase < PHASE.settle;
    look.state = 'idle';
    const lease = this.#header[OFFER_WORD.lease] as number;
    const progress = this.#header[OFFER_WORD.progress] as number;
    if (lease !== this.#pulling) this.#expire(lease);
    else if (!isProgressOf(progress, this.registration.serial)) this.#fail('source_lost', 'its progress is of another offer');
    else {
      if (this.#transfer !== null) this.#transfer.layers_there = layersThere(progress, this.#layers);
      if (this.#phase === PHASE.seal && isSealed(progress)) this.#phase = PHASE.sums;
      this.#restsUntil_ms = backend.now_ms() + LOOK_PAUSE_MS;
      return true;
    }
    return false;
  }

  #pollTransfer(budget_bytes: number): void {
    const end = this.#transfer?.poll(budget_bytes) ?? PENDING;
    if (end.state === 'failed') this.#fail(end.reason, end.error.message);
    else if (end.state === 'done') this.#phase = PHASE.seal;
  }

  #compareSums(): void {
    const sums = this.#sumsLate ? this.#sumsThere((this.#guard as Guard).sum) : (this.#transfer as Transfer).sums;
    const corrupt = sums.findIndex((sum, index) => sum !== this.#sums[index]);
    if (corrupt >= 0) {
      this.#fail('corrupt', `block ${this.#blocks[corrupt]} arrived with another sum than it was offered with`);
      return;
    }
    if (this.#isAtRest && this.#guard !== null) for (let index = 0; index < sums.length; index++) this.#guard.keep(index, sums[index] as number);
    this.#phase = PHASE.release;
  }

  /** Of the targets as they are now, each while it is in the cache. */
  #sumsThere(sumAtRest: SumAtRest): Int32Array {
    const { layer_bytes } = this.#source.kv;
    const { checksum } = this.#end;
    const sums = new Int32Array(this.#blocks.length);
    const walk = new BlockWalk({ blocks: sums.length, layer_bytes, first_layer: 0, end_layer: this.#layers }, 'by request');
    for (; !walk.isDone; walk.advance()) {
      const { block, at, bytes } = walk;
      const target = this.#targets[block] as number;
      if (at === 0) sumAtRest(block, target);
      sums[block] = checksum.sum(sums[block] as number, target + at, bytes);
    }
    return sums;
  }

  #expire(lease: number): void {
    this.#lease = lease === this.#fenced ? this.#fenced : this.#pulling;
    this.#fail('expired', `the holder has ended the lease, which is ${this.#leaseText(lease)}`);
  }

  #failBy({ error }: WorkRequest): void {
    if (this.#phase < PHASE.settle) this.#fail(reasonOf(error), error?.message ?? 'its work failed');
    else {
      this.#isUnreturned = true;
      this.#phase = PHASE.over;
    }
  }

  /** Once nothing is under way: says so to the holder, but for one that has no claim or no link any more. */
  #hasSettled(): boolean {
    const { backend, isGivenUp } = this.#end;
    const transfer = this.#transfer;
    transfer?.cancel();
    if (transfer !== null && !transfer.isOver) transfer.poll(0);
    const isQuiet = (transfer?.isOver ?? true) && !this.#look.isUnderWay && !this.#work.isUnderWay;
    if (!isQuiet && !backend.isClosed) return false;
    const hasClaim = !this.#wasClaiming || (this.#work.state === 'done' && this.#work.value === this.#held);
    // Of a claim that broke with its link nobody knows whether it came.
    this.#isUnreturned = backend.broken !== null && !isGivenUp && (hasClaim || this.#work.state !== 'done');
    this.#phase = hasClaim && backend.broken === null && !isGivenUp ? PHASE.stop : PHASE.over;
    this.#work.state = 'idle';
    return true;
  }

  #leaseText(word: number): string {
    return isSerialOf(word, this.registration.serial) ? stateName(word) : `${stateName(word)}, of another offer`;
  }

  #what(): string {
    const { npu, slot, serial } = this.registration;
    return `pull of offer ${serial} (slot ${slot}) of npu/${npu} by die ${this.#end.die}`;
  }

  #fail(reason: FailureReason, what: string): void {
    this.#wasClaiming = this.#phase === PHASE.claim;
    this.#result = failed(reason, `${this.#what()}: ${what}`);
    this.#phase = PHASE.settle;
  }

  #close(end: Poll): void {
    this.#result = end;
    this.#phase = PHASE.over;
  }
}
