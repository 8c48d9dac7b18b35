/** The bugs of bugs.txt, planted in a copy of the sources, and the campaigns that must find them. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { phaseOf } from '../../../src/chaos/fault-kinds.ts';
import type { Fault } from '../../../src/chaos/index.ts';
import { minipod } from '../../cli/command.ts';
import { type Change, readChanges, SourceCopy } from '../../cli/source-copy.ts';

/** `file` is from the root. */
export type PlantedBug = Change & { readonly what: string };
/** `seed` null: none of those that were tried. `holdsOtherwise`: its plan, and what that shrunk to, hold in the sources as they are: it is the bug that was found. */
export type Found = {
  readonly seed: number | null;
  readonly verdict: string;
  readonly violation: string;
  readonly faults: readonly Fault[];
  readonly holdsOtherwise: boolean;
};

/** What is planted, and where its phase is. */
export function faultText(fault: Fault): string {
  const phase = phaseOf(fault);
  return `\`${fault.kind}\`${phase === 'client' ? '' : phase === 'time' ? ' at a time' : ` at ${phase}`}`;
}

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
      if (failure === undefined) return { seed: null, verdict: 'held', violation: '', faults: [], holdsOtherwise: true };
      const { plan, verdict, violations } = (await this.#chaos('shrink', `${failure.seed}`)) as {
        plan: { faults: readonly Fault[] };
        verdict: string;
        violations: readonly { what: string }[];
      };
      const file = join(root, 'shrunk.json');
      writeFileSync(file, JSON.stringify(plan));
      const codes = [(await minipod(['chaos', 'run', `${failure.seed}`])).code, (await minipod(['chaos', 'run', file])).code];
      return { seed: failure.seed, verdict, violation: violations[0]?.what ?? '', faults: plan.faults, holdsOtherwise: codes.every((code) => code === 0) };
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
