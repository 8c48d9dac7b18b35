/** The same lines of the terminal, painted over and over. @module */
import { clearScreenDown, moveCursor } from 'node:readline';
import { stripVTControlCharacters } from 'node:util';
import { print } from './output.ts';

export class Screen {
  readonly #where: string;
  #lines = 0;

  /** `where`: lines are shown that the terminal has no room for. */
  constructor(where: string) {
    this.#where = where;
  }

  /** A terminal that does not know its size says 0. */
  get wide(): number {
    return process.stdout.columns || 200;
  }

  clear(): void {
    moveCursor(process.stdout, -1000, -this.#lines);
    clearScreenDown(process.stdout);
    this.#lines = 0;
  }

  /** No more than the terminal shows: lines that have scrolled away cannot be painted over. */
  async paint(lines: readonly string[]): Promise<void> {
    const high = (process.stdout.rows || 24) - 1;
    const { wide } = this;
    const more = lines.length - high;
    const shown = more <= 0 ? lines : [...lines.slice(0, high - 1), `… ${more + 1} more lines, shown ${this.#where}`];
    this.clear();
    this.#lines = shown.length;
    await print(shown.map((line) => `${fitting(line, wide)}\n`).join(''));
  }
}

/** Colours take no room; a line that is cut loses them. */
function fitting(line: string, wide: number): string {
  const visible = stripVTControlCharacters(line);
  return visible.length > wide ? `${visible.slice(0, wide - 1)}…` : line;
}
