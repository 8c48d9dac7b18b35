/**
 * KV on its way between DP groups, for the groups of one host: performs what they ask of DistFlow and tells them how each transfer ended
 * (xDeepServe §5.1, steps 3 and 6 to 8).
 *
 *   offer ─▶ OFFERED … (another group pulls it, or nobody will) ─▶ TRANSFER_DONE · TRANSFER_FAILED
 *   pull  ─▶ … (claimed, copied, proved, let go of) ─▶ TRANSFER_DONE · TRANSFER_FAILED
 *
 * Nothing here waits: `poll` lets all go on by a bounded number of bytes. Every rank of a group holds the whole KV (each computes all of it), so the first
 * rank lends, and what the first rank of the other side has pulled is copied to that side's other ranks.
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { BlockPool } from '../../fabric/block-pool.ts';
import { type Address, idOf } from '../../protocol/address.ts';
import { offered, transferDone, transferFailed } from '../../protocol/constructors.ts';
import { assert, type ErrorRecord, MinipodError, toErrorRecord } from '../../protocol/errors.ts';
import type { KvOffer } from '../../protocol/messages.ts';
import { numericsKey } from '../../protocol/numerics.ts';
import type { KvLinkReport } from '../../protocol/threads.ts';
import type { DpGroupPlace } from '../../protocol/topology.ts';
import type { TierCopy, Transfer, TransferMessage } from '../../protocol/transfers.ts';
import type { Directory } from '../../runtime/directory.ts';
import type { Checksum } from '../distflow/checksum.ts';
import type { Guard } from '../distflow/copying.ts';
import { dieOfPuller, isOver } from '../distflow/lease-word.ts';
import { LinkCluster, type LinkClusterOptions } from '../distflow/link-cluster.ts';
import { type Offer, type OfferEnd, Offers } from '../distflow/offers.ts';
import type { Pull } from '../distflow/pull.ts';
import type { OfferSource } from '../distflow/registration.ts';
import { type AnyPodPlan, onDie } from '../pod-plan.ts';
import { DramDamage, KvCopies } from './kv-copies.ts';
import { KvSums } from './kv-sums.ts';
import { LayersAhead } from './layers-ahead.ts';

export type KvTransfersOptions = {
  readonly plan: AnyPodPlan;
  readonly space: AddressSpace;
  readonly directory: Directory;
  readonly checksum: Checksum;
  /** What joins task executors; null: the memory that they share. */
  readonly network: LinkClusterOptions['network'];
  readonly now_ms: () => number;
  /** Something came for a die: whoever has it is to look. */
  readonly arrive: (die: number) => void;
  /** What came of a transfer, `bytes` of which were moved for it. */
  readonly tell: (group: Address, message: TransferMessage, cause: number, bytes: number) => void;
};

/** A host's NPU, as the life that its thread knows of. */
export type KvOwner = { readonly npu: number; readonly die: number; readonly epoch: number; readonly blocks: BlockPool; readonly kvSums: KvSums | null };

type Token = { readonly group: Address; readonly id: number; readonly cause: number };
type PullUnderWay = { readonly pull: Pull; readonly owner: KvOwner; readonly blocks: readonly number[]; readonly offer: KvOffer };

/** Its lease is a matter of the group that lends: machines have their clock, and tell when it is over. */
const NO_LIMIT = Number.POSITIVE_INFINITY;

/** In one turn: a prefill step takes tens of milliseconds, to sum so much takes one or two, and nobody has what is lent before all of it is summed. */
const SUM_BYTES = 16 * 2 ** 20;

const keyOf = ({ group, id }: Pick<Token, 'group' | 'id'>): string => `${group} ${id}`;

export class KvTransfers {
  readonly #options: KvTransfersOptions;
  readonly #owners: ReadonlyMap<number, KvOwner>;
  readonly #cluster: LinkCluster<Token>;
  readonly #copies: KvCopies;
  /** By NPU that lends. */
  readonly #offers = new Map<number, Offers<Token>>();
  readonly #lent = new Map<string, Offer<Token>>();
  readonly #pulls = new Map<string, PullUnderWay>();
  /** Dies whose leases are let go of by new links, since theirs broke: when that has come, they are to look. */
  readonly #untold = new Set<number>();
  /** Dies whose leases were let go of, who are not told yet. */
  readonly #released = new Set<number>();
  readonly #ahead = new LayersAhead<Token>();

