/**
 * Who waits, in order: at the end, at the front for those who had to give way, and gone from anywhere, each in the same time however many wait.
 * @module
 */

export class WaitingLine<Waiter> {
  /** The first is at its end. */
  #front: Waiter[] = [];
  #back: Waiter[] = [];
  /** Of `#back`, those who are no longer in it. */
  #taken = 0;
  /** They stand in a list still, and are passed over. */
  readonly #gone = new Set<Waiter>();

  get length(): number {
    return this.#front.length + this.#back.length - this.#taken - this.#gone.size;
  }

  /** Those who wait, and those who left and are not let go of yet. */
  get kept(): number {
    return this.#front.length + this.#back.length;
  }

  get first(): Waiter | undefined {
    this.#passOverGone();
    return this.#front.at(-1) ?? this.#back[this.#taken];
  }

  push(waiter: Waiter): void {
    this.#back.push(waiter);
  }

  unshift(waiter: Waiter): void {
    this.#front.push(waiter);
  }

  shift(): void {
    this.#passOverGone();
    this.#drop();
  }

  /** `waiter` is in the line. */
  remove(waiter: Waiter): void {
    this.#gone.add(waiter);
    // Those who left are let go of before they are more than those who wait.
    if (this.#gone.size > this.length) this.#compact();
  }

  *[Symbol.iterator](): Generator<Waiter, void, undefined> {
    for (const waiter of this.#front.toReversed()) if (!this.#gone.has(waiter)) yield waiter;
    for (let at = this.#taken; at < this.#back.length; at++) if (!this.#gone.has(this.#back[at] as Waiter)) yield this.#back[at] as Waiter;
  }

  #compact(): void {
    const there = (waiter: Waiter): boolean => !this.#gone.has(waiter);
    this.#back = this.#back.slice(this.#taken).filter(there);
    this.#taken = 0;
    this.#front = this.#front.filter(there);
    this.#gone.clear();
  }

  #passOverGone(): void {
    for (let next = this.#front.at(-1) ?? this.#back[this.#taken]; next !== undefined && this.#gone.delete(next); ) {
      this.#drop();
      next = this.#front.at(-1) ?? this.#back[this.#taken];
    }
  }

  #drop(): void {
    if (this.#front.pop() !== undefined) return;
    this.#taken++;
    if (this.#taken * 2 < this.#back.length) return;
    this.#back = this.#back.slice(this.#taken);
    this.#taken = 0;
  }
}
