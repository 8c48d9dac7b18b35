/**
 * KV that changes hands, in a replay: what was lent is put aside when it was lent, and is there when it is pulled, though the thread that lent it may have
 * gone on meanwhile: the trace has no order between what two threads do to each other's memory.
 *
 * What was lent while it was computed (by layer) is put aside only when the lender hears that it was pulled; or it is taken where it lies, if who pulled says so
 * first: until one of the two it is there, and not before.
 * @module
 */
import { onDie } from '../flowserve/pod-plan.ts';
import type { Machine } from '../platform/build-machine.ts';
import { type Address, idOf } from '../protocol/address.ts';
import type { KvOffer } from '../protocol/messages.ts';
import type { DpGroupPlace } from '../protocol/topology.ts';
import type { Transfer, TransferMessage } from '../protocol/transfers.ts';
import type { Directory } from '../runtime/directory.ts';

export class KvAgain {
  readonly #machine: Machine;
  readonly #directory: Directory;
  /** By offer: its blocks, one behind the other. */
  readonly #lent = new Map<string, Uint8Array>();
  /** By transfer: the offer that it made. */
  readonly #offers = new Map<string, string>();
  /** By transfer: it offers what is still computed. And by offer, where that lies. */
  readonly #ahead = new Set<string>();
  readonly #growing = new Map<string, KvOffer>();
  /** Of those, by transfer: what is pulled, and into which blocks; by offer: who pulled it has it. */
  readonly #pulling = new Map<string, { readonly offer: KvOffer; readonly blocks: readonly number[] }>();
  readonly #taken = new Set<string>();
  /** Transfers that asked for what the trace does not have. */
  readonly #unknown = new Set<string>();

  constructor(machine: Machine, directory: Directory) {
    this.#machine = machine;
    this.#directory = directory;
  }

  /** Blocks that are put aside, of how many offers. */
  get lent(): number {
    return this.#lent.size;
  }

  /** Of a step that goes on: it is not there yet when it is lent. */
  offer(group: Address, { id, step }: Extract<Transfer, { readonly kind: 'offer' }>): void {
    if (step > 0) this.#ahead.add(transferName(group, id));
  }

  pull(group: Address, { id, offer, blocks }: Extract<Transfer, { readonly kind: 'pull' }>): void {
    if (this.#growing.has(offerName(offer))) {
      this.#pulling.set(transferName(group, id), { offer, blocks });
      return;
    }
    const bytes = this.#lent.get(offerName(offer));
    if (bytes === undefined) {
      this.#unknown.add(transferName(group, id));
      return;
    }
    this.#lent.delete(offerName(offer));
    this.#copy(group, bytes, blocks);
  }

  /** Into blocks of each rank of the group. */
  #copy(group: Address, bytes: Uint8Array, blocks: readonly number[]): void {
    for (const npu of this.npusOf(group)) {
      const { address, block_bytes } = this.#kvOf(npu);
      for (const [index, block] of blocks.entries())
        this.#machine.space.bytesAt(address + block * block_bytes, block_bytes).set(bytes.subarray(index * block_bytes, (index + 1) * block_bytes));
    }
  }

  /** What a group heard of its transfers. False: it has KV now that the trace does not have. */
  hear(group: Address, message: TransferMessage): boolean {
    const transfer = transferName(group, message.id);
    if (message.type === 'OFFERED') this.#lend(transfer, message.offer);
    else {
      this.#endPull(group, transfer, message.type === 'TRANSFER_DONE');
      const offer = this.#offers.get(transfer);
      this.#offers.delete(transfer);
      // Where it was pulled, whoever did may yet say so: threads are ahead of each other.
      if (offer !== undefined && message.type === 'TRANSFER_FAILED') this.#lent.delete(offer);
      if (offer !== undefined) this.#endGrowing(offer, message.type === 'TRANSFER_DONE');
      this.#ahead.delete(transfer);
      if (this.#unknown.delete(transfer)) return message.type === 'TRANSFER_FAILED';
    }
    return true;
  }

  #endPull(group: Address, transfer: string, isThere: boolean): void {
    const pull = this.#pulling.get(transfer);
    if (pull === undefined) return;
    this.#pulling.delete(transfer);
    if (!isThere) return;
    const name = offerName(pull.offer);
    this.#copy(group, this.#lent.get(name) ?? this.#bytesOf(pull.offer), pull.blocks);
    if (!this.#lent.delete(name)) this.#taken.add(name);
  }

  #endGrowing(name: string, wasPulled: boolean): void {
    const offer = this.#growing.get(name);
    this.#growing.delete(name);
    if (!this.#taken.delete(name) && offer !== undefined && wasPulled) this.#lent.set(name, this.#bytesOf(offer));
  }

  #lend(transfer: string, offer: KvOffer): void {
    this.#offers.set(transfer, offerName(offer));
    if (this.#ahead.has(transfer)) this.#growing.set(offerName(offer), offer);
    else this.#lent.set(offerName(offer), this.#bytesOf(offer));
  }

  #bytesOf(offer: KvOffer): Uint8Array {
    const { address, block_bytes } = this.#kvOf(offer.npu);
    const bytes = new Uint8Array(offer.blocks.length * block_bytes);
    for (const [index, block] of offer.blocks.entries())
      bytes.set(this.#machine.space.bytesAt(address + block * block_bytes, block_bytes), index * block_bytes);
    return bytes;
  }

  npusOf(group: Address): readonly number[] {
    return (this.#machine.plan.hosting.deployment.groups[idOf(group)] as DpGroupPlace).npus;
  }

  #kvOf(npu: number): { readonly address: number; readonly block_bytes: number } {
    return onDie(this.#machine.plan, npu, this.#directory.dieOfNpu(npu)).kv;
  }
}

const offerName = ({ die, epoch, slot, serial }: KvOffer): string => `${die} ${epoch} ${slot} ${serial}`;
const transferName = (group: Address, id: number): string => `${group} ${id}`;
