/**
 * docs/mutants.md and bench/results/mutants.json: what was drawn, who killed it, and what was judged of those that survived (survivors.json).
 * @module
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { markdownTable } from 'markdown-table';
import { type Draw, type Mutant, ROOMS } from './draw.ts';

export type Killer = 'tests' | 'campaign' | 'same bits';
/** `by` null: it survived. */
export type Result = {
  readonly id: number;
  readonly by: Killer | null;
  readonly what: string;
  readonly tried: { readonly tests: number; readonly seeds: number };
};
/**
 * By the mutant's key. `equivalent`: nobody could tell. `tuning`: some work is done sooner, later or elsewhere, and all that is promised holds. `hole`: a promise that
 * nobody holds it to.
 */
type Judged = Readonly<Record<string, { readonly verdict: 'equivalent' | 'tuning' | 'hole'; readonly why: string }>>;

const DOCUMENT = 'docs/mutants.md';
const RESULTS = 'bench/results/mutants.json';
const BEGIN = '<!-- made by scripts/mutants.ts -->';
const END = '<!-- end -->';

export const keyOf = ({ file, line, from, text }: Mutant): string => `${file}:${line}: ${from} → ${text.replaceAll(/\s+/g, ' ')}`;
/** Of a cell of a table. */
const plain = (text: string): string => text.replaceAll(/\s+/g, ' ').replaceAll('|', '\\|');
const code = (text: string): string => plain(`\`${text.length > 100 ? `${text.slice(0, 97)}…` : text}\``);

const drawnOf = (mutants: number, from: Draw['from']): string =>
  from === undefined ? `${mutants} mutants drawn` : `${mutants} of ${from.count} mutants that were drawn from commit ${from.commit} are still there`;

/** What people have found out about those that survived. */
export const judgedOf = (root: string): Judged => JSON.parse(readFileSync(join(root, 'scripts/mutants/survivors.json'), 'utf8')) as Judged;

export function writeReport(root: string, { seed, commit, mutants, from }: Draw, results: ReadonlyMap<number, Result>): void {
  const judged = judgedOf(root);
  const resultOf = ({ id }: Mutant): Result => results.get(id) as Result;
  const told = mutants.filter(({ id }) => results.has(id));
  const isSurvivor = (mutant: Mutant): boolean => resultOf(mutant).by === null;
  const isEquivalent = (mutant: Mutant): boolean => isSurvivor(mutant) && judged[keyOf(mutant)]?.verdict === 'equivalent';
  const row = (name: string, of: readonly Mutant[]): string[] => {
    const by = (killer: Killer): number => of.filter((mutant) => resultOf(mutant).by === killer).length;
    const [equivalent, survived] = [of.filter(isEquivalent).length, of.filter(isSurvivor).length];
    const killed = of.length - survived;
    const share = of.length === equivalent ? '' : `${((100 * killed) / (of.length - equivalent)).toFixed(1)} %`;
    return [name, ...[of.length, by('tests'), by('campaign'), by('same bits'), equivalent, survived - equivalent].map(String), share];
  };
  const head = ['', 'judged', 'killed by tests', 'by a campaign', 'by same bits', 'equivalent', 'survived', 'killed of those not equivalent'];
  const survivors = told.filter(isSurvivor).map((mutant) => {
    const { file, line, operator, from, text } = mutant;
    const { verdict, why } = judged[keyOf(mutant)] ?? { verdict: 'not looked at', why: '' };
    return [`${file}:${line}`, plain(operator), code(from), code(text), verdict, why];
  });
  const operators = [...Map.groupBy(told, ({ operator }) => operator)].sort().map(([operator, of]) => row(plain(operator), of));
  // A part of them is no sample: shares are told of all.
  const tables = [
    markdownTable([
      head,
      ...ROOMS.map((room) =>
        row(
          `${room}/`,
          told.filter(({ file }) => file.startsWith(`${room}/`)),
        ),
      ),
      row('all', told),
    ]),
    '',
    markdownTable([head, ...operators]),
    '',
  ];
  const text = [
    BEGIN,
    '',
    `Seed ${seed}, the sources of commit ${commit}: ${drawnOf(mutants.length, from)}, ${told.length} judged, of which ${told.length - survivors.length} were killed. [Each of them](../${RESULTS}).`,
    '',
    ...(told.length === mutants.length ? tables : []),
    ...(survivors.length === 0
      ? []
      : [
          '### Survivors',
          '',
          markdownTable([
            ['where', 'change', 'was', 'is', 'judged', 'why'],
            ...survivors.sort((one, other) => Number(one[4] === 'equivalent') - Number(other[4] === 'equivalent')),
          ]),
          '',
        ]),
    END,
  ].join('\n');
  const document = readFileSync(join(root, DOCUMENT), 'utf8');
  writeFileSync(join(root, DOCUMENT), `${document.slice(0, document.indexOf(BEGIN))}${text}${document.slice(document.indexOf(END) + END.length)}`);
  const lines = mutants.map((mutant) => {
    const { id, file, line, operator, from, text: to } = mutant;
    const change = { id, file, line, operator, from, to };
    if (!results.has(id)) return JSON.stringify({ ...change, by: 'not asked' });
    const { by, what, tried } = resultOf(mutant);
    return JSON.stringify({ ...change, by, what, tried, ...(by === null && judged[keyOf(mutant)]) });
  });
  writeFileSync(join(root, RESULTS), `{"seed":${seed},"commit":"${commit}","mutants":[\n${lines.join(',\n')}\n]}\n`);
}
