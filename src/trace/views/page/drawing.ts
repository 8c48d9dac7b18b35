/**
 * Draws the page's lanes. It runs in the browser, by its own source text: it may name nothing outside itself but types.
 * @module
 */
import type { Timeline, timeText } from './timeline.ts';

export type View = {
  from_us: number;
  to_us: number;
  scroll: number;
  width: number;
  height: number;
  /** Rows that a search found; in order of time. */
  hits: readonly number[];
  hovered: Picked | null;
  pinned: Picked | null;
};

export type Picked = { readonly what: 'act' | 'slice'; readonly row: number };

/** Colours by the names that the style sheet gives them. */
export type Theme = {
  readonly ink: string;
  readonly soft: string;
  readonly faint: string;
  readonly line: string;
  readonly paper: string;
  readonly card: string;
  readonly accent: string;
  readonly hit: string;
  /** In the order of SLICE_KINDS. */
  readonly kinds: readonly string[];
  readonly text: string;
  readonly mono: string;
};

export function makeDrawing(timeline: Timeline, format: typeof timeText) {
  const GUTTER = 176;
  const AXIS = 26;
  const LANE = 30;
  const HEADING = 34;
  const BAR = { top: 5, height: 14 };
  const TICK = { top: 21, height: 6 };
  const STEP = 7;
  /** So many arrows at most are drawn without being asked for. */
  const ARROWS_MAX = 160;
  const TITLES = ['NPUs', 'Requests', 'Control plane'];

  const rows: { readonly y: number; readonly place: number; readonly title: string | null }[] = [];
  const tops: number[] = [];
  let bottom = 0;
  let group = -1;
  timeline.lanes.forEach((lane, place) => {
    if (lane.group !== group) {
      group = lane.group;
      rows.push({ y: bottom, place: -1, title: TITLES[group] ?? '' });
      bottom += HEADING;
    }
    rows.push({ y: bottom, place, title: null });
    tops[place] = bottom;
    bottom += LANE;
  });
  bottom += 12;

  const xOf = (view: View, time: number): number => GUTTER + ((time - view.from_us) / (view.to_us - view.from_us)) * (view.width - GUTTER);
  const timeOf = (view: View, x: number): number => view.from_us + ((x - GUTTER) / (view.width - GUTTER)) * (view.to_us - view.from_us);
  const topOf = (view: View, place: number): number => AXIS + (tops[place] ?? 0) - view.scroll;

  const pick = (view: View, x: number, y: number): Picked | null => {
    if (x < GUTTER || y < AXIS) return null;
    const at = y - AXIS + view.scroll;
    const row = rows.find(({ y: top, place }) => place >= 0 && at >= top && at < top + LANE);
    if (row === undefined) return null;
    const time = timeOf(view, x);
    const reach = (5 / (view.width - GUTTER)) * (view.to_us - view.from_us);
    const act = timeline.actAt(row.place, time, reach);
    const slice = timeline.sliceAt(row.place, time);
    if (act !== null && (slice === null || at - row.y >= TICK.top - 2)) return { what: 'act', row: act };
    return slice === null ? null : { what: 'slice', row: slice };
  };

  /** Steps of 1, 2 or 5 × 10ⁿ microseconds, about 120 pixels apart. */
  const gridOf = (view: View): number => {
    const wanted = ((view.to_us - view.from_us) / (view.width - GUTTER)) * 120;
    const power = 10 ** Math.floor(Math.log10(Math.max(1, wanted)));
    return ([1, 2, 5, 10].find((factor) => factor * power >= wanted) ?? 10) * power;
  };

  const drawAxis = (c: CanvasRenderingContext2D, view: View, theme: Theme): void => {
    const [step, span] = [gridOf(view), view.to_us - view.from_us];
    c.font = `11px ${theme.mono}`;
    c.textBaseline = 'middle';
    for (let time = Math.ceil(view.from_us / step) * step; time <= view.to_us; time += step) {
      const x = Math.round(xOf(view, time)) + 0.5;
      c.fillStyle = theme.line;
      c.fillRect(x, AXIS, 1, view.height);
      c.fillStyle = theme.soft;
      c.fillText(format(time, span), x + 5, AXIS / 2 + 1);
    }
  };

  const drawSlices = (c: CanvasRenderingContext2D, view: View, theme: Theme, place: number, y: number): number => {
    const lane = timeline.lanes[place];
    if (lane === undefined) return 0;
    let [drawn, lastX, lastKind] = [0, -10, -1];
    for (let index = timeline.slicesFrom(place, view.from_us); index < lane.slices.length; index++) {
      const row = lane.slices[index] ?? 0;
      const [from, to, kind] = [timeline.slices.from(row), timeline.slices.to(row), timeline.slices.kind(row)];
      if (from > view.to_us) break;
      if (to < view.from_us) continue;
      const x = Math.max(GUTTER, xOf(view, from));
      const width = Math.max(1, Math.min(view.width, xOf(view, to)) - x);
      // Below a pixel, one stands for its neighbours.
      if (width <= 1 && x < lastX + 1 && kind === lastKind) continue;
      [lastX, lastKind] = [x, kind];
      drawn++;
      const gap = width > 3 ? 1 : 0;
      if (kind === STEP) drawStep(c, theme, row, x, y, width - gap);
      else {
        c.fillStyle = theme.kinds[kind] ?? theme.soft;
        c.fillRect(x, y + BAR.top, width - gap, BAR.height);
      }
      const label = kind === STEP ? timeline.slices.text(row).split(',')[0] : '';
      if (label && width > 120) {
        c.fillStyle = theme.paper;
        c.font = `600 10px ${theme.text}`;
        c.fillText(label, x + 6, y + BAR.top + BAR.height / 2 + 0.5, width - 10);
      }
    }
    return drawn;
  };

  /** Prefill above, decode below: as much of each as it computed sequences. */
  const drawStep = (c: CanvasRenderingContext2D, theme: Theme, row: number, x: number, y: number, width: number): void => {
    let top = y + BAR.top;
    timeline.slices.mix(row).forEach((share, kind) => {
      if (share === 0) return;
      c.fillStyle = theme.kinds[kind + 2] ?? theme.soft;
      c.fillRect(x, top, width, BAR.height * share);
      top += BAR.height * share;
    });
  };

  const drawTicks = (c: CanvasRenderingContext2D, view: View, theme: Theme, place: number, y: number): void => {
    const lane = timeline.lanes[place];
    if (lane === undefined) return;
    let lastX = -10;
    c.fillStyle = theme.faint;
    for (let index = timeline.actsFrom(place, view.from_us); index < lane.acts.length; index++) {
      const row = lane.acts[index] ?? 0;
      const time = timeline.acts.time(row);
      if (time > view.to_us) break;
      const x = Math.round(xOf(view, time));
      if (x === lastX) continue;
      lastX = x;
      c.fillRect(x, y + TICK.top, 1, TICK.height);
    }
  };

  const pointOf = (view: View, row: number): readonly [number, number] => [
    xOf(view, timeline.acts.time(row)),
    topOf(view, timeline.acts.place(row)) + TICK.top + TICK.height / 2,
  ];

  const drawArrow = (c: CanvasRenderingContext2D, view: View, source: number, target: number): void => {
    const [[x1, y1], [x2, y2]] = [pointOf(view, source), pointOf(view, target)];
    const bend = Math.max(12, Math.abs(x2 - x1) / 2);
    c.beginPath();
    c.moveTo(x1, y1);
    c.bezierCurveTo(x1 + bend, y1, x2 - bend, y2, x2, y2);
    c.stroke();
    c.beginPath();
    c.moveTo(x2, y2);
    c.lineTo(x2 - 6, y2 - 3);
    c.lineTo(x2 - 6, y2 + 3);
    c.fill();
  };

  /** All of the window, where they are few enough to be told apart. */
  const drawArrows = (c: CanvasRenderingContext2D, view: View, theme: Theme): void => {
    const found: number[] = [];
    for (const { y, place } of rows) {
      const lane = timeline.lanes[place];
      if (lane === undefined || y - view.scroll < -LANE || y - view.scroll > view.height) continue;
      for (let index = timeline.actsFrom(place, view.from_us); index < lane.acts.length && found.length <= ARROWS_MAX; index++) {
        const row = lane.acts[index] ?? 0;
        if (timeline.acts.time(row) > view.to_us) break;
        const cause = timeline.acts.cause(row);
        if (cause >= 0 && timeline.acts.place(cause) !== place) found.push(row);
      }
    }
    if (found.length > ARROWS_MAX) return;
    c.strokeStyle = c.fillStyle = theme.line;
    for (const row of found) drawArrow(c, view, timeline.acts.cause(row), row);
  };

  const drawHits = (c: CanvasRenderingContext2D, view: View, theme: Theme): void => {
    c.fillStyle = theme.hit;
    const seen = new Set<number>();
    for (const row of view.hits) {
      const [x, y] = pointOf(view, row);
      if (x < GUTTER || x > view.width || y < AXIS || y > view.height || seen.has(Math.round(x) * 65536 + Math.round(y))) continue;
      seen.add(Math.round(x) * 65536 + Math.round(y));
      c.fillRect(x - 1, y - TICK.height / 2 - 1, 3, TICK.height + 2);
    }
  };

  const drawPicked = (c: CanvasRenderingContext2D, view: View, theme: Theme, picked: Picked | null): void => {
    if (picked === null) return;
    c.strokeStyle = c.fillStyle = theme.accent;
    c.lineWidth = 1.5;
    if (picked.what === 'slice') {
      const x = Math.max(GUTTER, xOf(view, timeline.slices.from(picked.row)));
      const width = Math.max(2, xOf(view, timeline.slices.to(picked.row)) - x);
      c.strokeRect(x - 1, topOf(view, timeline.slices.place(picked.row)) + BAR.top - 1.5, width + 1, BAR.height + 3);
    } else {
      const [x, y] = pointOf(view, picked.row);
      c.beginPath();
      c.arc(x, y, 4, 0, 2 * Math.PI);
      c.fill();
      let effect = picked.row;
      for (const cause of timeline.causesOf(picked.row)) {
        drawArrow(c, view, cause, effect);
        effect = cause;
      }
      for (const row of timeline.consequencesOf(picked.row).slice(0, ARROWS_MAX)) drawArrow(c, view, picked.row, row);
    }
    c.lineWidth = 1;
  };

  const drawNames = (c: CanvasRenderingContext2D, view: View, theme: Theme): void => {
    c.fillStyle = theme.card;
    c.fillRect(0, 0, GUTTER, view.height);
    c.fillStyle = theme.line;
    c.fillRect(GUTTER - 1, 0, 1, view.height);
    c.textBaseline = 'middle';
    for (const { y, place, title } of rows) {
      const top = AXIS + y - view.scroll;
      if (top < AXIS - HEADING || top > view.height) continue;
      c.fillStyle = title === null ? theme.ink : theme.soft;
      c.font = title === null ? `12px ${theme.mono}` : `600 11px ${theme.text}`;
      if (title === null) c.fillText(timeline.lanes[place]?.name ?? '', 16, top + BAR.top + BAR.height / 2 + 2, GUTTER - 28);
      else c.fillText(title.toUpperCase(), 16, top + HEADING - 11);
    }
    c.fillStyle = theme.card;
    c.fillRect(0, 0, view.width, AXIS);
    c.fillStyle = theme.line;
    c.fillRect(0, AXIS - 1, view.width, 1);
  };

  /** Gives how many slices it drew. */
  const draw = (c: CanvasRenderingContext2D, view: View, theme: Theme): number => {
    c.clearRect(0, 0, view.width, view.height);
    let drawn = 0;
    c.save();
    c.beginPath();
    c.rect(GUTTER, AXIS, view.width - GUTTER, view.height - AXIS);
    c.clip();
    drawAxis(c, view, theme);
    drawArrows(c, view, theme);
    for (const { y, place } of rows) {
      const top = AXIS + y - view.scroll;
      if (place < 0 || top < AXIS - LANE || top > view.height) continue;
      drawn += drawSlices(c, view, theme, place, top);
      drawTicks(c, view, theme, place, top);
    }
    drawHits(c, view, theme);
    drawPicked(c, view, theme, view.hovered);
    drawPicked(c, view, theme, view.pinned);
    c.restore();
    drawNames(c, view, theme);
    c.save();
    c.beginPath();
    c.rect(GUTTER, 0, view.width - GUTTER, AXIS);
    c.clip();
    drawAxis(c, view, theme);
    c.restore();
    return drawn;
  };

  /** The whole run at a glance: how many messages there were, and the part that is shown below. */
  const drawOverview = (c: CanvasRenderingContext2D, view: View, theme: Theme, width: number, height: number): void => {
    c.clearRect(0, 0, width, height);
    const span = Math.max(1, timeline.last_us - timeline.first_us);
    const counts = new Float64Array(Math.max(1, Math.ceil(width / 2)));
    for (let row = 0; row < timeline.acts.count; row++) {
      const bin = Math.min(counts.length - 1, Math.floor(((timeline.acts.time(row) - timeline.first_us) / span) * counts.length));
      counts[bin] = (counts[bin] ?? 0) + 1;
    }
    const most = counts.reduce((max, count) => Math.max(max, count), 1);
    c.fillStyle = theme.kinds[3] ?? theme.soft;
    counts.forEach((count, bin) => {
      const tall = Math.sqrt(count / most) * (height - 8);
      if (count > 0) c.fillRect(2 * bin, height - Math.max(1, tall), 1.4, Math.max(1, tall));
    });
    const [from, to] = [((view.from_us - timeline.first_us) / span) * width, ((view.to_us - timeline.first_us) / span) * width];
    c.globalAlpha = 0.72;
    c.fillStyle = theme.paper;
    c.fillRect(0, 0, Math.max(0, from), height);
    c.fillRect(to, 0, Math.max(0, width - to), height);
    c.globalAlpha = 1;
    c.strokeStyle = theme.accent;
    c.strokeRect(from + 0.5, 0.5, Math.max(2, to - from - 1), height - 1);
  };

  return { GUTTER, AXIS, LANE, bottom, xOf, timeOf, pick, draw, drawOverview, topOf: (place: number) => tops[place] ?? 0 };
}
