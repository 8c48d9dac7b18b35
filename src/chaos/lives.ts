/** The pods of one run: it begins with one, and when that one's control thread is lost another begins in its place, of which nothing is lost yet. @module */
import type { VirtualControl } from '../platform/virtual-control.ts';
import { NS_PER_MS } from '../runtime/virtual-host.ts';
import type { Span } from './call-times.ts';
import { Losses } from './losses.ts';

type Life = { readonly control: VirtualControl; readonly losses: Losses; readonly began_ns: number };

export class Lives {
  readonly #lives: Life[] = [];

  begin(control: VirtualControl): void {
    this.#lives.push({ control, losses: new Losses(control), began_ns: control.host.now_ns });
  }

  /** What the one that lives has lost. */
  get losses(): Losses {
    return (this.#lives.at(-1) as Life).losses;
  }

  /** From when to when there was none, in virtual time. */
  get gaps(): readonly Span[] {
    return this.#lives.slice(1).map(({ began_ns }, index) => {
      const { control } = this.#lives[index] as Life;
      return { since_ms: control.host.now_ns / NS_PER_MS, until_ms: began_ns / NS_PER_MS };
    });
  }

  /** Workers that were given up, since somebody on them was silent. */
  get givenUp(): number {
    return this.#sum(({ workers }) => workers.suspicions.report().counts.given_up);
  }

  /** Workers that were lost since nothing came through to them, or from them. */
  get brokenLinks(): number {
    return this.#sum(({ workers }) => workers.brokenLinks);
  }

  get slowestMove_ns(): number {
    return Math.max(...this.#lives.map(({ control }) => control.slowestMove_ns));
  }

  /** As each of them had it. */
  hasLacked(dp_group: number | undefined, then_ms: number): boolean {
    return this.#lives.some(({ losses }) => losses.hasLacked(dp_group, then_ms));
  }

  #sum(of: (control: VirtualControl) => number): number {
    return this.#lives.reduce((sum, { control }) => sum + of(control), 0);
  }
}
