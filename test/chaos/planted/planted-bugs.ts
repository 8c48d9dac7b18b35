/** The bugs of bugs.txt, planted in a copy of the sources, and the campaigns that must find them. */
import { type Change, readChanges, SourceCopy } from '../../cli/source-copy.ts';

/** `file` is from the root. */
export type PlantedBug = Change & { readonly what: string };
/** `seed` null: none of those that were tried. */
export type Found = { readonly seed: number | null; readonly verdict: string; readonly violation: string; readonly faults: readonly string[] };

export const PLANTED: readonly PlantedBug[] = readChanges(new URL('bugs.txt', import.meta.url)).map(({ head, from, to }) => {
  const [file = '', what = ''] = head.split(/: (.*)/);
  if (what === '') throw new Error(`bugs.txt: a block begins with "file: what", not with ${head}`);
  return { file, what, from, to };
});

/** A copy of the sources in which bugs are planted. */
export class PlantedSources implements Disposable {
  readonly #sources = new SourceCopy();

  /** Campaigns over ever more seeds until one finds the bug; then what it shrinks to. */
  find(bug: PlantedBug, first: number, last: number, step: number): Promise<Found> {
    return this.#sources.changed(bug, async () => {
      for (let seed = first; seed <= last; seed += step) {
        const seeds = `${seed}..${Math.min(last, seed + step - 1)}`;
        const { failures } = (await this.#chaos('campaign', '--seeds', seeds, '--traces', this.#sources.root)) as { failures: readonly { seed: number }[] };
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
    });
  }

  async #chaos(...args: readonly string[]): Promise<unknown> {
    const { stdout, stderr } = await this.#sources.minipod('chaos', ...args, '--json');
    try {
      return JSON.parse(stdout);
    } catch {
      throw new Error(`minipod chaos ${args.join(' ')}: ${stdout}${stderr}`);
    }
  }

  [Symbol.dispose](): void {
    this.#sources[Symbol.dispose]();
  }
}
