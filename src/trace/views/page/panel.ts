/**
 * The page's panel: what is selected, what a search found. It runs in the browser, by its own source text: it may name nothing outside itself but types.
 * @module
 */
import type { Picked } from './drawing.ts';
import type { Timeline, timeText } from './timeline.ts';

export function makePanel(
  timeline: Timeline,
  format: typeof timeText,
  kinds: readonly string[],
  panel: HTMLElement,
  goTo: (picked: Picked) => void,
  hitsOf: () => readonly number[],
) {
  const LISTED_MAX = 300;
  const NAMES: { readonly [kind: string]: string } = {
    ...{ control: 'control plane', waiting: 'between steps', step: 'step', deferred: 'no room for KV', receiving: 'receiving KV' },
  };
  const { acts, slices } = timeline;

  const make = (tag: string, text: string, ...children: readonly Node[]): HTMLElement => {
    const element = document.createElement(tag);
    element.textContent = text;
    element.append(...children);
    return element;
  };
  const since = (time: number): string => format(time, 0);
  const nameOf = (kind: number): string => NAMES[kinds[kind] ?? ''] ?? kinds[kind] ?? '';
  const record = (row: number): string => String(acts.record(row)).replace(/\B(?=(\d{3})+$)/g, ',');

  const actItem = (row: number, isOn: boolean): HTMLElement => {
    const text = make('span', '', make('b', acts.type(row)), make('small', `${acts.from(row)} → ${acts.to(row)}`));
    const item = make('li', '', make('time', since(acts.time(row))), text);
    if (isOn) item.className = 'on';
    item.addEventListener('click', () => goTo({ what: 'act', row }));
    return item;
  };
  const actList = (title: string, rows: readonly number[], on = -1): HTMLElement[] => {
    if (rows.length === 0) return [];
    const first = Math.max(0, Math.min(on < 0 ? 0 : rows.indexOf(on) - 20, rows.length - LISTED_MAX));
    const items = rows.slice(first, first + LISTED_MAX).map((row) => actItem(row, row === on));
    const more = rows.length - items.length;
    return [make('h3', title), make('ul', '', ...items), ...(more > 0 ? [make('p', `and ${more} more`)] : [])];
  };
  const facts = (...pairs: readonly (readonly [string, string])[]): HTMLElement =>
    make('dl', '', ...pairs.filter(([, text]) => text !== '').flatMap(([name, text]) => [make('dt', name), make('dd', text)]));

  const describeAct = (row: number): HTMLElement[] => [
    make('h2', acts.type(row)),
    facts(['from', acts.from(row)], ['to', acts.to(row)], ['at', since(acts.time(row))], ['state after', acts.state(row)], ['step of trace', record(row)]),
    ...(acts.content(row) === '' ? [] : [make('pre', acts.content(row))]),
    ...actList('Because of', timeline.causesOf(row)),
    ...actList('What came of it', timeline.consequencesOf(row)),
  ];

  const partItem = ({ request, choice, kind, start, tokens }: ReturnType<typeof slices.parts>[number]): HTMLElement => {
    const mark = make('i', '');
    mark.style.background = `var(--${kinds[kind]})`;
    const where = tokens === 1 ? `position ${start}` : `positions ${start}–${start + tokens - 1}`;
    return make('li', '', make('time', nameOf(kind)), make('span', '', mark, make('b', `request/${request}`), make('small', `choice ${choice}, ${where}`)));
  };

  const describeSlice = (row: number): HTMLElement[] => {
    const [from, to, place] = [slices.from(row), slices.to(row), slices.place(row)];
    const lane = timeline.lanes[place];
    const first = timeline.actsFrom(place, from);
    const within = (lane?.acts ?? []).slice(first, timeline.actsFrom(place, to + 1e-9));
    const parts = slices.parts(row);
    return [
      make('h2', parts.length > 0 ? slices.text(row) : nameOf(slices.kind(row))),
      facts(
        ['on', lane?.name ?? ''],
        ['for', since(to - from)],
        ['from', since(from)],
        ['to', since(to)],
        ['computed by', parts.length > 0 ? '' : slices.text(row)],
      ),
      ...(parts.length > 0 ? [make('h3', 'Computed'), make('ul', '', ...parts.map(partItem))] : []),
      ...actList('Messages meanwhile', within),
    ];
  };

  const help = (): HTMLElement[] => {
    const legend = make('div', '');
    legend.className = 'legend';
    kinds.forEach((kind, index) => {
      if (kind === 'step') return;
      const chip = make('span', nameOf(index));
      chip.style.setProperty('--c', `var(--${kind})`);
      legend.append(chip);
    });
    const keys: readonly (readonly [string, string])[] = [
      ['w s', 'zoom; so does Ctrl and the wheel'],
      ['a d', 'to the left, to the right; so does dragging'],
      ['f', 'down to the first request of what is shown'],
      ['0', 'the whole run'],
      ['/', 'search: an actor, a message, a state, such as request/7 STEP decoding; all words must match'],
      ['n p', 'next and previous message found'],
    ];
    return [
      make('h2', 'What everybody did, and when'),
      make(
        'p',
        'Bars are phases of requests and steps of NPUs; the small marks below are messages as they came. Point at one to see it, click to keep it here.',
      ),
      make('h3', 'Phases'),
      legend,
      make('h3', 'Keys'),
      make('dl', '', ...keys.flatMap(([key, what]) => [make('dt', '', ...key.split(' ').map((name) => make('kbd', name))), make('dd', what)])),
    ];
  };

  return {
    show(picked: Picked | null, hit: number): void {
      const hits = hitsOf();
      const current = hits[hit] ?? -1;
      if (picked === null) panel.replaceChildren(...(hits.length > 0 ? actList('Found', hits) : help()));
      else panel.replaceChildren(...(picked.what === 'act' ? describeAct(picked.row) : describeSlice(picked.row)), ...actList('Found', hits, current));
      panel.scrollTop = 0;
    },

    /** What stands beside the pointer. */
    tip({ what, row }: Picked): HTMLElement[] {
      if (what === 'act') {
        const content = acts.content(row);
        return [
          make('b', acts.type(row)),
          make('small', `${acts.from(row)} → ${acts.to(row)}, ${since(acts.time(row))}`),
          ...(content === '' ? [] : [make('small', content.length > 180 ? `${content.slice(0, 180)}…` : content)]),
          ...(acts.state(row) === '' ? [] : [make('small', `then ${acts.state(row)}`)]),
        ];
      }
      const [parts, text] = [slices.parts(row), slices.text(row)];
      const shown = parts.slice(0, 6).map(({ request, choice, kind, start, tokens }) => {
        const where = tokens === 1 ? `${start}` : `${start}–${start + tokens - 1}`;
        return make('small', `request/${request}${choice === 0 ? '' : ` choice ${choice}`} ${nameOf(kind)} ${where}`);
      });
      return [
        make('b', parts.length > 0 ? text : nameOf(slices.kind(row))),
        make('small', `${since(slices.to(row) - slices.from(row))}, from ${since(slices.from(row))}`),
        ...(parts.length === 0 && text !== '' ? [make('small', text)] : []),
        ...shown,
        ...(parts.length > shown.length ? [make('small', `and ${parts.length - shown.length} more`)] : []),
      ];
    },
  };
}
