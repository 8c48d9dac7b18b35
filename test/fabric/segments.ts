import { cases } from '../property-runs.ts';

/** How many segments the memory of a test has: what holds in one must hold in two and in five. Rings lie in the first, the control page in all of them. */
export const SEGMENTS = [1, 2, 5] as const;
/** Those of it that this runtime tries where threads take their time. */
export const TRIED = cases([5, 1, 2]);

/** Segments that are nothing but a guard and a control page. */
export const bareSegments = (count: number): WebAssembly.Memory[] =>
  Array.from({ length: count }, () => new WebAssembly.Memory({ initial: 2, maximum: 2, shared: true }));
