/**
 * Sources with all their mutants in them, each behind a switch: one copy, one bundle and one look at what tests reach serve them all, and a process says at its
 * start which mutant it is of.
 * @module
 */
import type { Candidate } from './candidates.ts';

export type Numbered = Candidate & { readonly id: number };

/** What the switches ask; switch-thread.mjs defines it. */
export const SWITCH = 'isMutant';

/** The source with one change and no switch: what a compiler is asked about. */
export const changed = (source: string, { start, end, text }: Candidate): string => source.slice(0, start) + text + source.slice(end);

/** Mutants stand in one another as their places do. */
export function switched(source: string, mutants: readonly Numbered[]): string {
  const outermostFirst = [...mutants].sort((a, b) => a.start - b.start || b.end - a.end);
  return within(source, 0, source.length, outermostFirst);
}

function within(source: string, start: number, end: number, mutants: readonly Numbered[]): string {
  let text = '';
  let at = start;
  for (let index = 0; index < mutants.length; ) {
    const outer = mutants[index] as Numbered;
    const inside = mutants.slice(index).filter((mutant) => mutant.start < outer.end);
    const here = inside.filter((mutant) => mutant.start === outer.start && mutant.end === outer.end);
    text += source.slice(at, outer.start) + behindSwitches(here, within(source, outer.start, outer.end, inside.slice(here.length)));
    at = outer.end;
    index += inside.length;
  }
  return text + source.slice(at, end);
}

function behindSwitches(mutants: readonly Numbered[], original: string): string {
  const [{ operator, id }] = mutants as readonly [Numbered];
  if (operator === 'statement removed') return `{ if (!${SWITCH}(${id})) { ${original} } }`;
  if (operator === 'action removed') return `...(${SWITCH}(${id}) ? [] : [${original}])`;
  return `(${mutants.map((mutant) => `${SWITCH}(${mutant.id}) ? (${mutant.text}) : `).join('')}(${original}))`;
}
