/** The pages: what they link to is there, each is found from the README, and what they draw from traces speaks the protocol. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { createMetrics } from '../src/api/metrics.ts';
import { createProgram } from '../src/cli/program.ts';
import { generateOptionsSchema, podOptionsSchema } from '../src/options/options.ts';
import { FakePod } from './api/fake-pod.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const PAGES = ['README.md', ...readdirSync(join(ROOT, 'docs')).flatMap((name) => (name.endsWith('.md') ? [join('docs', name)] : []))];
const read = (page: string): string => readFileSync(join(ROOT, page), 'utf8');

type Link = { readonly page: string; readonly target: string; readonly anchor: string };

/** Those to files of the repository; what stands in code is none. */
function linksOf(page: string): Link[] {
  const text = read(page)
    .replaceAll(/```[\s\S]*?```/g, '')
    .replaceAll(/`[^`\n]*`/g, 'code');
  return [...text.matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, to = '']) => {
    if (/^[a-z]+:/.test(to)) return [];
    const [path = '', anchor = ''] = to.split('#');
    return [{ page, target: path === '' ? page : relative(ROOT, join(ROOT, dirname(page), path)), anchor }];
  });
}

/** As GitHub makes it. */
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-');

describe('the pages', () => {
  const links = PAGES.flatMap(linksOf);

  it('should link to files and headings that are there', () => {
    expect(links.length).toBeGreaterThan(40);
    expect(links.filter(({ target }) => !existsSync(join(ROOT, target)))).toEqual([]);
    const headings = (page: string): string[] => [...read(page).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => anchorOf(heading));
    expect(links.filter(({ target, anchor }) => anchor !== '' && target.endsWith('.md') && !headings(target).includes(anchor))).toEqual([]);
  });

  it('should each be found from the README', () => {
    const found = new Set(['README.md']);
    for (const page of found) for (const { target } of linksOf(page)) if (target.endsWith('.md')) found.add(target);
    expect(PAGES.filter((page) => !found.has(page))).toEqual([]);
  });

  it('should name each metric of minipod’s own', async () => {
    const pod = new FakePod();
    const looked = { experts: await pod.experts(), detail: 'expert', onTooMany: () => {} } as const;
    const rendered = await createMetrics('fake', 512).render(await pod.stats(), looked);
    const metrics = [...rendered.matchAll(/^# TYPE minipod:(\S+)/gm)].map(([, name = '']) => name);
    // In tables, an ellipsis for what a name shares with its neighbours.
    const cells = [...read('docs/operating.md').matchAll(/^\| (`.*?) +\|/gm)].map(([, cell = '']) => cell);
    const named = cells.flatMap((cell) =>
      [...cell.matchAll(/`(?:minipod:)?([a-z_…]+)[^`]*`/g)].map(([, name = '']) => RegExp(`^${name.replaceAll('…', '.+')}$`)),
    );
    expect(metrics.length).toBeGreaterThan(50);
    expect(metrics.filter((metric) => !named.some((name) => name.test(metric)))).toEqual([]);
  });

  it('should draw messages that there are, and say them by these names', () => {
    const protocol = ['messages', 'output', 'balancing', 'controllers'].map((name) => read(`src/protocol/${name}.ts`)).join('\n');
    const types = new Set([...protocol.matchAll(/readonly type: '([A-Z_]+)'/g)].map(([, type]) => type));
    const travels = read('docs/how-a-request-travels.md');
    const drawn = [...travels.matchAll(/^ +p\d+->>p\d+: ([A-Z_]+)/gm)].map(([, type]) => type);
    const told = [...travels.matchAll(/\b([A-Z]+_[A-Z_]+|SUBMIT|ADMIT|ADMITTED|PLAN|ASSIGN|PLACED?|ENQUEUE|RESUME|REPLACED?|CANCEL|ABANDON)\b/g)].map(
      ([, type]) => type,
    );
    expect(drawn.length).toBeGreaterThan(50);
    expect([...drawn, ...told].filter((type) => !types.has(type))).toEqual([]);
  });

  it('should have each command in the table of the README, those of a group in its row or in rows of their own', () => {
    const rows = read('README.md')
      .split('\n')
      .filter((line) => line.startsWith('| `minipod '));
    const isTold = (group: string, name: string): boolean =>
      rows.some(
        (row) =>
          new RegExp(`^\\| \`minipod ${group}${name}(\`| [A-Z[…])`).test(row) || (row.startsWith(`| \`minipod ${group}…`) && row.includes(`\`${name}\``)),
      );
    const { commands } = createProgram(() => {});
    const names = commands.flatMap((one) => [['', one.name()], ...one.commands.map((inner) => [`${one.name()} `, inner.name()])] as [string, string][]);
    expect(names.length).toBeGreaterThan(20);
    expect(names.filter(([group, name]) => !isTold(group, name))).toEqual([]);
  });

  it('should name each option of a pod and of a call in the README', () => {
    const options = [podOptionsSchema, generateOptionsSchema].flatMap(({ shape }) => Object.keys(shape));
    const named = new Set([...read('README.md').matchAll(/`([a-z_]+)`/g)].map(([, name]) => name));
    expect(options.filter((option) => !named.has(option))).toEqual([]);
  });
});
