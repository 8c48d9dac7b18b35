/**
 * The control page: the first page of every segment after its guard. Segment 0's is the one that counts; stop words and epochs are written into all of
 * them, since a kernel sees its own segment only.
 *
 *   byte 0       threads, 128 bytes each   | bell | stop | wakes | arrivals | epoch | stopped | OS thread | dropped | … | progress | …
 *   byte 16,384  epochs of the dies        u32 each
 *   byte 20,480  domains                   u32 generation each: odd while the domain lives
 *   byte 21,504  lease                     u64: who leads, and until when (leader-lease.ts)
 *   byte 21,568  admission                 i32 each: choices in the pod | of them by job executor (admission.ts)
 *   byte 21,632  lives                     u32 each: how many are over, of the control thread and of each worker, wherever it sits
 *   byte 24,576  region table, 32 bytes a region (region-table.ts)
 *
 * Who writes: stop words, epochs, domains, lives and regions the control thread alone, but for domains whose members end them (xccl/dp-domain.ts); bell, wakes and arrivals whoever wakes; `stopped` and `dropped` its own thread; lease and
 * admission whoever hosts a cluster manager or a job executor, by compare-and-swap and add. Lease, admission and lives are in segment 0 alone.
 * @module
 */
import { assert, invariantBroken } from '../protocol/errors.ts';
import { GUARD_BYTES, PAGE_BYTES } from './address.ts';

export const CONTROL_PAGE_BYTES = PAGE_BYTES;
const THREAD_BYTES = 128;
export const THREADS_MAX = 128;
export const DIES_MAX = 1_024;
export const DOMAINS_MAX = 256;
export const REGIONS_MAX = 1_024;
const DIES_AT = THREADS_MAX * THREAD_BYTES;
const DOMAINS_AT = DIES_AT + DIES_MAX * 4;
const LEASE_AT = DOMAINS_AT + DOMAINS_MAX * 4;
const ADMISSION_AT = LEASE_AT + 64;
const LIVES_AT = ADMISSION_AT + 64;
/** The control thread and the workers. */
const LIVES_MAX = THREADS_MAX + 1;
const REGION_TABLE_AT = 24_576;
const REGION_WORDS = 8;
assert(LIVES_AT + LIVES_MAX * 4 <= REGION_TABLE_AT, 'the tables of the control page overlap');
assert(REGION_TABLE_AT + REGIONS_MAX * REGION_WORDS * 4 <= CONTROL_PAGE_BYTES, 'the region table outgrows the control page');

/** On a line of its own: kernels advance it between tiles (model/kernels/assembly/stop.ts), while other threads look at the first words. */
const PROGRESS = 16;
/** What a kernel, which knows where the stop word is, adds to that. */
export const PROGRESS_BEHIND_STOP_BYTES = (PROGRESS - 1) * 4;
const WORD = { bell: 0, stop: 1, wakes: 2, arrivals: 3, epoch: 4, stopped: 5, osThread: 6, dropped: 7, progress: PROGRESS } as const;
const AWAKE = 0;
const ASLEEP = 1;

/**
 * Wakes sleeping threads, lets a thread sleep, and says who is whom: stop words, epochs, domains.
 *
 * Race: the consumer marks itself asleep, *then* looks once more at its rings, then waits; the producer publishes, *then* looks at the mark.
 * Whichever comes first in the sequentially consistent order, either the consumer sees the frame or the producer sees the mark.
 */
export class ControlPage {
  readonly #words: Int32Array;
  /** The same page of the other segments. */
  readonly #mirrors: readonly Int32Array[];
  readonly #base: number;
  readonly #offset: number;

  constructor(memories: WebAssembly.Memory | readonly WebAssembly.Memory[], offset = GUARD_BYTES) {
    const [first, ...others] = memories instanceof WebAssembly.Memory ? [memories] : memories;
    assert(first, 'a control page needs a memory');
    this.#words = new Int32Array(first.buffer);
    this.#mirrors = others.map((memory) => new Int32Array(memory.buffer));
    this.#base = offset / 4;
    this.#offset = offset;
  }

