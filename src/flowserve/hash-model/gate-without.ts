/** What a gate of the hash model chooses in the place of masked experts: the next ones behind each that it would not have chosen. In place, ascending. @module */
export function doWithout(chosen: Int32Array, masked: ReadonlySet<number>, experts: number): void {
  for (const [at, expert] of chosen.entries()) {
    let next = expert;
    for (let tries = 0; tries < experts && masked.has(next); tries++)
      do next = (next + 1) % experts;
      while (chosen.includes(next) && !masked.has(next));
    chosen[at] = next;
  }
  chosen.sort();
}
