/**
 * Who kills a mutant: the tests that pass its place, nearest and cheapest first, and a campaign's seeds that do.
 * @module
 */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { createVitest, type TestSpecification, type Vitest } from 'vitest/node';
import type { Mutant } from './draw.ts';
import type { TestLine } from './many-runner.ts';
import type { ReachedFile, ReachedTest } from './reach-setup.ts';
import type { SeedLine, SeedOrder, SeedRun } from './seed-runs.ts';

/** `file`: from the root. */
type Test = ReachedTest & { readonly file: string };
/** `killers`: by mutant, what killed it elsewhere. */
export type Reach = { readonly files: readonly ReachedFile[]; readonly seeds: readonly SeedRun[]; readonly killers?: ReadonlyMap<number, string> };

const linesOf = <Value>(text: string): Value[] =>
  text
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Value);

/** An environment in which switches ask for one mutant; null: they note what is passed. */
function switchTo(copy: string, mutant: number | null, reached: string): NodeJS.ProcessEnv {
  const load = `--import=file://${join(copy, 'scripts/mutants/switch-thread.mjs')}`;
  return { NODE_OPTIONS: load, MUTANT: String(mutant ?? 0), REACHED: mutant === null ? reached : '', CI: 'true', TERM: 'dumb' };
}

// ── Campaign ────────────────────────────────────────────────────────────────────────────────────────────────────────

export class Seeds {
  readonly #copy: string;

  constructor(copy: string) {
    this.#copy = copy;
  }

  /** What each of the seeds passes; seed −1: what modules pass as they load. */
  async reach(seeds: readonly number[]): Promise<readonly SeedRun[]> {
    const { code, stdout, stderr } = await this.#run([{ mutant: 0, seeds }], null, Number.POSITIVE_INFINITY);
    if (code !== 0) throw new Error(`seeds do not run without any mutant: ${stderr}`);
    return linesOf<SeedRun>(stdout).filter(({ seed }) => seed !== undefined);
  }

  /** By mutant, who of its seeds kills it, as it is found out; null: all of them held. Another process goes on where one dies. */
  async killEach(orders: readonly SeedOrder[], cpu_s_max: number, onKiller: (mutant: number, killer: string | null) => void): Promise<void> {
    let left = [...orders];
    while (left.length > 0) {
      const known = new Set<number>();
      let under: number | null = null;
      await this.#run(left, left[0]?.mutant ?? 0, cpu_s_max, (line) => {
        under = 'begin' in line ? line.begin : null;
        if (!('mutant' in line)) return;
        known.add(line.mutant);
        onKiller(line.mutant, line.killer);
      });
      if (under !== null) {
        known.add(under);
        onKiller(under, 'seeds: the process goes round for ever, or dies');
      }
      if (known.size === 0) throw new Error('seeds do not run at all');
      left = left.filter(({ mutant }) => !known.has(mutant));
    }
  }

  #run(
    orders: readonly SeedOrder[],
    mutant: number | null,
    cpu_s_max: number,
    onLine: (line: SeedLine) => void = () => {},
  ): Promise<{ code: number | null; stdout: string; stderr: string }> {
    const env = { ...process.env, ...switchTo(this.#copy, mutant, join(this.#copy, 'seeds.reached')) };
    const child = spawn(process.execPath, [join(this.#copy, 'seed-runs.mjs'), JSON.stringify(orders), String(cpu_s_max)], { cwd: this.#copy, env });
    const said = { stdout: '', stderr: '' };
    let told = 0;
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said.stderr += text;
    });
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      said.stdout += text;
      const whole = said.stdout.slice(0, said.stdout.lastIndexOf('\n') + 1);
      for (const line of linesOf<SeedLine>(whole.slice(told))) onLine(line);
      told = whole.length;
    });
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => resolve({ code, ...said }));
    });
  }
}

// ── Tests ───────────────────────────────────────────────────────────────────────────────────────────────────────────

export class Tests implements AsyncDisposable {
  readonly #copy: string;
  #vitest: Vitest | null = null;

