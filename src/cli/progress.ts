/** How far a command is, for whoever watches. @module */
import yoctoSpinner, { type Spinner } from 'yocto-spinner';

const CELLS = 24;

export class Progress implements Disposable {
  readonly #what: string;
  #spinner: Spinner | null = null;

  /** Shows nothing where nobody watches, nor before there is something to tell. */
  constructor(what: string) {
    this.#what = what;
  }

  /** `share`: of all that there is to do. */
  show(share: number): void {
    if (!process.stderr.isTTY) return;
    this.#spinner ??= yoctoSpinner({ text: this.#what, stream: process.stderr }).start();
    const full = Math.floor(CELLS * share);
    this.#spinner.text = `${this.#what} ${'█'.repeat(full)}${'░'.repeat(CELLS - full)} ${Math.floor(100 * share)} %`;
  }

  end(): void {
    this.#spinner?.stop();
    this.#spinner = null;
  }

  [Symbol.dispose](): void {
    this.end();
  }
}