  constructor(options: KvTransfersOptions, owners: readonly KvOwner[]) {
    const { plan, space, checksum, network } = options;
    this.#options = options;
    this.#owners = new Map(owners.map((owner) => [owner.npu, owner]));
    this.#copies = new KvCopies(options, new Map(owners.map(({ npu, blocks }) => [npu, blocks])), (npu) => this.#sumsOf(npu));
    this.#cluster = new LinkCluster(
      plan.hosting.deployment.executors.map(({ id }) => ({
        executor: id,
        fabric: network === null ? 'ub' : `ub of ${id}`,
        numerics: numericsKey(plan.options),
      })),
      { space, checksum, network },
    );
    for (const { npu, die, blocks, kvSums } of owners) {
      const { offers: place, kv } = this.#sourceOf(npu, die);
      if (place.slots > 0)
        this.#offers.set(
          npu,
          new Offers<Token>({
            ...{ npu, space, place, kv, pool: blocks, checksum, arrive: options.arrive },
            isGone: (puller) => this.#isGone(puller),
            isSound: (block) => kvSums?.isSound(block) !== false,
            restingSumOf: (block) => kvSums?.ofAll(block) ?? null,
          }),
        );
    }
  }

  /** Offers that are open, and pulls under way. */
  get pending(): number {
    return this.#lent.size + this.#pulls.size;
  }

  /** There is something to copy or to sum: `poll` again at once. */
  get isBusy(): boolean {
    return this.hasNews || this.isSumming;
  }

  /** What is lent has no sums yet: the next `poll` makes some. */
  get isSumming(): boolean {
    if (this.#lent.size === 0) return false;
    for (const offers of this.#offers.values()) if (offers.isSumming) return true;
    return false;
  }

  /** Of what was pulled something has come, or is to be asked for. Asked of a loop that spins, so it allocates nothing. */
  get hasNews(): boolean {
    return !this.#cluster.isIdle;
  }

  /** Nothing will ring for what is awaited: `poll` again in about a millisecond. */
  get mustAskAgain(): boolean {
    return this.#cluster.mustAskAgain;
  }

  /** Of those, an NPU's. */
  openOf(npu: number): number {
    let open = this.#offers.get(npu)?.open_count ?? 0;
    for (const { owner } of this.#pulls.values()) if (owner.npu === npu) open++;
    return open;
  }

  /** What was pulled, by executors: all that this thread has pulled while it lives. */
  report(): KvLinkReport[] {
    const { kv_fabric } = this.#options.plan.options;
    return this.#cluster.totals().map(({ source, target, counters: { started, done, bytes, wasted_bytes, failed }, probes }) => ({
      ...{ source, target, fabric: source === target ? 'memory' : kv_fabric, started, done, bytes, wasted_bytes, failed },
      ...{ probes_passed: probes.passed, probes_broken: probes.broken, probe_us_max: probes.us_max },
    }));
  }

  perform(group: Address, work: Transfer, cause: number): void {
    const token: Token = { group, id: work.id, cause };
    switch (work.kind) {
      case 'offer':
        if (work.step > 0) this.#ahead.ask(this.#ownerOf(group).npu, work.step, token, work.blocks);
        else this.#offer(token, work.blocks);
        break;
      case 'withdraw': {
        const offer = this.#lent.get(keyOf(token));
        if (offer !== undefined) this.#offersOf(group).withdraw(offer);
        else if (this.#ahead.withdraw((asked) => keyOf(asked) === keyOf(token))) this.#tell(token, transferFailed(token.id, notPulled('withdrawn')), 0);
        break;
      }
      case 'pull':
        this.#pull(token, work.offer, work.blocks);
        break;
      case 'swap-out':
      case 'swap-in':
      case 'copy':
        this.#copyTiers(token, work);
        break;
      case 'stop':
        this.#pulls.get(keyOf(token))?.pull.cancel();
        break;
    }
  }

  /** A step of the NPU has begun, and holds its blocks: what is lent of it is open. */
  begin(npu: number, step: number): void {
    for (const { token, blocks } of this.#ahead.begin(npu, step)) this.#ahead.opened(npu, step, this.#offer(token, blocks, 0), this.#offersOf(token.group));
  }

  /** Of that step, something is lent. */
  lends(npu: number, step: number): boolean {
    return this.#ahead.lends(npu, step);
  }

  /** In that step, the KV of the first `layers` layers is there. */
  reach(npu: number, step: number, layers: number): void {
    this.#ahead.reach(npu, step, layers);
  }

  /** Lets all go on. True if a transfer ended. */
  poll(): boolean {
    // Links alone that are there are probed: who has pulled nothing yet finds out with the first pull.
    if (this.#options.network !== null) this.#cluster.probe(this.#wordsOf);
    if (this.#lent.size === 0 && this.#cluster.pending === 0) return false;
    this.#losePullsOfTheLost();
    const now_ms = this.#options.now_ms();
    let ended = this.#cluster.poll() > 0;
    for (const offers of this.#offers.values()) ended = offers.poll(now_ms, SUM_BYTES) || ended;
    if (!ended) return false;
    this.#drain();
    for (const die of this.#untold) this.#options.arrive(die);
    if (this.#cluster.pending === 0) this.#untold.clear();
    return true;
  }

  /**
   * A lease is let go of by a word in memory: a lender that sleeps sees none, and its task, and the whole request, would end with its next look. To wake it takes
   * this thread 0.1 to 0.3 ms, which what was pulled is not to wait for: to be called when its step is done, or there is nothing to do.
   */
  tellHolders(): void {
    if (this.#released.size === 0) return;
    for (const die of this.#released) this.#options.arrive(die);
    this.#released.clear();
  }

  /** A lender that was given up makes no sums any more, and its successor may sit elsewhere: whoever waits for them would wait for ever. */
  #losePullsOfTheLost(): void {
    for (const { pull, offer } of this.#pulls.values()) if (this.#isLost(offer)) pull.loseSource();
  }

  #isLost({ die, epoch }: KvOffer): boolean {
    return this.#options.space.control.epochOfDie(die) !== epoch;
  }

  #copyTiers(token: Token, work: TierCopy): void {
    try {
      this.#tell(token, transferDone(token.id), this.#copies.perform(this.#npusOf(token.group), work));
    } catch (error) {
      this.#tell(token, transferFailed(token.id, toErrorRecord(error), error instanceof DramDamage ? error.blocks : []), 0);
    }
  }

  #drain(): void {
    for (const { token, end } of this.#cluster.drain()) {
      const { owner, blocks, pull, offer } = this.#pulls.get(keyOf(token)) as PullUnderWay;
      this.#pulls.delete(keyOf(token));
      if (end.state === 'failed' && end.reason === 'link_broken') this.#untold.add(offer.die);
      if (end.state === 'done') this.#copyToRanks(token.group, blocks, owner.kvSums);
      for (const block of blocks) owner.blocks.free(block);
      const message = end.state === 'failed' ? transferFailed(token.id, toErrorRecord(end.error)) : transferDone(token.id);
      this.#tell(token, message, pull.copied_bytes);
      this.#released.add(offer.die);
    }
    for (const offers of this.#offers.values())
      for (const { token, end, registration } of offers.drain()) {
        this.#ahead.forget(this.#lent.get(keyOf(token)) as Offer<Token>);
        this.#lent.delete(keyOf(token));
        if (end === 'pulled') this.#tell(token, transferDone(token.id), registration.blocks * this.#blockBytesOf(token.group));
        else this.#tell(token, transferFailed(token.id, notPulled(end)), 0);
      }
  }

  #offer(token: Token, blocks: readonly number[], layers_there?: number): Offer<Token> {
    const { group, id } = token;
    const offer = this.#offersOf(group).open(token, blocks, NO_LIMIT, layers_there);
    assert(offer, `${group} lends to more than its table of offers has room for`);
    this.#lent.set(keyOf(token), offer);
    const { npu, slot, serial } = offer.registration;
    const { die, epoch } = this.#ownerOf(group);
    this.#tell(token, offered(id, { npu, die, epoch, slot, serial, blocks }), 0);
    return offer;
  }

  #pull(token: Token, offer: KvOffer, blocks: readonly number[]): void {
    const { plan } = this.#options;
    const owner = this.#ownerOf(token.group);
    for (const block of blocks) owner.blocks.rewrite(block);
    try {
      const { npu, die, slot, serial } = offer;
      if (this.#isLost(offer)) throw new MinipodError('worker_failed', `NPU ${npu}, which lends, was given up`);
      const executorOf = (of: number): number => plan.hosting.deployment.npus[of]?.executor as number;
      const registration = { npu, slot, serial, blocks: offer.blocks.length };
      const targets = blocks.map((block) => owner.blocks.addressOf(block));
      const { kvSums } = owner;
      const guard = kvSums && guardOf(blocks, kvSums);
      const link = this.#cluster.between(executorOf(npu), executorOf(owner.npu));
      const pull = link.pull(token, owner, registration, this.#sourceOf(npu, die), targets, guard);
      this.#pulls.set(keyOf(token), { pull, owner, blocks, offer });
    } catch (error) {
      for (const block of blocks) owner.blocks.free(block);
      this.#tell(token, transferFailed(token.id, toErrorRecord(error)), 0);
    }
  }

  #copyToRanks(group: Address, blocks: readonly number[], pulled: KvSums | null): void {
    const { space, directory } = this.#options;
    const [first, ...others] = this.#npusOf(group);
    const { kv } = this.#sourceOf(first as number, directory.dieOfNpu(first as number));
    for (const npu of others) {
      const { kv: target } = this.#sourceOf(npu, directory.dieOfNpu(npu));
      const sums = this.#sumsOf(npu);
      for (const block of blocks) {
        space.copy(target.address + block * kv.block_bytes, kv.address + block * kv.block_bytes, kv.block_bytes);
        if (pulled !== null) sums?.set(block, pulled.of(block));
      }
    }
  }

  #tell({ group, cause }: Token, message: TransferMessage, bytes: number): void {
    this.#options.tell(group, message, cause, bytes);
  }

  #npusOf(group: Address): readonly number[] {
    return (this.#options.plan.hosting.deployment.groups[idOf(group)] as DpGroupPlace).npus;
  }

  #ownerOf(group: Address): KvOwner {
    const owner = this.#owners.get(this.#npusOf(group)[0] as number);
    assert(owner, `${group} does not live here`);
    return owner;
  }

  #offersOf(group: Address): Offers<Token> {
    const offers = this.#offers.get(this.#npusOf(group)[0] as number);
    assert(offers, `${group} lends nothing: it is of no prefill executor that lives here`);
    return offers;
  }

  #blockBytesOf(group: Address): number {
    const { npu, die } = this.#ownerOf(group);
    return this.#sourceOf(npu, die).kv.block_bytes;
  }

  #sourceOf(npu: number, die: number): OfferSource {
    return onDie(this.#options.plan, npu, die);
  }

  /** Of any rank, whoever hosts it. */
  #sumsOf(npu: number): KvSums | null {
    const own = this.#owners.get(npu);
    const { plan, space, directory, checksum } = this.#options;
    if (own !== undefined || plan.options.kv_checks === 'off') return own?.kvSums ?? null;
    return new KvSums(npu, space, this.#sourceOf(npu, directory.dieOfNpu(npu)).kv, checksum);
  }

  /** Of an executor's first NPU, wherever that sits now. */
  readonly #wordsOf = (executor: number): number => {
    const { plan, directory } = this.#options;
    const first = plan.hosting.deployment.executors[executor]?.attention.first as number;
    return this.#sourceOf(first, directory.dieOfNpu(first)).kv.address;
  };

  #isGone(puller: number): boolean {
    return isOver(puller, this.#options.space.control.epochOfDie(dieOfPuller(puller)));
  }
}

const guardOf = (blocks: readonly number[], sums: KvSums): Guard => ({
  sum: (index, at) => sums.arrive(blocks[index] as number, at),
  keep: (index, sum) => sums.keep(blocks[index] as number, sum),
});

const notPulled = (end: Exclude<OfferEnd, 'pulled'>): ErrorRecord => ({ code: 'worker_failed', message: `what was lent was not pulled: ${end}`, param: null });
