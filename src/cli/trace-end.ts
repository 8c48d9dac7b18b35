/**
 * What a command says of a trace that does not hold the whole run: it shows what is before, and its exit code tells.
 * @module
 */
import type { Acts } from '../trace/acts.ts';
import { note } from './output.ts';

export const INCOMPLETE = 3;

/** Called once all acts were read. `what`: what became of those before, such as "was exported". */
export function noteEnd(file: string, { damage, stopped }: Acts, what: string, setExitCode: (code: number) => void): void {
  if (damage !== null) note(`minipod: ${file}: ${damage.message}; what is before ${what}`);
  if (stopped !== null) note(`minipod: ${file}: recording ended before the run did: ${stopped}; what is before ${what}`);
  if (damage !== null || stopped !== null) setExitCode(INCOMPLETE);
}
