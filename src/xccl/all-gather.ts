/**
 * All-gather between the ranks of one DP group (tensor parallelism): each rank has computed its part of every row of a table, and pulls the others' parts
 * to the same places of its own. Bits are moved, never added up: what a table holds in the end does not depend on how it was split.
 *
 *   rank 0   | 0 0 0 . . . . . |         | 0 0 0 1 1 1 2 2 |
 *   rank 1   | . . . 1 1 1 . . |   ─▶    | 0 0 0 1 1 1 2 2 |      rows of `stride` bytes; rank r's part is bytes bounds[r] … bounds[r + 1] of each
 *   rank 2   | . . . . . . 2 2 |         | 0 0 0 1 1 1 2 2 |
 *
 *   field    a step | b number | c the group's life | d offset of the table in the gather area | e rows       in each peer's metadata
 *
 * Gathers of a group are numbered since its ranks began together; those of even and of odd numbers have a channel each. Nobody acknowledges anything: who
 * publishes number n + 1 has pulled all of n, so whoever has ended n + 1 knows that its own table n is not read any more. Hence the one rule for
 * callers: two gathers in a row are of different tables. For the same reason a field is whole for as long as anybody looks for it.
 *
 * Ranks that are given up break the gather at once. Those that go on begin anew together (`reset`), with a later step, or as the group of another life.
 * @module
 */
import { DIES_MAX } from '../fabric/control-page.ts';
import { assert, invariantBroken, MinipodError } from '../protocol/errors.ts';
import { CHANNEL, type Channel, FIELD_WORD } from './areas.ts';
import type { Endpoint } from './endpoint.ts';
import { DONE, deadlineExceeded, failed, type Operation, type Poll } from './operation.ts';
import { checkRange } from './parts.ts';

/** Lies in the gather area of each rank, at the same place or not. */
export type Table = {
  /** In this rank's area, a global address. */
  readonly address: number;
  readonly rows: number;
  /** Bytes from row to row; of no meaning where there is one. */
  readonly stride: number;
  /** By rank, and the end of the last one: bytes of a row. Alike at all ranks. */
  readonly bounds: readonly number[];
};

export class AllGather implements Operation {
  readonly rank: number;
  readonly ranks: number;
  readonly #endpoint: Endpoint;
  /** Ranks stay who they are; their dies may change while none is gathered from. */
  readonly #dieOf: (rank: number) => number;
  /** By rank, as they were when the gather at hand began. */
  readonly #dies: Int32Array;
  readonly #epochs: Int32Array;
  /** Null: none is under way. */
  #table: Table | null = null;
  #step = 0;
  #what = '';
  #timeout_ms = 0;
  #number = 0;
  #life = 0;
  #start_ms = 0;
  #tableBefore = -1;
  readonly #missing: number[] = [];
  readonly #pending: Poll = { state: 'pending', missing: this.#missing };
  /** Since this end was made. */
  gathers = 0;
  pulled_bytes = 0;

  constructor(endpoint: Endpoint, rank: number, ranks: number, dieOf: (rank: number) => number) {
    assert(rank >= 0 && rank < ranks, `rank ${rank} of ${ranks}`);
    this.rank = rank;
    this.ranks = ranks;
    this.#endpoint = endpoint;
    this.#dieOf = dieOf;
    this.#dies = new Int32Array(ranks);
    this.#epochs = new Int32Array(ranks);
  }

  /** Peers that the gather at hand waits for, by rank. */
  get missing(): readonly number[] {
    return this.#missing;
  }

  /** Whether a peer's part is missing. */
  get isWaiting(): boolean {
    return this.#missing.length > 0;
  }

