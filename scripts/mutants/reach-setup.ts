/** Of each test file, where places are noted: which ones its tests passed, and those that were passed outside of any test. */
import { appendFileSync } from 'node:fs';
import { afterAll, afterEach, beforeEach, expect } from 'vitest';

export type ReachedTest = { readonly id: string; readonly name: string; readonly cpu_s: number; readonly passed: boolean; readonly places: readonly number[] };
/** `pid`: whose threads' places are the file's, too. */
export type ReachedFile = { readonly file: string; readonly pid: number; readonly outside: readonly number[]; readonly tests: readonly ReachedTest[] };

/** `passedOutside`: by this process so far. Files of one process share modules, and what those pass as they load counts for all who use them. */
const shared = globalThis as { takeReached?: () => readonly number[]; passedOutside?: Set<number> };
const { takeReached } = shared;
if (takeReached !== undefined) {
  shared.passedOutside ??= new Set();
  const outside = shared.passedOutside;
  const note = (): void => {
    for (const place of takeReached()) outside.add(place);
  };
  note();
  const tests: ReachedTest[] = [];
  const used_s = (): number => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  };
  let from_s = 0;
  beforeEach(() => {
    note();
    from_s = used_s();
  });
  afterEach(({ task }) => {
    tests.push({ id: task.id, name: task.name, cpu_s: used_s() - from_s, passed: task.result?.state !== 'fail', places: takeReached() });
  });
  afterAll(() => {
    note();
    const reached: ReachedFile = { file: expect.getState().testPath ?? '', pid: process.pid, outside: [...outside], tests };
    appendFileSync(process.env['REACHED'] ?? '', `${JSON.stringify(reached)}\n`);
  });
}
