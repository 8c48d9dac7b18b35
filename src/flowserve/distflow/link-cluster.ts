/**
 * `LinkCluster(peers)`: which executors may move tensors to which, and by what (DeepServe §4.4): M:N between all of them, one isolated instance a pair, within an
 * executor too (between its tiers). One a thread; instances are made when they are first asked for.
 *
 *   same fabric        one global memory: memory.copy          (memory-backend.ts)
 *   different fabrics  whatever `network` gives                (socket-backend.ts)
 * @module
 */
import type { AddressSpace } from '../../fabric/address-space.ts';
import { MinipodError } from '../../protocol/errors.ts';
import { numericsDiffer } from '../../protocol/numerics.ts';
import type { Backend } from './backend.ts';
import type { Checksum } from './checksum.ts';
import { type Ended, Instance } from './instance.ts';
import { noProbes, type ProbeCounters } from './link-probe.ts';
import { MemoryBackend } from './memory-backend.ts';
import { addCounters, noTransfers, type TransferCounters } from './outcome.ts';

/** `fabric`: executors that name the same one share a memory. `numerics`: by which their KV came about (protocol/numerics.ts). */
export type Peer = { readonly executor: number; readonly fabric: string; readonly numerics: string };

export type LinkClusterOptions = {
  readonly space: AddressSpace;
  readonly checksum: Checksum;
  /** A link between fabrics, as seen by the thread that pulls. Null: there is none. */
  readonly network: ((source: Peer, target: Peer) => Backend) | null;
};

export type LinkReport = {
  readonly source: number;
  readonly target: number;
  readonly backend: 'memory' | 'network';
  /** Why it carries nothing any more. */
  readonly broken: string | null;
  readonly pending: number;
  readonly counters: TransferCounters;
};

/** All that ever went from an executor to another. */
export type LinkTotals = Pick<LinkReport, 'source' | 'target' | 'counters'> & { readonly probes: ProbeCounters };

export class LinkCluster<Token> {
  readonly #options: LinkClusterOptions;
  readonly #peers = new Map<number, Peer>();
  /** Those that are broken and were replaced are last, until nothing of them is left. */
  readonly #instances: Instance<Token>[] = [];
  /** By source and target, of those that are gone. */
  readonly #gone = new Map<string, LinkTotals>();

  constructor(peers: readonly Peer[], options: LinkClusterOptions) {
    this.#options = options;
    this.link(peers);
  }

  /** More of them, such as an executor that was scaled up. */
  link(peers: readonly Peer[]): void {
    for (const peer of peers) this.#peers.set(peer.executor, peer);
  }

