/** What is looked at over and over on a terminal, until q or Ctrl-C. @module */
import type { Interrupt } from './interrupt.ts';
import { onKeys } from './keys.ts';
import { Screen } from './screen.ts';

/** What is recent: rates and shares are over so long, since those of a second alone would jump. */
const WINDOW_MS = 5_000;

export type Watched<Look> = {
  readonly first: Look;
  /** @throws what is shown in place of the lines: it may come back */
  readonly look: () => Promise<Look>;
  /** `wide`: longer lines are cut off. */
  readonly linesOf: (earliest: Look, now: Look, wide: number) => readonly string[];
  /** Between two looks; the interrupt ends it early. */
  readonly pause: () => Promise<void>;
  readonly interrupt: Interrupt;
};

/** The exit code. */
export async function watch<Look extends { readonly at_ms: number }>({ first, look, linesOf, pause, interrupt }: Watched<Look>): Promise<number> {
  const screen = new Screen('on a higher terminal');
  const looks = [first];
  let hasLeft = false;
  using _keys = onKeys((key) => {
    hasLeft ||= key === 'q';
    // A terminal in raw mode gives Ctrl-C as a key.
    if (key === 'q' || key === '\x03') interrupt.raise('SIGINT');
  });
  for (;;) {
    await pause();
    if (interrupt.by !== null) return hasLeft ? 0 : interrupt.exit_code;
    try {
      const now = await look();
      looks.push(now);
      while (looks.length > 2 && now.at_ms - (looks[1] as Look).at_ms >= WINDOW_MS) looks.shift();
      await screen.paint([...linesOf(looks[0] as Look, now, screen.wide), '', 'q leaves']);
    } catch (error) {
      if (interrupt.by === null) await screen.paint([error instanceof Error ? error.message : String(error), '', 'q leaves']);
    }
  }
}
