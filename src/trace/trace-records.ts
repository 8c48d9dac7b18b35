/**
 * One pass over the records of a trace.
 * @module
 */
import { type BlockWalk, type Damaged, type Expected, type Found, following } from './block-walk.ts';
import { grouped, type TraceDamage } from './damage.ts';
import { CanonicalStream, type TraceIdentity } from './identity.ts';
import { lengthBytes, readLength } from './record-framing.ts';

/** `bytes` stays as it is, and keeps its block in memory as long as it is held. `offset`: the byte of the file where that block begins. */
export type TraceRecord = { readonly index: number; readonly bytes: Uint8Array; readonly offset: number };

type Head = { readonly json: Uint8Array; readonly file_bytes: number };

/** Made by `TraceReader.records`. Iterated again, it begins again. */
export class TraceRecords implements Iterable<TraceRecord> {
  /** Why the iteration ended before the end mark; null while it goes on, and when it came to a sound end. */
  damage: TraceDamage | null = null;
  /** Recomputed from what was read: from record 0 to the end, or to where an unfinished trace stops; null if anything was left out or is damaged. */
  identity: TraceIdentity | null = null;
  readonly #walk: BlockWalk;
  readonly #head: Head;
  readonly #start: Expected;
  readonly #from: number;
  readonly #onDamage: ((damage: TraceDamage) => void) | null;

  constructor(walk: BlockWalk, head: Head, start: Expected, from: number, onDamage: ((damage: TraceDamage) => void) | null) {
    this.#walk = walk;
    this.#head = head;
    this.#start = start;
    this.#from = from;
    this.#onDamage = onDamage;
  }

  *[Symbol.iterator](): Generator<TraceRecord, void, undefined> {
    this.damage = null;
    this.identity = null;
    let stream = this.#from === 0 ? new CanonicalStream(this.#head.json) : null;
    let at = this.#start;
    for (;;) {
      const read = this.#read(at);
      if (read.kind === 'block') {
        if (read.raw) {
          stream?.add(read.raw);
          yield* this.#recordsOf(read.raw, at);
        }
        at = read.next;
        continue;
      }
      if (read.kind === 'end') {
        this.identity = this.#identify(stream, at);
        if (this.identity !== null && this.identity.hash !== read.end.hash) this.damage = otherIdentity(at);
        return;
      }
      const resume = this.#passOver(read);
      if (resume === null) {
        this.damage = read.damage;
        if (read.damage.kind === 'unfinished') this.identity = this.#identify(stream, at);
        return;
      }
      stream = null;
      at = resume;
    }
  }

  /** What is at `at`; a block that ends before the first record asked for stays closed. */
  #read(at: Expected): Exclude<Found, { kind: 'block' }> | { readonly kind: 'block'; readonly raw: Uint8Array | null; readonly next: Expected } {
    const found = this.#walk.look(at);
    if (found.kind !== 'block') return found;
    const next = following(found.header, found.offset);
    if (next.record <= this.#from) return { kind: 'block', raw: null, next };
    const raw = this.#walk.open(found.header, found.offset);
    return raw instanceof Uint8Array ? { kind: 'block', raw, next } : raw;
  }

  /** The records of an opened block, which `holdsRecords` has gone over before. */
  *#recordsOf(raw: Uint8Array, { offset, record }: Expected): Generator<TraceRecord, void, undefined> {
    let index = record;
    for (let at = 0; at < raw.length; index++) {
      const length = readLength(raw, at);
      const begin = at + lengthBytes(length);
      at = begin + length;
      if (index >= this.#from) yield { index, bytes: raw.subarray(begin, at), offset };
    }
  }

  /** Where to go on behind the damage; null where the caller wants to stop, or nothing sound follows. */
  #passOver({ damage, resume }: Damaged): Expected | null {
    if (this.#onDamage === null || damage.kind === 'unfinished') return null;
    const next = resume ?? this.#walk.search({ offset: damage.byte, number: damage.block, record: damage.record });
    if (next !== null) this.#onDamage({ ...damage, bytes_lost: next.offset - damage.byte, records_lost: next.record - damage.record });
    return next;
  }

  #identify(stream: CanonicalStream | null, { record }: Expected): TraceIdentity | null {
    return stream && { hash: stream.digest(), records: record, raw_bytes: stream.bytes, file_bytes: this.#head.file_bytes };
  }
}

const otherIdentity = ({ offset, number, record }: Expected): TraceDamage => ({
  kind: 'damaged',
  message: `the end mark at byte ${grouped(offset)}: its hash is not that of the records before it, though each block is sound: they are of another run`,
  byte: offset,
  block: number,
  record,
  bytes_lost: null,
  records_lost: null,
});
