/**
 * What the page does: zoom, pan, hover, select, search. It runs in the browser, by its own source text: it may name nothing outside itself but types.
 * @module
 */
import type { PageData } from './data.ts';
import type { makeDrawing, Picked, Theme, View } from './drawing.ts';
import type { makePanel } from './panel.ts';
import type { openTimeline, timeText } from './timeline.ts';

export type PageParts = {
  readonly openTimeline: typeof openTimeline;
  readonly makeDrawing: typeof makeDrawing;
  readonly makePanel: typeof makePanel;
  readonly timeText: typeof timeText;
  readonly kinds: readonly string[];
};

export async function runPage({ openTimeline, makeDrawing, makePanel, timeText, kinds }: PageParts): Promise<void> {
  const element = <Kind extends HTMLElement>(id: string): Kind => document.getElementById(id) as Kind;

  const packed = Uint8Array.from(atob(element('data').textContent?.trim() ?? ''), (character) => character.charCodeAt(0));
  const json = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  const timeline = openTimeline(JSON.parse(await new Response(json).text()) as PageData);
  const drawing = makeDrawing(timeline, timeText);

  const [canvas, overview, search, found, tip] = [
    element<HTMLCanvasElement>('lanes'),
    element<HTMLCanvasElement>('overview'),
    element<HTMLInputElement>('search'),
    element('found'),
    element('tip'),
  ];
  const context = canvas.getContext('2d') as CanvasRenderingContext2D;
  const strip = overview.getContext('2d') as CanvasRenderingContext2D;

  const margin_us = Math.max(1, (timeline.last_us - timeline.busy_us) * 0.01);
  const view: View = {
    from_us: timeline.busy_us - margin_us,
    to_us: timeline.last_us + margin_us,
    scroll: 0,
    width: 0,
    height: 0,
    hits: [],
    hovered: null,
    pinned: null,
  };
  let hit = -1;

  // ── Drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  const themeOf = (): Theme => {
    const style = getComputedStyle(document.documentElement);
    // light-dark() is resolved only where it is used.
    const probe = document.createElement('span');
    document.body.append(probe);
    const color = (name: string): string => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color;
    };
    const font = (name: string): string => style.getPropertyValue(`--${name}`).trim();
    const theme: Theme = {
      ink: color('ink'),
      soft: color('soft'),
      faint: color('faint'),
      line: color('line'),
      paper: color('paper'),
      card: color('card'),
      accent: color('accent'),
      hit: color('hit'),
      kinds: kinds.map(color),
      text: font('text'),
      mono: font('mono'),
    };
    probe.remove();
    return theme;
  };
  let theme = themeOf();

  const sized = (target: CanvasRenderingContext2D, { canvas: of }: CanvasRenderingContext2D): readonly [number, number] => {
    const [width, height, ratio] = [of.clientWidth, of.clientHeight, window.devicePixelRatio || 1];
    if (of.width !== Math.round(width * ratio) || of.height !== Math.round(height * ratio)) {
      of.width = Math.round(width * ratio);
      of.height = Math.round(height * ratio);
    }
    target.setTransform(ratio, 0, 0, ratio, 0, 0);
    return [width, height];
  };

  let isAsked = false;
  const redraw = (): void => {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(paint);
  };
  const paint = (): void => {
    isAsked = false;
    [view.width, view.height] = sized(context, context);
    view.scroll = Math.max(0, Math.min(view.scroll, drawing.bottom + drawing.AXIS - view.height));
    canvas.dataset['slices'] = String(drawing.draw(context, view, theme));
    const [width, height] = sized(strip, strip);
    drawing.drawOverview(strip, view, theme, width, height);
  };

  // ── Moving about ────────────────────────────────────────────────────────────────────────────────────────────────────

  const show = (from_us: number, to_us: number): void => {
    const all = timeline.last_us - timeline.first_us + 2 * margin_us;
    const span = Math.min(Math.max(to_us - from_us, 5), all);
    const middle = Math.min(Math.max((from_us + to_us) / 2, timeline.first_us), timeline.last_us);
    [view.from_us, view.to_us] = [middle - span / 2, middle + span / 2];
    redraw();
  };
  const zoom = (factor: number, x: number): void => {
    const time = drawing.timeOf(view, x);
    show(time - (time - view.from_us) * factor, time + (view.to_us - time) * factor);
  };
  const pan = (share: number): void => {
    const by = share * (view.to_us - view.from_us);
    show(view.from_us + by, view.to_us + by);
  };
  const goTo = (picked: Picked): void => {
    const isAct = picked.what === 'act';
    const [from, to] = isAct
      ? [timeline.acts.time(picked.row), timeline.acts.time(picked.row)]
      : [timeline.slices.from(picked.row), timeline.slices.to(picked.row)];
    const place = isAct ? timeline.acts.place(picked.row) : timeline.slices.place(picked.row);
    const [top, span] = [drawing.topOf(place), view.to_us - view.from_us];
    if (top < view.scroll || top + drawing.LANE > view.scroll + view.height - drawing.AXIS) view.scroll = top - view.height / 2;
    if (from < view.from_us || to > view.to_us) show((from + to) / 2 - span / 2, (from + to) / 2 + span / 2);
    pin(picked);
  };

  const panel = makePanel(timeline, timeText, kinds, element('panel'), goTo, () => view.hits);
  const pin = (picked: Picked | null): void => {
    view.pinned = picked;
    panel.show(picked, hit);
    redraw();
  };

  // ── Pointer ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  let dragged: { x: number; y: number; moved: number } | null = null;
  const hover = (event: PointerEvent): void => {
    const picked = drawing.pick(view, event.offsetX, event.offsetY);
    tip.hidden = picked === null;
    if (picked !== null) {
      tip.replaceChildren(...panel.tip(picked));
      const [wide, tall] = [tip.offsetWidth, tip.offsetHeight];
      tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, window.innerWidth - wide - 8))}px`;
      tip.style.top = `${event.clientY + 18 + tall > window.innerHeight ? event.clientY - tall - 12 : event.clientY + 18}px`;
    }
    if (picked?.what === view.hovered?.what && picked?.row === view.hovered?.row) return;
    view.hovered = picked;
    redraw();
  };
  canvas.addEventListener('pointerdown', (event) => {
    dragged = { x: event.clientX, y: event.clientY, moved: 0 };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointermove', (event) => {
    if (dragged === null) return hover(event);
    const [dx, dy] = [event.clientX - dragged.x, event.clientY - dragged.y];
    dragged = { x: event.clientX, y: event.clientY, moved: dragged.moved + Math.abs(dx) + Math.abs(dy) };
    if (dragged.moved < 4) return;
    tip.hidden = true;
    canvas.classList.add('dragged');
    view.scroll -= dy;
    pan(-dx / Math.max(1, view.width - drawing.GUTTER));
  });
  canvas.addEventListener('pointerup', (event) => {
    if (dragged !== null && dragged.moved < 4) pin(drawing.pick(view, event.offsetX, event.offsetY));
    dragged = null;
    canvas.classList.remove('dragged');
  });
  canvas.addEventListener('pointerleave', () => {
    tip.hidden = true;
    view.hovered = null;
    redraw();
  });
  canvas.addEventListener('dblclick', (event) => {
    const picked = drawing.pick(view, event.offsetX, event.offsetY);
    if (picked?.what !== 'slice') return zoom(0.4, event.offsetX);
    const [from, to] = [timeline.slices.from(picked.row), timeline.slices.to(picked.row)];
    show(from - (to - from) * 0.3, to + (to - from) * 0.3);
  });
  canvas.addEventListener(
    'wheel',
    (event) => {
      event.preventDefault();
      const scrolls = drawing.bottom + drawing.AXIS > view.height && !event.ctrlKey && !event.metaKey;
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) pan((event.deltaX || event.deltaY) / 1000);
      else if (scrolls && event.offsetY > drawing.AXIS) {
        view.scroll += event.deltaY;
        redraw();
      } else zoom(1.0016 ** event.deltaY, event.offsetX);
    },
    { passive: false },
  );
  const brush = (event: PointerEvent): void => {
    if (event.buttons === 0) return;
    const time = timeline.first_us + (event.offsetX / Math.max(1, overview.clientWidth)) * (timeline.last_us - timeline.first_us);
    const half = (view.to_us - view.from_us) / 2;
    show(time - half, time + half);
  };
  overview.addEventListener('pointerdown', brush);
  overview.addEventListener('pointermove', brush);

  // ── Search and keys ─────────────────────────────────────────────────────────────────────────────────────────────────

  const find = (query: string): void => {
    view.hits = timeline.search(query);
    hit = -1;
    found.textContent = query.trim() === '' ? '' : `${view.hits.length} message${view.hits.length === 1 ? '' : 's'}`;
    history.replaceState(null, '', query.trim() === '' ? '#' : `#${encodeURIComponent(query.trim())}`);
    pin(null);
  };
  const next = (by: number): void => {
    const { hits } = view;
    if (hits.length === 0) return;
    hit = hit < 0 && by < 0 ? hits.length - 1 : (hit + by + hits.length) % hits.length;
    found.textContent = `${hit + 1} of ${hits.length}`;
    goTo({ what: 'act', row: hits[hit] ?? 0 });
  };
  search.addEventListener('input', () => find(search.value));
  element('form').addEventListener('submit', (event) => {
    event.preventDefault();
    next(1);
  });
  element('all').addEventListener('click', () => show(timeline.first_us - margin_us, timeline.last_us + margin_us));

  const isWithin = (slice: number | undefined): boolean =>
    slice !== undefined && timeline.slices.from(slice) < view.to_us && timeline.slices.to(slice) > view.from_us;
  const keys: { readonly [key: string]: () => void } = {
    w: () => zoom(0.7, (drawing.GUTTER + view.width) / 2),
    s: () => zoom(1.4, (drawing.GUTTER + view.width) / 2),
    a: () => pan(-0.2),
    d: () => pan(0.2),
    ArrowLeft: () => pan(-0.2),
    ArrowRight: () => pan(0.2),
    n: () => next(1),
    p: () => next(-1),
    f: () => {
      const place = timeline.lanes.findIndex(({ group, slices }, at) => {
        const first = timeline.slicesFrom(at, view.from_us);
        return group === 1 && (isWithin(slices[first]) || isWithin(slices[first + 1]));
      });
      if (place < 0) return;
      view.scroll = drawing.topOf(place);
      redraw();
    },
    '0': () => show(timeline.first_us - margin_us, timeline.last_us + margin_us),
    '/': () => search.focus(),
    Escape: () => pin(null),
  };
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.activeElement === search) {
      if (event.key === 'Escape') search.blur();
      return;
    }
    const act = keys[event.key];
    if (act === undefined) return;
    event.preventDefault();
    act();
  });

  // ── Beginning ───────────────────────────────────────────────────────────────────────────────────────────────────────

  document.title = `${timeline.run.title} · minipod`;
  element('title').textContent = timeline.run.title;
  element('facts').replaceChildren(
    ...timeline.run.facts.map((fact) => {
      const part = document.createElement('span');
      part.textContent = fact;
      return part;
    }),
  );
  element('damage').textContent = timeline.run.damage ?? '';
  new ResizeObserver(redraw).observe(canvas);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    theme = themeOf();
    redraw();
  });
  search.value = decodeURIComponent(location.hash.slice(1));
  find(search.value);
  paint();
  if (view.hits.length > 0) next(1);
  paint();
  document.body.dataset['ready'] = 'true';
}
