/**
 * vitest's runner for many mutants in one process that stays warm: each test is run as it is, twice, then once with each mutant whose place it passes and that
 * nobody has killed yet. What a mutant leaves behind could fail the next one: so after each failure the test has to pass again without any.
 * @module
 */
import { appendFileSync, readFileSync } from 'node:fs';
import type { Test } from '@vitest/runner';
import { TestRunner } from 'vitest';

/** Of a test, by its id: mutants to be tried. */
export type TestOrders = Readonly<Record<string, readonly number[]>>;
export type TestLine = { readonly mutant: number; readonly test: string; readonly state: 'begun' | 'passed' | 'killed'; readonly what: string };

const shared = globalThis as { switchTo?: (mutant: number) => void; killedMutants?: Set<number> };
const [orders, out] = [process.env['TEST_ORDERS'] ?? '', process.env['TEST_LINES'] ?? ''];

export default class ManyRunner extends TestRunner {
  readonly #orders = JSON.parse(readFileSync(orders, 'utf8')) as TestOrders;

  async runTask(test: Test): Promise<void> {
    const run = TestRunner.getTestFn(test) as () => Promise<void>;
    await run();
    shared.killedMutants ??= new Set();
    const killed = shared.killedMutants;
    const due = (this.#orders[test.id] ?? []).filter((mutant) => !killed.has(mutant));
    if (due.length === 0) return;
    // One that cannot be repeated says nothing.
    await run();
    const say = (mutant: number, state: TestLine['state'], what = ''): void =>
      appendFileSync(out, `${JSON.stringify({ mutant, test: test.id, state, what } satisfies TestLine)}\n`);
    for (const mutant of due) {
      say(mutant, 'begun');
      shared.switchTo?.(mutant);
      let failure: unknown = null;
      try {
        await run();
      } catch (error) {
        failure = error ?? 'it failed';
      }
      shared.switchTo?.(0);
      // How long it takes is the machine's matter. One that comes to no end is found in a process of its own.
      const isLate = failure instanceof Error && failure.message.includes('timed out in');
      if (failure !== null) await run();
      if (failure === null || isLate) say(mutant, 'passed');
      else {
        killed.add(mutant);
        const file = test.file.filepath.replace(/.*\/(?=test\/)/, '');
        say(
          mutant,
          'killed',
          `${file} > ${test.fullTestName ?? test.name}: ${failure instanceof Error ? (failure.message.split('\n')[0] ?? '') : String(failure)}`,
        );
      }
    }
  }
}