  /** An executor leaves: all links with it end, and what is under way on them fails. */
  unlink(executor: number, why: string): void {
    this.#peers.delete(executor);
    for (const instance of this.#instances) if (instance.source === executor || instance.target === executor) instance.break(why);
  }

  /**
   * The instance by which `target` takes from `source`; a new one where the last one broke.
   * @throws `invalid_request` for an executor that is none of the peers, a pair whose numerics are not the same, or that no fabric joins.
   */
  between(source: number, target: number): Instance<Token> {
    const living = this.#instances.find((instance) => instance.source === source && instance.target === target && instance.backend.broken === null);
    if (living !== undefined) return living;
    const { space, checksum } = this.#options;
    const instance = new Instance<Token>(source, target, space, this.#backend(this.#peer(source), this.#peer(target)), checksum);
    this.#instances.push(instance);
    return instance;
  }

  /** Under way on all links. */
  get pending(): number {
    let pending = 0;
    for (let index = 0; index < this.#instances.length; index++) pending += (this.#instances[index] as Instance<Token>).pending;
    return pending;
  }

  /** What is under way waits for its sources alone: there is nothing to do before one answers. */
  get isIdle(): boolean {
    for (let index = 0; index < this.#instances.length; index++) if (!(this.#instances[index] as Instance<Token>).isIdle) return false;
    return true;
  }

  /** Some source is to be asked again in about a millisecond, by a poll. */
  get mustAskAgain(): boolean {
    for (let index = 0; index < this.#instances.length; index++) if ((this.#instances[index] as Instance<Token>).mustAskAgain) return true;
    return false;
  }

  /** Lets every instance go on by its own bound. How many transfers ended. */
  poll(): number {
    let ended = 0;
    for (let index = 0; index < this.#instances.length; index++) ended += (this.#instances[index] as Instance<Token>).poll();
    return ended;
  }

  /** Links to other fabrics that there are. `addressOf`: any words of an executor's. */
  probe(addressOf: (executor: number) => number): void {
    for (let index = 0; index < this.#instances.length; index++) (this.#instances[index] as Instance<Token>).probe(addressOf);
  }

  /** Takes what has ended; and forgets the links that are broken once nothing of them is left. */
  drain(): readonly Ended<Token>[] {
    const ended = this.#instances.flatMap((instance) => instance.drain());
    for (const instance of this.#instances.filter(({ backend, pending }) => backend.isClosed && pending === 0)) {
      const gone = this.#goneOf(instance);
      addCounters(gone.counters, instance.counters);
      addProbes(gone.probes, instance.probes);
      this.#instances.splice(this.#instances.indexOf(instance), 1);
      const { source, target } = instance;
      // Who has left cannot be told; its holders know of that.
      if (this.#peers.has(source) && this.#peers.has(target)) for (const lease of instance.takeUnreturned()) this.between(source, target).return(lease);
    }
    return ended;
  }

  /** All links end. Poll and drain until nothing is pending. */
  close(why: string): void {
    for (const executor of [...this.#peers.keys()]) this.unlink(executor, why);
  }

  /** Of all links that ever were. */
  counters(): TransferCounters {
    const sum = noTransfers();
    for (const { counters } of this.totals()) addCounters(sum, counters);
    return sum;
  }

  /** The same by pair of executors. */
  totals(): LinkTotals[] {
    const totals = new Map<string, LinkTotals>();
    for (const { source, target, counters, probes } of [...this.#gone.values(), ...this.#instances]) {
      const pair = `${source} ${target}`;
      const sum = totals.get(pair) ?? { source, target, counters: noTransfers(), probes: noProbes() };
      addCounters(sum.counters, counters);
      addProbes(sum.probes, probes);
      totals.set(pair, sum);
    }
    return [...totals.values()];
  }

  #goneOf({ source, target }: Pick<LinkTotals, 'source' | 'target'>): LinkTotals {
    const pair = `${source} ${target}`;
    const gone = this.#gone.get(pair) ?? { source, target, counters: noTransfers(), probes: noProbes() };
    this.#gone.set(pair, gone);
    return gone;
  }

  /** Links that there are now. */
  report(): LinkReport[] {
    return this.#instances.map(({ source, target, backend, pending, counters }) => ({
      ...{ source, target, pending, counters },
      backend: backend.isMemory ? 'memory' : 'network',
      broken: backend.broken?.message ?? null,
    }));
  }

  #backend(source: Peer, target: Peer): Backend {
    if (source.numerics !== target.numerics) throw numericsDiffer(source, target);
    if (source.fabric === target.fabric) return new MemoryBackend(this.#options.space);
    const { network } = this.#options;
    if (network !== null) return network(source, target);
    throw new MinipodError(
      'invalid_request',
      `executor ${source.executor} is on ${source.fabric}, ${target.executor} on ${target.fabric}: a network between them would be right`,
    );
  }

  #peer(executor: number): Peer {
    const peer = this.#peers.get(executor);
    if (peer !== undefined) return peer;
    throw new MinipodError('invalid_request', `executor ${executor} is not linked; ${[...this.#peers.keys()].join(', ') || 'none'} are`);
  }
}

function addProbes(sum: ProbeCounters, { passed, broken, us_max }: ProbeCounters): void {
  sum.passed += passed;
  sum.broken += broken;
  sum.us_max = Math.max(sum.us_max, us_max);
}
