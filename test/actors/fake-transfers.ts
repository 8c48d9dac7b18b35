/** DistFlow without memory: who lends, who pulls, and when a transfer ends, which the test decides. */
import { type Address, idOf } from '../../src/protocol/address.ts';
import { offered, transferDone, transferFailed } from '../../src/protocol/constructors.ts';
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import type { KvOffer, Message } from '../../src/protocol/messages.ts';
import type { Transfer } from '../../src/protocol/transfers.ts';
import type { FakeNpu } from './fake-npu.ts';

type Lent = { readonly group: Address; readonly id: number; readonly offer: KvOffer; readonly sum: string; puller: string | null; isWithdrawn: boolean };
/** To be lent when its step begins. */
type Ahead = { readonly group: Address; readonly id: number; readonly blocks: readonly number[]; readonly step: number };
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
  #ahead: Ahead[] = [];
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
    return this.#lent.size + this.#ahead.length;
  }

  /** The group's step has begun, and, if it is sound, computed: what is lent of it is there, or will never be. */
  begin(group: Address, step: number, isSound: boolean): void {
    const begun = this.#ahead.filter((ahead) => ahead.group === group && ahead.step === step);
    this.#ahead = this.#ahead.filter((ahead) => !begun.includes(ahead));
    for (const { id, blocks } of begun) this.#lend(group, id, blocks, isSound);
  }

  perform(group: Address, work: Transfer): void {
    switch (work.kind) {
      case 'offer': {
        const { id, blocks, step } = work;
        if (step > 0) this.#ahead.push({ group, id, blocks, step });
        else this.#lend(group, id, blocks, true);
        break;
      }
      case 'withdraw': {
        const lent = [...this.#lent.values()].find((one) => one.group === group && one.id === work.id);
        if (lent !== undefined) this.#withdraw(lent);
        else if (this.#ahead.some((ahead) => ahead.group === group && ahead.id === work.id)) {
          this.#ahead = this.#ahead.filter((ahead) => ahead.group !== group || ahead.id !== work.id);
          this.#tell(group, transferFailed(work.id, ended('its step has not begun')));
        }
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

  #lend(group: Address, id: number, blocks: readonly number[], isSound: boolean): void {
    const offer: KvOffer = { npu: idOf(group), die: idOf(group), epoch: 1, slot: 0, serial: ++this.#serial, blocks };
    this.#lent.set(offer.serial, { group, id, offer, sum: isSound ? this.#sumOf(offer) : 'never', puller: null, isWithdrawn: false });
    this.#tell(group, offered(id, offer));
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
