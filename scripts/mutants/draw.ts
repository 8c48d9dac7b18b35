/**
 * Which mutants: drawn from a seed, over the rooms in proportion to their lines, in a room over its files likewise, in a file over the kinds of change alike.
 * One that does not compile is none, and another is drawn.
 * @module
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { API } from 'typescript/unstable/sync';
import { type Candidate, candidatesOf } from './candidates.ts';
import { changed } from './switches.ts';

/** `line`: from 1. `from`: what stands there, on one line. */
export type Mutant = Candidate & { readonly id: number; readonly file: string; readonly line: number; readonly from: string };

/** `from`: how many were drawn, and from which commit, where that is an earlier one. */
export type Draw = {
  readonly seed: number;
  readonly commit: string;
  readonly mutants: readonly Mutant[];
  readonly from?: { readonly commit: string; readonly count: number };
};

export const ROOMS = ['actors', 'src/flowserve', 'src/fabric'] as const;
const TRIES_MAX = 40;

type Below = (limit: number) => number;
type File = { readonly file: string; readonly source: string; readonly lines: number; readonly left: Map<string, Candidate[]> };

/** Mulberry32. */
export function drawsOf(seed: number): Below {
  let state = seed >>> 0;
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit) | 0;
  };
}

/** Says of changed sources whether they compile, by the compiler's own view of the whole project; of several at once, since a view costs a second. */
export class Compiler implements Disposable {
  readonly #changed = new Map<string, string>();
  readonly #api: API;
  readonly #config: string;

  constructor(root: string) {
    this.#config = join(root, 'tsconfig.json');
    this.#api = new API({ cwd: root, fs: { readFile: (file) => this.#changed.get(file) } });
    this.#api.updateSnapshot({ openProjects: [this.#config] });
  }

  /** Those of the files, each with one change, that compile. */
  compiling(changes: ReadonlyMap<string, string>): ReadonlySet<string> {
    const before = [...this.#changed.keys()];
    this.#changed.clear();
    for (const [file, source] of changes) this.#changed.set(file, source);
    using snapshot = this.#api.updateSnapshot({ fileChanges: { changed: [...new Set([...before, ...changes.keys()])] } });
    const program = snapshot.getProject(this.#config)?.program;
    if (program === undefined) throw new Error(`${this.#config} is no project`);
    const isRight = (file: string): boolean => program.getSyntacticDiagnostics(file).length === 0 && program.getSemanticDiagnostics(file).length === 0;
    return new Set([...changes.keys()].filter(isRight));
  }

  [Symbol.dispose](): void {
    this.#api.close();
  }
}

function filesOf(root: string, room: string): readonly File[] {
  return readdirSync(join(root, room), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .sort()
    .map((file) => {
      const source = readFileSync(join(root, file), 'utf8');
      return { file, source, lines: source.split('\n').length, left: Map.groupBy(candidatesOf(source), ({ operator }) => operator) };
    });
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);

/** So many of each room that they stand to one another as its lines do. */
function shares(lines: readonly number[], count: number): readonly number[] {
  const exact = lines.map((each) => (each * count) / sum(lines));
  const whole = exact.map(Math.floor);
  const byRest = exact.map((each, index) => [each - Math.floor(each), index] as const).sort((a, b) => b[0] - a[0]);
  for (const [, index] of byRest.slice(0, count - sum(whole))) whole[index] = (whole[index] ?? 0) + 1;
  return whole;
}

function take(files: readonly File[], below: Below): { readonly file: File; readonly candidate: Candidate } | null {
  let at = below(sum(files.map(({ lines }) => lines)));
  const file = files.find(({ lines }) => {
    at -= lines;
    return at < 0;
  }) as File;
  const operators = [...file.left.keys()].sort();
  const candidates = file.left.get(operators[below(operators.length)] ?? '');
  if (candidates === undefined) return null;
  const [candidate] = candidates.splice(below(candidates.length), 1) as [Candidate];
  if (candidates.length === 0) file.left.delete(candidate.operator);
  return { file, candidate };
}

export function drawMutants(root: string, rooms: readonly string[], count: number, seed: number, onTry: (drawn: number) => void = () => {}): Mutant[] {
  using compiler = new Compiler(root);
  const below = drawsOf(seed);
  const stocks = rooms.map((room) => filesOf(root, room));
  const wanted = shares(
    stocks.map((files) => sum(files.map(({ lines }) => lines))),
    count,
  );
  const mutants: Mutant[] = [];
  for (const [index, files] of stocks.entries()) {
    const room: Mutant[] = [];
    const due = wanted[index] ?? 0;
    for (let tries = 0; room.length < due && tries < TRIES_MAX; tries++) {
      // One of a file at a time: each is looked at as if it were the only one.
      const taken = Array.from({ length: Math.min(due, files.length) }, () => take(files, below)).filter((each) => each !== null);
      const once = new Map(taken.map((each) => [join(root, each.file.file), each]));
      const compiling = compiler.compiling(new Map([...once].map(([path, { file, candidate }]) => [path, changed(file.source, candidate)])));
      for (const [path, { file, candidate }] of once) {
        if (!compiling.has(path) || room.length === due) continue;
        const line = file.source.slice(0, candidate.start).split('\n').length;
        const from = file.source.slice(candidate.start, candidate.end).replaceAll(/\s+/g, ' ');
        room.push({ ...candidate, id: mutants.length + room.length + 1, file: file.file, line, from });
      }
      onTry(room.length);
    }
    mutants.push(...room);
  }
  return mutants;
}

/** Characters before and behind a change by which its place is found again. */
const CONTEXTS = [200, 100, 50, 25] as const;

/** The same changes in other sources, under the numbers that they have: of those whose places are still there, each once. `was`: a file as they were drawn from it. */
export function movedMutants(root: string, mutants: readonly Mutant[], was: (file: string) => string): Mutant[] {
  return mutants.flatMap((mutant) => {
    const { file, start, end } = mutant;
    if (!existsSync(join(root, file))) return [];
    const [before, now] = [was(file), readFileSync(join(root, file), 'utf8')];
    for (const context of CONTEXTS) {
      const from = Math.max(0, start - context);
      const around = before.slice(from, end + context);
      const at = now.indexOf(around);
      if (at < 0 || now.indexOf(around, at + 1) >= 0) continue;
      const moved = at + start - from;
      return [{ ...mutant, start: moved, end: moved + end - start, line: now.slice(0, moved).split('\n').length }];
    }
    return [];
  });
}
