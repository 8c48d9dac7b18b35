/** The rules of the house (DESIGN.md), read from the sources: who may import whom, what actors may touch, how long a file may be. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const LINES_MAX = 400;

const filesOf = (folder: string): string[] =>
  readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts') && !entry.parentPath.includes('assembly'))
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));

const read = (file: string): string => readFileSync(join(ROOT, file), 'utf8');
const importsOf = (file: string): string[] =>
  [...read(file).matchAll(/^(?:import|export)\s[^;]*?from\s+'([^']+)'|^import\s+'([^']+)'|\bimport\('([^']+)'\)/gm)].map((match) => {
    const path = match[1] ?? match[2] ?? match[3] ?? '';
    return path.startsWith('.') ? relative(ROOT, join(ROOT, dirname(file), path)) : path;
  });

/** What running it loads: types vanish. */
const loadedBy = (file: string): string[] => {
  const isOfTypes = (clause: string): boolean => /^type\b/.test(clause) || /^\{(?:\s*type [^,}]*,?)+\s*\}$/.test(clause);
  const clauses = [...read(file).matchAll(/^(?:import|export)\s+([^;']*?)\s*from\s+'([^']+)'/gm)];
  const paths = new Set(clauses.filter(([, clause = '']) => !isOfTypes(clause)).map(([, , path = '']) => path));
  return [...paths].map((path) => (path.startsWith('.') ? relative(ROOT, join(ROOT, dirname(file), path)) : path));
};

const sources = filesOf('src');
const actors = filesOf('actors');

/** Floors of the house, top first: a room may import its own floor and those below. */
const FLOORS: readonly (readonly string[])[] = [
  ['cli'],
  ['api', 'chaos'],
  ['index'],
  ['pod'],
  ['calls'],
  ['options'],
  ['fidelity', 'quantize'],
  ['platform', 'trace', 'simulate'],
  ['flowserve'],
  ['xccl', 'model', 'runtime'],
  ['fabric'],
  ['protocol'],
];
/** Types and options of the embedded API, which every floor above the runtime may name. */
const SHARED = new Set(['src/options/options.ts', 'src/results.ts', 'src/stats.ts', 'src/pod.ts', 'src/calls/generation.ts']);

/** Files right under src/ are the embedded API. */
const roomOf = (file: string): string => (file.split('/').length === 2 ? 'index' : (file.split('/')[1] ?? ''));
const floorOf = (file: string): number => FLOORS.findIndex((rooms) => rooms.includes(roomOf(file)));

describe('imports', () => {
  it('point downward only', () => {
    const upward = sources
      .filter((file) => !SHARED.has(file))
      .flatMap((file) => {
        expect(floorOf(file), `${file} is in no known room`).toBeGreaterThanOrEqual(0);
        return importsOf(file)
          .filter((path) => path.startsWith('src/') && !SHARED.has(path) && floorOf(path) < floorOf(file))
          .map((path) => `${file} → ${path}`);
      });
    expect(upward).toEqual([]);
  });

  it('of actors and policies are xstate and the protocol alone', () => {
    const foreign = actors.flatMap((file) =>
      importsOf(file)
        .filter((path) => path !== 'xstate' && !path.startsWith('src/protocol/') && !path.startsWith('actors/'))
        .map((path) => `${file} → ${path}`),
    );
    expect(actors.length).toBeGreaterThan(8);
    expect(foreign).toEqual([]);
  });

  it('of policies do not reach up to the actors', () => {
    const upward = actors
      .filter((file) => file.includes('policies'))
      .flatMap((file) => importsOf(file).filter((path) => path.startsWith('actors/') && !path.includes('policies')));
    expect(upward).toEqual([]);
  });

  it('of xstate stand in actors/ alone, but for types in one folder, which has one door', () => {
    const isInside = (file: string): boolean => file.startsWith('src/runtime/xstate/');
    const users = sources.filter((file) => /^import (?!type)[^;]*from 'xstate'/m.test(read(file)));
    expect(users).toEqual([]);
    expect(sources.filter((file) => importsOf(file).includes('xstate') && !isInside(file))).toEqual([]);
    const doors = sources.filter((file) => !isInside(file)).flatMap((file) => importsOf(file).filter(isInside));
    expect([...new Set(doors)]).toEqual(['src/runtime/xstate/machine-host.ts']);
  });

  it('of an NPU’s worker are few: it starts in the time that a dead one’s requests wait', () => {
    const loaded = new Set(['src/flowserve/npu-worker.ts']);
    for (const file of loaded) if (file.endsWith('.ts')) for (const path of loadedBy(file)) loaded.add(path);
    const packages = [...loaded].filter((path) => !path.endsWith('.ts') && !path.startsWith('node:'));
    expect(packages.sort()).toEqual(['msgpackr/unpack', 'xstate']);
  });

  it('of the protocol stay on its floor', () => {
    const allowed = new Set(['msgpackr/unpack']);
    for (const file of sources.filter((file) => roomOf(file) === 'protocol'))
      for (const path of importsOf(file)) expect(path.startsWith('src/protocol/') || allowed.has(path), `${file} → ${path}`).toBe(true);
  });
});

describe('time and chance', () => {
  const IMPURE = /\bDate\b|\bperformance\b|Math\.random|\bcrypto\b|\bset(?:Timeout|Interval|Immediate)\b|\bqueueMicrotask\b|\bfetch\b|\bprocess\b|\bconsole\b/;
  const code = (file: string): string => read(file).replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '');

  it('are unknown to actors and policies', () => {
    expect(actors.filter((file) => IMPURE.test(code(file)))).toEqual([]);
  });

  it('below the API are read in the clock and random ports alone', () => {
    // A hash is a function of its input; all else of node:crypto may draw.
    const drawing = (file: string): string => code(file).replace("import { createHash } from 'node:crypto';", '');
    const readers = sources.filter(
      (file) => floorOf(file) >= floorOf('src/index.ts') && /\bDate\b|\bperformance\.|Math\.random|\bcrypto\b/.test(drawing(file)),
    );
    expect(readers).toEqual(['src/runtime/clock.ts']);
    const timers = sources.filter((file) => floorOf(file) >= floorOf('src/index.ts') && /\bset(?:Timeout|Interval)\(/.test(code(file)));
    expect(timers).toEqual(['src/runtime/clock.ts', 'src/runtime/event-loop.ts']);
  });
});

describe('word indices', () => {
  it('are shifted without a sign: a segment holds more than 2 GiB', () => {
    const signed = sources.filter((file) => /[^>]>> 2\b/.test(read(file)));
    expect(signed).toEqual([]);
  });
});

describe('files', () => {
  it(`have at most ${LINES_MAX} lines`, () => {
    const long = [...sources, ...actors, ...filesOf('test')]
      .map((file) => ({ file, lines: read(file).split('\n').length - 1 }))
      .filter(({ lines }) => lines > LINES_MAX);
    expect(long).toEqual([]);
  });

  it('lie in no grab-bag', () => {
    const bag = /(?:^|\/)(?:utils?|helpers?|common|misc|shared|lib)(?:\/|\.ts$|-)/;
    expect([...sources, ...actors, ...filesOf('test')].filter((file) => bag.test(file))).toEqual([]);
  });
});
