/** Mutants: what is drawn, and that who looks for them tells one that matters from one that changes nothing. Hundreds are looked for by scripts/mutants.ts. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { candidatesOf } from '../../scripts/mutants/candidates.ts';
import { changed, type Numbered, switched } from '../../scripts/mutants/switches.ts';
import { ROOT } from '../cli/source-copy.ts';

const SOURCE = `
type Small = 1 | 2;
const LIMIT = 10;
function sum(of, most) {
  let total = 0;
  for (const each of of) if (each < most) total += each;
  if (total > LIMIT) throw new Error(\`\${total + 1} is more than \${LIMIT}\`);
  return total;
}
export { sum };`;

describe('what may be changed', () => {
  const found = candidatesOf(SOURCE);

  it('should be conditions, comparisons, numbers and statements, and nothing in types, messages or what is thrown', () => {
    expect(found.map(({ operator, start, end, text }) => `${operator}: ${SOURCE.slice(start, end)} → ${text}`)).toEqual([
      'number off by one: 0 → 1',
      'condition negated: each < most → !(each < most)',
      'boundary moved: each < most → each <= most',
      'statement removed: total += each; → ;',
      'condition negated: total > LIMIT → !(total > LIMIT)',
      'boundary moved: total > LIMIT → total >= LIMIT',
    ]);
  });

  it('should do behind its switch what it does in its place, and nothing while the switch is off', () => {
    const numbered = found.map((candidate, index): Numbered => ({ ...candidate, id: index + 1 }));
    const run = (source: string, mutant: number): string => {
      const body = source.replace(/^type .*$/m, '').replace('export { sum };', 'return sum;');
      const sum = new Function('isMutant', body)((id: number) => id === mutant) as (of: number[], most: number) => number;
      const told = (most: number): number | string => {
        try {
          return sum([3, 4, 3], most);
        } catch (error) {
          return String(error);
        }
      };
      return JSON.stringify([3, 4, 5].map(told));
    };
    const withSwitches = switched(SOURCE, numbered);
    expect(run(withSwitches, 0)).toBe(run(SOURCE, 0));
    for (const mutant of numbered) expect(run(withSwitches, mutant.id)).toBe(run(changed(SOURCE, mutant), 0));
    expect(new Set(numbered.map(({ id }) => run(withSwitches, id))).size).toBeGreaterThan(4);
  });
});

describe('the script', () => {
  it('should find one that matters killed, and one that changes nothing alive', async () => {
    const file = 'src/fabric/slots.ts';
    const source = readFileSync(join(ROOT, file), 'utf8');
    const mutantOf = (id: number, operator: Numbered['operator'], from: string, text: string): object => {
      expect(source.split(from)).toHaveLength(2);
      const start = source.indexOf(from);
      return { id, operator, file, line: source.slice(0, start).split('\n').length, from, start, end: start + from.length, text };
    };
    const work = mkdtempSync(join(tmpdir(), 'minipod-mutants-'));
    try {
      const mutants = [
        mutantOf(1, 'comparison turned', 'this.#head === this.#published', 'this.#head !== this.#published'),
        // Where it has as much as it wants it looks once more, and has as much.
        mutantOf(2, 'boundary moved', 'free < wanted', 'free <= wanted'),
      ];
      writeFileSync(join(work, 'mutants.json'), JSON.stringify({ seed: 0, commit: 'none', mutants }));
      const script = ['scripts/mutants.ts', '--work', work, '--rooms', 'fabric/slots.test.ts', '--seeds', '1'];
      // These tests start no thread, so the copy needs no bundles.
      await promisify(execFile)(process.execPath, script, { cwd: ROOT, env: { ...process.env, SOURCES: '1' } });
      const results = readFileSync(join(work, 'results.jsonl'), 'utf8').trim().split('\n');
      expect(results.map((line) => JSON.parse(line))).toMatchObject([
        { id: 1, by: 'tests', what: expect.stringContaining('slots come whole') },
        { id: 2, by: null, tried: { tests: 1, seeds: 0 } },
      ]);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
    // A copy and several runs of vitest, which a crowded machine does not do within a minute.
  }, 240_000);
});