  constructor(copy: string) {
    this.#copy = copy;
  }

  /** Runs test files with no mutant, and says what each test passed. */
  async reach(files: readonly string[]): Promise<readonly ReachedFile[]> {
    const reached = join(this.#copy, 'tests.reached');
    for (const file of [reached, `${reached}.threads`]) rmSync(file, { force: true });
    Object.assign(process.env, switchTo(this.#copy, null, reached));
    const vitest = await createVitest('test', this.#options);
    try {
      const wanted = new Set(files);
      const specifications = (await vitest.globTestSpecifications()).filter(({ moduleId }) => wanted.has(relative(this.#copy, moduleId)));
      await vitest.runTestSpecifications(specifications);
    } finally {
      await vitest.close();
    }
    const threads = new Map<number, number[]>();
    if (existsSync(`${reached}.threads`))
      for (const line of readFileSync(`${reached}.threads`, 'utf8').trim().split('\n')) {
        const [pid = 0, place = 0] = line.split(' ').map(Number);
        threads.set(pid, [...(threads.get(pid) ?? []), place]);
      }
    return linesOf<ReachedFile>(readFileSync(reached, 'utf8')).map((file) => ({
      ...file,
      file: relative(this.#copy, file.file),
      outside: [...new Set([...file.outside, ...(threads.get(file.pid) ?? [])])],
    }));
  }

  /**
   * By mutant, who of its tests kills it, in one process for as many as it lives (many-runner.ts). What tests' own threads do is not looked at: they know of no
   * mutant. Those that are told of by nobody have passed.
   */
  async killEach(chosen: ReadonlyMap<number, readonly Test[]>, onKilled: (mutant: number, what: string) => void): Promise<void> {
    const left = new Map(chosen);
    while (left.size > 0) {
      const told = await this.#runMany(left);
      for (const { mutant, state, what } of told) if (state === 'killed' && left.delete(mutant)) onKilled(mutant, what.slice(0, 240));
      const last = told.at(-1);
      if (last?.state !== 'begun') break;
      // It ended with this one: all others are asked again, by the tests that they have not passed.
      for (const [mutant, tests] of left) {
        const passed = new Set(told.filter((line) => line.mutant === mutant && line.state !== 'killed').map(({ test }) => test));
        left.set(
          mutant,
          tests.filter(({ id }) => !passed.has(id)),
        );
      }
      // Whatever the process had taken till then may have ended it: so in one of its own, too.
      const dead = chosen.get(last.mutant)?.find(({ id }) => id === last.test) as Test;
      const alone = (await this.#runMany(new Map([[last.mutant, [dead]]]))).at(-1);
      if (alone?.state === 'killed' && left.delete(last.mutant)) onKilled(last.mutant, alone.what.slice(0, 240));
      if (alone?.state === 'begun' && left.delete(last.mutant)) onKilled(last.mutant, `${dead.file} > ${dead.name}: goes round for ever, or its process dies`);
    }
  }

  async #runMany(chosen: ReadonlyMap<number, readonly Test[]>): Promise<readonly TestLine[]> {
    const [orders, lines] = [join(this.#copy, `orders-${process.pid}.json`), join(this.#copy, `lines-${process.pid}.jsonl`)];
    const byTest: Record<string, number[]> = {};
    for (const [mutant, tests] of chosen) for (const { id } of tests) byTest[id] = [...(byTest[id] ?? []), mutant];
    writeFileSync(orders, JSON.stringify(byTest));
    writeFileSync(lines, '');
    Object.assign(process.env, switchTo(this.#copy, 0, ''), { TEST_ORDERS: orders, TEST_LINES: lines });
    const vitest = await createVitest('test', this.#options);
    try {
      const files = Map.groupBy([...chosen.values()].flat(), ({ file }) => file);
      const all = await vitest.globTestSpecifications([...files.keys()]);
      const specifications = [...files].flatMap(([file, tests]) =>
        all
          .filter(({ moduleId }) => moduleId === join(this.#copy, file))
          .map(({ project, moduleId }) => project.createSpecification(moduleId, { testIds: [...new Set(tests.map(({ id }) => id))] })),
      );
      await vitest.runTestSpecifications(specifications);
      return linesOf<TestLine>(readFileSync(lines, 'utf8'));
    } finally {
      await vitest.close();
      delete process.env['TEST_ORDERS'];
      for (const file of [orders, lines]) rmSync(file, { force: true });
    }
  }

  /** Null: all of them passed. */
  async kill(mutant: number, tests: readonly Test[]): Promise<{ readonly what: string; readonly test: Test | undefined } | null> {
    if (tests.length === 0) return null;
    const vitest = await this.#open();
    process.env['MUTANT'] = String(mutant);
    const byFile = Map.groupBy(tests, ({ file }) => file);
    const all = await vitest.globTestSpecifications([...byFile.keys()]);
    const specifications = [...byFile].flatMap(([file, chosen]): TestSpecification[] =>
      all
        .filter(({ moduleId }) => moduleId === join(this.#copy, file))
        .map(({ project, moduleId }) => project.createSpecification(moduleId, { testIds: chosen.map(({ id }) => id) })),
    );
    // It remembers each file's last tests: a failure may be another mutant's.
    vitest.state.filesMap.clear();
    vitest.state.idMap.clear();
    const { testModules, unhandledErrors } = await vitest.runTestSpecifications(specifications);
    for (const module of testModules) {
      const file = relative(this.#copy, module.moduleId);
      for (const test of module.children.allTests('failed')) {
        const { errors = [] } = test.result();
        return { what: `${file} > ${test.fullName}: ${errors[0]?.message.split('\n')[0]?.slice(0, 120) ?? ''}`, test: tests.find(({ id }) => id === test.id) };
      }
      const [error] = module.errors();
      if (error !== undefined) return { what: `${file}: ${error.message.split('\n')[0]?.slice(0, 120)}`, test: undefined };
    }
    const [error] = unhandledErrors as readonly Error[];
    return error === undefined
      ? null
      : { what: `${[...byFile.keys()].join(' ').slice(0, 200)}: ${error.message.split('\n')[0]?.slice(0, 160)}`, test: undefined };
  }

  /** One for all mutants: what it has transformed it keeps. Its set-up adds to NODE_OPTIONS what threads are loaded from. */
  async #open(): Promise<Vitest> {
    if (this.#vitest === null) {
      Object.assign(process.env, switchTo(this.#copy, 0, ''));
      this.#vitest = await createVitest('test', this.#options);
    }
    return this.#vitest;
  }

  get #options(): { root: string; config: string; watch: false } {
    return { root: this.#copy, config: join(this.#copy, 'mutants.config.mjs'), watch: false };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#vitest?.close();
  }
}

/**
 * Tests that pass a mutant's place: the one that killed it elsewhere, those of files that import its module, then the cheapest. Last come tests of files in whose
 * process it was passed outside of any test: as modules load, or by what an earlier file left running, so most of those do not pass it.
 */
export function testsOf({ id, file }: Mutant, copy: string, { files, killers }: Reach): readonly Test[] {
  const killer = killers?.get(id) ?? '';
  const isKiller = (test: string, name: string): boolean => killer.startsWith(test) && killer.includes(`> ${name}: `);
  const isNear = (test: string): boolean => readFileSync(join(copy, test), 'utf8').includes(`/${file.replace(/^src\//, '')}'`);
  return files
    .map((reached) => ({ ...reached, near: isNear(reached.file) ? 0 : 1 }))
    .flatMap(({ file: test, outside, tests, near }) =>
      tests
        .filter(({ passed, places }) => passed && (places.includes(id) || outside.includes(id)))
        .map((each) => ({ ...each, file: test, rank: isKiller(test, each.name) ? -1 : each.places.includes(id) ? near : 2 + near })),
    )
    .sort((a, b) => a.rank - b.rank || a.cpu_s - b.cpu_s);
}
