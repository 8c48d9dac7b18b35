/** The bugs of bugs.txt, planted in a copy of the sources, and the campaigns that must find them. */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { start } from '../../cli/command.ts';

export const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

export type PlantedBug = { readonly file: string; readonly what: string; readonly from: string; readonly to: string };
/** `seed` null: none of those that were tried. */
export type Found = { readonly seed: number | null; readonly verdict: string; readonly violation: string; readonly faults: readonly string[] };

function parseBug(block: string): PlantedBug {
  const [head = '', ...lines] = block.split('\n');
  const [file = '', what = ''] = head.split(/: (.*)/);
  const marked = (mark: string): string => lines.flatMap((line) => (line.startsWith(`${mark} `) ? [line.slice(2)] : [])).join('\n');
  const [from, to] = [marked('-'), marked('+')];
  if (what === '' || from === '' || to === '' || from === to)
    throw new Error(`bugs.txt: a block is "file: what", then lines after "- " and after "+ ", not:\n${block}`);
  return { file, what, from, to };
}

export const PLANTED: readonly PlantedBug[] = readFileSync(new URL('bugs.txt', import.meta.url), 'utf8')
  .replaceAll(/^#.*\n/gm, '')
  .trim()
  .split(/\n{2,}/)
  .map(parseBug);

/** Each is of what the sources say, once. */
export const isPlantable = (root: string, { file, from }: PlantedBug): boolean => readFileSync(join(root, file), 'utf8').split(from).length === 2;

/** A copy of the sources, to be broken and run. */
export class BrokenSources implements Disposable {
  readonly root = mkdtempSync(join(tmpdir(), 'minipod-planted-'));

  constructor() {
    for (const name of ['actors', 'src', 'bin', 'package.json']) cpSync(join(ROOT, name), join(this.root, name), { recursive: true });
    for (const name of ['node_modules', 'models']) symlinkSync(join(ROOT, name), join(this.root, name));
  }

  /** Campaigns over ever more seeds until one finds the bug; then what it shrinks to. */
  async find(bug: PlantedBug, first: number, last: number, step: number): Promise<Found> {
    const { file, from, to } = bug;
    if (!isPlantable(this.root, bug)) throw new Error(`${file} does not say once: ${from}`);
    const path = join(this.root, file);
    const source = readFileSync(path, 'utf8');
    writeFileSync(path, source.replace(from, to));
    try {
      for (let seed = first; seed <= last; seed += step) {
        const seeds = `${seed}..${Math.min(last, seed + step - 1)}`;
        const { failures } = (await this.#chaos('campaign', '--seeds', seeds, '--traces', this.root)) as { failures: readonly { seed: number }[] };
        const [failure] = failures;
        if (failure === undefined) continue;
        const shrunk = (await this.#chaos('shrink', `${failure.seed}`)) as {
          plan: { faults: readonly object[] };
          verdict: string;
          violations: readonly { what: string }[];
        };
        return {
          ...{ seed: failure.seed, verdict: shrunk.verdict, violation: shrunk.violations[0]?.what ?? '' },
          faults: shrunk.plan.faults.map((fault) => JSON.stringify(fault)),
        };
      }
      return { seed: null, verdict: 'held', violation: '', faults: [] };
    } finally {
      writeFileSync(path, source);
    }
  }

  async #chaos(...args: readonly string[]): Promise<unknown> {
    const { stdout, stderr } = await start(['chaos', ...args, '--json'], '', { NODE_COMPILE_CACHE: join(this.root, 'compiled') }, this.root).ended;
    try {
      return JSON.parse(stdout);
    } catch {
      throw new Error(`minipod chaos ${args.join(' ')}: ${stdout}${stderr}`);
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}
