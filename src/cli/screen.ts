/** The same lines of the terminal, painted over and over. @module */
import { clearScreenDown, moveCursor } from 'node:readline';
import { stripVTControlCharacters } from 'node:util';
import { print } from './output.ts';

export class Screen {
  #lines = 0;

  clear(): void {
    moveCursor(process.stdout, -1000, -this.#lines);
    clearScreenDown(process.stdout);
    this.#lines = 0;
  }

  /** No more than the terminal shows: lines that have scrolled away cannot be painted over. */
  async paint(lines: readonly string[]): Promise<void> {
    // A terminal that does not know its size says 0.
    const { rows, columns } = process.stdout;
    const high = (rows || 24) - 1;
    const wide = columns || 200;
    const more = lines.length - high;
    const shown = more <= 0 ? lines : [...lines.slice(0, high - 1), `… ${more + 1} more lines, shown at the end or on a higher terminal`];
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
