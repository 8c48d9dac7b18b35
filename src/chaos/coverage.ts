/** Which faults were tried at which phase, and how many of them changed anything. @module */
import type { FaultReport } from './injector.ts';

export type CoverageRow = {
  readonly kind: string;
  readonly phase: string;
  readonly planned: number;
  readonly struck: number;
  readonly effective: number;
};

export class Coverage {
  readonly #cells = new Map<string, { kind: string; phase: string; planned: number; struck: number; effective: number }>();

  add(faults: readonly FaultReport[]): void {
    for (const { kind, phase, struck, effect } of faults) {
      const key = `${kind} ${phase}`;
      const cell = this.#cells.get(key) ?? { kind, phase, planned: 0, struck: 0, effective: 0 };
      this.#cells.set(key, cell);
      cell.planned++;
      if (struck) cell.struck++;
      if (effect > 0) cell.effective++;
    }
  }

  /** By kind, then phase. */
  get rows(): readonly CoverageRow[] {
    return [...this.#cells.values()].toSorted((a, b) => (`${a.kind} ${a.phase}` < `${b.kind} ${b.phase}` ? -1 : 1));
  }
}