  #at(thread: number, word: number): number {
    if (thread >= THREADS_MAX) invariantBroken(`thread ${thread} of at most ${THREADS_MAX}`);
    return this.#base + thread * (THREAD_BYTES / 4) + word;
  }

  #storeInAll(word: number, value: number): void {
    for (const mirror of this.#mirrors) Atomics.store(mirror, word, value);
    Atomics.store(this.#words, word, value);
  }

  /** One futex call per idle period of the sleeper: only if it is marked asleep. True if it was. */
  ring(thread: number): boolean {
    const bell = this.#at(thread, WORD.bell);
    if (Atomics.load(this.#words, bell) !== ASLEEP || Atomics.compareExchange(this.#words, bell, ASLEEP, AWAKE) !== ASLEEP) return false;
    Atomics.add(this.#words, this.#at(thread, WORD.wakes), 1);
    Atomics.notify(this.#words, bell);
    return true;
  }

  /**
   * For who sleeps on though its bell has rung: whoever rang it may have been put off its processor before it woke anybody, and nobody else rings a second time.
   * A sleeper that there is not is not woken.
   */
  nudge(thread: number): void {
    Atomics.notify(this.#words, this.#at(thread, WORD.bell));
  }

  /** Something came for this thread that is no frame: it looks at its dies' metadata, at once if it sleeps. */
  arrive(thread: number): void {
    Atomics.add(this.#words, this.#at(thread, WORD.arrivals), 1);
    this.ring(thread);
  }

  /** Counts what came for this thread, modulo 2³²: unchanged, nothing has. */
  arrivals(thread: number): number {
    return Atomics.load(this.#words, this.#at(thread, WORD.arrivals));
  }

  /** Blocks this thread until its bell rings or the time is up; at once if `hasWork` after the mark is set. */
  sleep(thread: number, timeout_ms: number, hasWork: () => boolean): void {
    const bell = this.#at(thread, WORD.bell);
    Atomics.store(this.#words, bell, ASLEEP);
    if (!hasWork() && !this.isStopped(thread)) Atomics.wait(this.#words, bell, ASLEEP, timeout_ms);
    Atomics.store(this.#words, bell, AWAKE);
  }

  /**
   * The same for a thread that must go on serving its event loop: a promise of the bell, to be raced with a timer by `EventLoopSleeper`.
   * Null: the bell has rung already.
   */
  untilRung(thread: number): Promise<unknown> | null {
    const wait = Atomics.waitAsync(this.#words, this.#at(thread, WORD.bell), ASLEEP);
    return wait.async ? wait.value : null;
  }

  markAsleep(thread: number): void {
    Atomics.store(this.#words, this.#at(thread, WORD.bell), ASLEEP);
  }

  markAwake(thread: number): void {
    Atomics.store(this.#words, this.#at(thread, WORD.bell), AWAKE);
  }

  /** It sleeps, or is about to, and nobody has rung. */
  isMarkedAsleep(thread: number): boolean {
    return Atomics.load(this.#words, this.#at(thread, WORD.bell)) === ASLEEP;
  }

  /** Sleeps without a mark: producers spend no wake on a thread that looks up by itself in a moment. */
  nap(thread: number, duration_ms: number): void {
    Atomics.wait(this.#words, this.#at(thread, WORD.bell), AWAKE, duration_ms);
  }

  /** The thread had a message for one that it has no rings with, so it went to nobody. */
  drop(thread: number): void {
    Atomics.add(this.#words, this.#at(thread, WORD.dropped), 1);
  }

  dropped(thread: number): number {
    return Atomics.load(this.#words, this.#at(thread, WORD.dropped));
  }

  wakes(thread: number): number {
    return Atomics.load(this.#words, this.#at(thread, WORD.wakes));
  }

  stop(thread: number): void {
    this.#storeInAll(this.#at(thread, WORD.stop), 1);
    this.ring(thread);
  }

  isStopped(thread: number): boolean {
    return Atomics.load(this.#words, this.#at(thread, WORD.stop)) === 1;
  }

  /** Where a kernel polls the thread's stop word: an offset that holds in every segment. */
  stopWordOffset(thread: number): number {
    return this.#offset + thread * THREAD_BYTES + WORD.stop * 4;
  }

  /** Differs from what it was, modulo 2³²: the thread's kernels have got on with their work, in whichever segment. */
  progressOf(thread: number): number {
    const at = this.#at(thread, WORD.progress);
    return this.#mirrors.reduce((sum, mirror) => (sum + Atomics.load(mirror, at)) | 0, Atomics.load(this.#words, at));
  }

  /** The same of a thread that has no kernels: it has turned its loop. */
  turn(thread: number): void {
    Atomics.add(this.#words, this.#at(thread, WORD.progress), 1);
  }

  /** As the operating system knows the thread, by its own word; 0: not known. */
  osThreadOf(thread: number): number {
    return Atomics.load(this.#words, this.#at(thread, WORD.osThread));
  }

  setOsThread(thread: number, id: number): void {
    Atomics.store(this.#words, this.#at(thread, WORD.osThread), id);
  }

  /** The last word of a thread that was told to stop: from here on it writes nothing. */
  acknowledgeStop(thread: number): void {
    Atomics.store(this.#words, this.#at(thread, WORD.stopped), 1);
  }

  hasAcknowledged(thread: number): boolean {
    return Atomics.load(this.#words, this.#at(thread, WORD.stopped)) === 1;
  }

  /** Readies a thread's words for its successor, its epoch apart; its predecessor must be proven gone. */
  reset(thread: number): void {
    for (const word of Object.values(WORD)) if (word !== WORD.epoch && word !== WORD.stop) Atomics.store(this.#words, this.#at(thread, word), 0);
    this.#storeInAll(this.#at(thread, WORD.stop), 0);
  }

  /** The thread's epoch: 1 for the first that has its rings, raised when it is given up. A plain load, like `epochOfDie`: asked for each turn and frame. */
  epochOf(thread: number): number {
    return (this.#words[this.#at(thread, WORD.epoch)] as number) + 1;
  }

  /** From now on nothing that the thread wrote or will write counts. */
  raiseEpoch(thread: number): void {
    this.#storeInAll(this.#at(thread, WORD.epoch), this.epochOf(thread));
  }

  /**
   * A plain load, 1 ns against 7: asked several times a poll, next to atomic operations, which no compiler moves it across. Whoever must know that a copy
   * was made before the epoch rose looks here after a read-modify-write (Endpoint.isStill).
   */
  epochOfDie(die: number): number {
    return (this.#words[this.#dieAt(die)] as number) + 1;
  }

  raiseEpochOfDie(die: number): void {
    this.#storeInAll(this.#dieAt(die), this.epochOfDie(die));
  }

  /** A domain's generation: odd while it lives. A plain load, like the epoch's. */
  generationOf(domain: number): number {
    return this.#words[this.#domainAt(domain)] as number;
  }

  setGeneration(domain: number, generation: number): void {
    this.#storeInAll(this.#domainAt(domain), generation);
  }

  /** Segment 0's words and the index of a region's entry (region-table.ts). */
  regionEntry(region: number): { readonly words: Int32Array; readonly at: number } {
    if (region >= REGIONS_MAX) invariantBroken(`region ${region} of at most ${REGIONS_MAX}`);
    return { words: this.#words, at: this.#base + REGION_TABLE_AT / 4 + region * REGION_WORDS };
  }

  /** The lease's word, as its index among the 64-bit words of segment 0. */
  get lease(): { readonly words: BigInt64Array; readonly at: number } {
    return { words: new BigInt64Array(this.#words.buffer), at: (this.#offset + LEASE_AT) / 8 };
  }

  /** The words of admission, from its first. */
  get admission(): { readonly words: Int32Array; readonly at: number } {
    return { words: this.#words, at: this.#base + ADMISSION_AT / 4 };
  }

  /** Which life a worker is in, from 1 (−1: the control thread, which has one). Its successor may sit on another thread, so this is no thread's epoch. */
  lifeOf(worker: number): number {
    return Atomics.load(this.#words, this.#base + LIVES_AT / 4 + 1 + worker) + 1;
  }

  endLife(worker: number): void {
    Atomics.add(this.#words, this.#base + LIVES_AT / 4 + 1 + worker, 1);
  }

  /**
   * The next generation of a domain whose members end it themselves, unless another one was first. In segment 0 alone, where all of them read it.
   */
  passGeneration(domain: number, generation: number): boolean {
    return Atomics.compareExchange(this.#words, this.#domainAt(domain), generation, (generation + 1) | 0) === generation;
  }

  #dieAt(die: number): number {
    if (die >= DIES_MAX) invariantBroken(`die ${die} of at most ${DIES_MAX}`);
    return this.#base + (DIES_AT + die * 4) / 4;
  }

  #domainAt(domain: number): number {
    if (domain >= DOMAINS_MAX) invariantBroken(`domain ${domain} of at most ${DOMAINS_MAX}`);
    return this.#base + (DOMAINS_AT + domain * 4) / 4;
  }
}
