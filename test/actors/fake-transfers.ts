/** DistFlow without memory: who lends, who pulls, and when a transfer ends, which the test decides. */
import { type Address, idOf } from '../../src/protocol/address.ts';
import { offered, transferDone, transferFailed } from '../../src/protocol/constructors.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import type { KvOffer, Message, Transfer } from '../../src/protocol/messages.ts';
import type { FakeNpu } from './fake-npu.ts';

type Lent = { readonly group: Address; readonly id: number; readonly offer: KvOffer; readonly sum: string; puller: string | null; isWithdrawn: boolean };
type Pull = { readonly group: Address; readonly id: number; readonly from: Lent; readonly blocks: readonly number[] };

const ended = (message: string): ErrorRecord => ({ code: 'worker_failed', message, param: null });

export class FakeTransfers {
  readonly #npus: readonly FakeNpu[];
  /** By group. */
  readonly #ranks: readonly (readonly FakeNpu[])[];
  readonly #tell: (group: Address, message: Message) => void;
  /** By serial. */
  readonly #lent = new Map<number, Lent>();
  readonly #pulls = new Map<string, Pull>();
  #serial = 0;

  /** `ranks`: of each group. */
  constructor(ranks: readonly (readonly FakeNpu[])[], tell: (group: Address, message: Message) => void) {
    this.#npus = ranks.map(([first]) => first as FakeNpu);
    this.#ranks = ranks;
    this.#tell = tell;
  }

  /** Pulls that go on. */
  get pulls(): readonly string[] {
    return [...this.#pulls.keys()];
  }

  /** The first offer that has not ended, as its group knows it. */
  get first(): { readonly group: Address; readonly id: number } | null {
    const [lent] = this.#lent.values();
    return lent ?? null;
  }

  /** Offers that have not ended. */
  get open(): number {
    return this.#lent.size;
  }

  perform(group: Address, work: Transfer): void {
    switch (work.kind) {
      case 'offer': {
        const offer: KvOffer = { npu: idOf(group), die: idOf(group), epoch: 1, slot: 0, serial: ++this.#serial, blocks: work.blocks };
        this.#lent.set(offer.serial, { group, id: work.id, offer, sum: this.#sumOf(offer), puller: null, isWithdrawn: false });
        this.#tell(group, offered(work.id, offer));
        break;
      }
      case 'withdraw': {
        const lent = [...this.#lent.values()].find((one) => one.group === group && one.id === work.id);
        if (lent !== undefined) this.#withdraw(lent);
        break;
      }
      case 'pull': {
        const from = this.#lent.get(work.offer.serial);
        const name = `${group} ${work.id}`;
        if (from === undefined || from.isWithdrawn || from.puller !== null) this.#tell(group, transferFailed(work.id, ended('the offer has ended')));
        else {
          from.puller = name;
          this.#pulls.set(name, { group, id: work.id, from, blocks: work.blocks });
        }
        break;
      }
      case 'copy':
      case 'swap-in':
      case 'swap-out':
        for (const rank of this.#ranks[idOf(group)] ?? []) rank.copy(work);
        this.#tell(group, transferDone(work.id));
        break;
      case 'stop':
        this.end(`${group} ${work.id}`, false);
        break;
    }
  }

  /** The pull that is named comes to its end. */
  end(name: string, isWhole: boolean): void {
    const pull = this.#pulls.get(name);
    if (pull === undefined) return;
    this.#pulls.delete(name);
    const { group, id, from, blocks } = pull;
    this.#lent.delete(from.offer.serial);
    // A checksum tells what was lost under the copy.
    const isThere = isWhole && !from.isWithdrawn && this.#sumOf(from.offer) === from.sum;
    if (isThere) (this.#npus[idOf(group)] as FakeNpu).pull(this.#npus[from.offer.npu] as FakeNpu, from.offer.blocks, blocks);
    this.#tell(group, isThere ? transferDone(id) : transferFailed(id, ended('the transfer was stopped')));
    this.#tell(from.group, isThere ? transferDone(from.id) : transferFailed(from.id, ended('nobody pulled it')));
  }

  #sumOf({ npu, blocks }: KvOffer): string {
    return (this.#npus[npu] as FakeNpu).sum(blocks);
  }

  /** Nobody begins to pull it; who pulls it is fenced, and says when it has stopped. */
  #withdraw(lent: Lent): void {
    if (lent.isWithdrawn) return;
    lent.isWithdrawn = true;
    if (lent.puller !== null) return;
    this.#lent.delete(lent.offer.serial);
    this.#tell(lent.group, transferFailed(lent.id, ended('nobody pulled it')));
  }
}
