/** Standard output of a command. @module */
import { once } from 'node:events';
import { writeSync } from 'node:fs';

/** Waits where the reader is slower than the pod, so that nothing piles up. */
export async function print(text: string): Promise<void> {
  if (text !== '' && !process.stdout.write(text)) await once(process.stdout, 'drain');
}

export const printLine = (text: string): Promise<void> => print(`${text}\n`);

export const printJson = (value: unknown): Promise<void> => printLine(JSON.stringify(value));

/** What is said beside the output. Written at once, so that nothing of it is lost when the process ends. */
export function note(text: string): void {
  try {
    writeSync(process.stderr.fd, `${text}\n`);
  } catch {
    // Nobody listens.
  }
}

/** `minipod … | head`: the reader has what it wanted, so this is no failure. */
export function endQuietlyWithReader(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    note(`minipod: standard output cannot be written: ${error.message}`);
    process.exit(1);
  });
}
