/**
 * KV that changes hands, in a replay: what was lent is put aside when it was lent, and is there when it is pulled, though the thread that lent it may have
 * gone on meanwhile: the trace has no order between what two threads do to each other's memory.
 * @module
 */
import { onDie } from '../flowserve/pod-plan.ts';
import type { Machine } from '../platform/machine.ts';
import { type Address, idOf } from '../protocol/address.ts';
import type { KvOffer, Transfer } from '../protocol/messages.ts';
import type { DpGroupPlace } from '../protocol/topology.ts';
import type { Directory } from '../runtime/directory.ts';
import type { TransferMessage } from './replay.ts';

export class KvAgain {
  readonly #machine: Machine;
  readonly #directory: Directory;
  /** By offer: its blocks, one behind the other. */
  readonly #lent = new Map<string, Uint8Array>();
  /** By transfer: the offer that it made. */
  readonly #offers = new Map<string, string>();
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

  /** Into blocks of each rank of the group. */
  pull(group: Address, { id, offer, blocks }: Extract<Transfer, { readonly kind: 'pull' }>): void {
    const bytes = this.#lent.get(offerName(offer));
    if (bytes === undefined) {
      this.#unknown.add(transferName(group, id));
      return;
    }
    this.#lent.delete(offerName(offer));
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
      const offer = this.#offers.get(transfer);
      this.#offers.delete(transfer);
      // Where it was pulled, whoever did may yet say so: threads are ahead of each other.
      if (offer !== undefined && message.type === 'TRANSFER_FAILED') this.#lent.delete(offer);
      if (this.#unknown.delete(transfer)) return message.type === 'TRANSFER_FAILED';
    }
    return true;
  }

  #lend(transfer: string, offer: KvOffer): void {
    const { address, block_bytes } = this.#kvOf(offer.npu);
    const bytes = new Uint8Array(offer.blocks.length * block_bytes);
    for (const [index, block] of offer.blocks.entries())
      bytes.set(this.#machine.space.bytesAt(address + block * block_bytes, block_bytes), index * block_bytes);
    this.#lent.set(offerName(offer), bytes);
    this.#offers.set(transfer, offerName(offer));
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
