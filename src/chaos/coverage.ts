/** Which faults were tried at which phase, in pods of which recovery, and how many of them changed anything. @module */
import { type Cell, recoveryFor } from './fault-kinds.ts';
import type { FaultReport } from './fault-report.ts';
import type { Recovery } from './recoveries.ts';

export type CoverageRow = {
  readonly kind: string;
  readonly phase: string;
  readonly recovery: Cell['recovery'];
  readonly planned: number;
  readonly struck: number;
  readonly effective: number;
};

const nameOf = ({ kind, phase, recovery }: Pick<CoverageRow, 'kind' | 'phase' | 'recovery'>): string => `${kind} ${phase} ${recovery}`;

export class Coverage {
  readonly #cells = new Map<string, CoverageRow>();

  /** `recovery`: of the pod. */
  add(faults: readonly FaultReport[], recovery: Recovery): void {
    for (const { kind, phase, struck, effect } of faults) {
      const cell = { kind, phase, recovery: recoveryFor(kind, recovery) };
      const { planned, struck: others, effective } = this.#cells.get(nameOf(cell)) ?? { planned: 0, struck: 0, effective: 0 };
      this.#cells.set(nameOf(cell), { ...cell, planned: planned + 1, struck: others + Number(struck), effective: effective + Number(effect > 0) });
    }
  }

  /** By kind, then phase, then recovery. */
  get rows(): readonly CoverageRow[] {
    return [...this.#cells.values()].toSorted((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
  }
}
