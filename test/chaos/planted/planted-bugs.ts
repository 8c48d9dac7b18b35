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

  /** A campaign until it finds the bug; then what it shrinks to. */
  find(bug: PlantedBug, first: number, last: number): Promise<Found> {
    return this.#sources.changed(bug, async () => {
      const { root } = this.#sources;
      const campaign = ['--seeds', `${first}..${last}`, '--failures-max', '1', '--traces', root];
      const { failures } = (await this.#chaos('campaign', ...campaign)) as { failures: readonly { seed: number }[] };
      const [failure] = failures;
      if (failure === undefined) return { seed: null, verdict: 'held', violation: '', faults: [] };
      const { plan, verdict, violations } = (await this.#chaos('shrink', `${failure.seed}`)) as {
        plan: { faults: readonly object[] };
        verdict: string;
        violations: readonly { what: string }[];
      };
      return { seed: failure.seed, verdict, violation: violations[0]?.what ?? '', faults: plan.faults.map((fault) => JSON.stringify(fault)) };
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