  /**
   * This rank's part is computed: tells all peers where it lies. Then `poll` until the table is whole. Numbers of steps do not come again in a group's life;
   * `what`: the table's name in errors.
   */
  start(step: number, what: string, table: Table, timeout_ms: number): void {
    assert(this.#table === null, `${this.#name} is under way`);
    assert(table.bounds.length === this.ranks + 1, `${this.ranks} ranks, and bounds of ${table.bounds.length - 1}`);
    assert(table.address !== this.#tableBefore, 'two gathers in a row are of different tables: peers may still read the first');
    const endpoint = this.#endpoint;
    const { control } = endpoint.space;
    this.#step = step;
    this.#what = what;
    this.#table = table;
    this.#timeout_ms = timeout_ms;
    this.#number = (this.#number + 1) | 0;
    this.#tableBefore = table.address;
    this.#start_ms = endpoint.surroundings.now_ms();
    this.gathers++;
    for (let rank = 0; rank < this.ranks; rank++) {
      const die = this.#dieOf(rank);
      this.#dies[rank] = die;
      this.#epochs[rank] = rank === this.rank ? endpoint.epoch : endpoint.epochOf(die);
      if (rank !== this.rank) this.#missing.push(rank);
    }
    // A group lives and dies with its first rank, and counts its steps anew in each life.
    const [first = 0] = this.#dies;
    this.#life = (control.epochOfDie(first) * DIES_MAX + first) | 0;
    const offset = table.address - endpoint.areas.gather;
    for (const rank of this.#missing) endpoint.write(this.#dies[rank] as number, this.#channel, step, this.#number, this.#life, offset, table.rows);
  }

  /** Pulls what has come. After `done` or `failed` there is nothing to poll before the next start. */
  poll(): Poll {
    const table = this.#table;
    assert(table, 'no gather is under way');
    const broken = this.#broken();
    if (broken !== null) return this.#fail(broken);
    let kept = 0;
    for (let index = 0; index < this.#missing.length; index++) {
      const rank = this.#missing[index] as number;
      try {
        if (!this.#pull(table, rank)) this.#missing[kept++] = rank;
      } catch (error) {
        return this.#fail(error as MinipodError);
      }
    }
    this.#missing.length = kept;
    if (kept > 0) {
      const waited_ms = this.#endpoint.surroundings.now_ms() - this.#start_ms;
      return waited_ms < this.#timeout_ms ? this.#pending : this.#fail(deadlineExceeded(this.#name, this.#missing, waited_ms));
    }
    this.#table = null;
    return DONE;
  }

  /** Gives up what is under way. All ranks of the group do before any of them starts another gather, and that one is of a later step. */
  reset(): void {
    this.#table = null;
    this.#missing.length = 0;
    this.#number = 0;
    this.#tableBefore = -1;
    // What lies here now is of before: peers publish again when all have begun anew.
    for (let rank = 0; rank < this.ranks; rank++) {
      if (rank === this.rank) continue;
      const die = this.#dieOf(rank);
      for (const channel of [CHANNEL.gatherEven, CHANNEL.gatherOdd]) this.#endpoint.consume(die, channel, this.#endpoint.eventFrom(die, channel));
    }
  }

  get #channel(): Channel {
    return this.#number % 2 === 0 ? CHANNEL.gatherEven : CHANNEL.gatherOdd;
  }

  /** True if the peer's part has come, and is whole. */
  #pull(table: Table, rank: number): boolean {
    const endpoint = this.#endpoint;
    const channel = this.#channel;
    const die = this.#dies[rank] as number;
    const event = endpoint.newEventFrom(die, channel);
    if (event === 0) return false;
    // Left from before the ranks began anew, or from another life of the group.
    if (endpoint.wordFrom(die, channel, FIELD_WORD.a) !== this.#step || endpoint.wordFrom(die, channel, FIELD_WORD.c) !== this.#life) return false;
    const number = endpoint.wordFrom(die, channel, FIELD_WORD.b);
    // Of one that this rank has ended: said once more, as by a write that was held up. What is looked for comes behind it.
    if (((number - this.#number) | 0) < 0) return false;
    const offset = endpoint.wordFrom(die, channel, FIELD_WORD.d) >>> 0;
    const rows = endpoint.wordFrom(die, channel, FIELD_WORD.e);
    if (number !== this.#number || rows !== table.rows)
      invariantBroken(`rank ${rank} gathers ${rows} rows as number ${number}, ${this.#name} has ${table.rows}`);
    this.#copyPart(table, rank, die, offset);
    // Given up while the copy ran: what it left may be torn, and the next look says so.
    if (!endpoint.isStill(die, channel, event)) return false;
    endpoint.consume(die, channel, event);
    return true;
  }

  #copyPart({ address, rows, stride, bounds }: Table, rank: number, die: number, offset: number): void {
    const { space, surroundings } = this.#endpoint;
    const [from, to] = [bounds[rank] as number, bounds[rank + 1] as number];
    if (rows === 0 || from === to) return;
    const { gather, gather_bytes } = surroundings.areasOf(die);
    checkRange(`rank ${rank} (die ${die})`, 'gather', offset, (rows - 1) * stride + to, gather_bytes);
    this.pulled_bytes += rows * (to - from);
    space.copyRows(address + from, gather + offset + from, to - from, rows, stride);
  }

  /** A rank that was given up, this one's own die included. */
  #broken(): MinipodError | null {
    const { control } = this.#endpoint.space;
    for (let rank = 0; rank < this.ranks; rank++) {
      const die = this.#dies[rank] as number;
      if (control.epochOfDie(die) === this.#epochs[rank]) continue;
      return new MinipodError('worker_lost', `${this.#name} ended: rank ${rank} (die ${die}) was given up while it was under way`);
    }
    return null;
  }

  get #name(): string {
    return `gather ${this.#number} (${this.#what} of step ${this.#step}) at rank ${this.rank}`;
  }

  #fail(error: MinipodError): Poll {
    this.#table = null;
    this.#missing.length = 0;
    return failed(error);
  }
}
