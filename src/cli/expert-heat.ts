/**
 * How hot experts are: tokens over an even share, as a map of layers × experts for a terminal, in colour or without.
 * @module
 */
import { grouped } from '../trace/damage.ts';

/** `layer`: its name. `loads`: tokens by expert. `note`: what stands behind its row. */
export type HeatRow = { readonly layer: string; readonly loads: readonly number[]; readonly note: string };
export type HeatMap = { readonly title: string; readonly rows: readonly HeatRow[] };

/** From no tokens, and from these multiples of an even share on, each a level of its own. */
const LEVEL_BOUNDS = [1 / 4, 1 / 2, 3 / 4, 5 / 4, 2, 4] as const;
export const LEVELS = LEVEL_BOUNDS.length + 2;
export const LEVEL_NAMES = ['none', '< ¼', '< ½', '< ¾', '< 1¼', '< 2', '< 4', '≥ 4'] as const;
/** Bars that rise: they are told apart without colour, and copied with the text. */
const BARS = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '█'] as const;
/** Of the palette of 256 colours, from dark to bright, as #rrggbb below. */
const COLOURS = [234, 18, 54, 90, 162, 197, 208, 220] as const;
export const COLOURS_HEX = ['#1c1c1c', '#000087', '#5f0087', '#870087', '#d70087', '#ff005f', '#ff8700', '#ffd700'] as const;

/** Its multiple of an even share. */
export function heatOf(loads: readonly number[]): number[] {
  const even = loads.reduce((sum, load) => sum + load, 0) / loads.length;
  return loads.map((load) => (even === 0 ? 0 : load / even));
}

export const levelOf = (heat: number): number => (heat === 0 ? 0 : 1 + LEVEL_BOUNDS.filter((bound) => heat >= bound).length);

/** `columns`: of the terminal. `isColoured`: it knows 256 colours. */
export type Paper = { readonly columns: number; readonly isColoured: boolean };

const LAYER_WIDTH = 5;
const CELL_WIDTH_MAX = 3;
/** Columns that notes leave to the map. */
const MAP_WIDTH_MIN = 32;

/** A line an entry, none of the map wider than the paper. Where a cell stands for several experts it shows the hottest; notes stand where they leave it room. */
export function heatLines({ title, rows }: HeatMap, { columns, isColoured }: Paper): string[] {
  const experts = rows[0]?.loads.length ?? 0;
  if (experts === 0) return [title, 'no layer has experts'];
  const notes = Math.max(...rows.map(({ note }) => note.length));
  const wide = Math.max(1, columns - LAYER_WIDTH - 1);
  const hasNotes = notes > 0 && wide - notes - 1 >= Math.min(experts, MAP_WIDTH_MIN);
  const room = hasNotes ? wide - notes - 1 : wide;
  const perCell = Math.ceil(experts / room);
  const cells = Math.ceil(experts / perCell);
  const width = Math.min(CELL_WIDTH_MAX, Math.max(1, Math.floor(room / cells)));
  const line = ({ layer, loads, note }: HeatRow): string => {
    const heat = heatOf(loads);
    const levels = Array.from({ length: cells }, (_, cell) => levelOf(Math.max(...heat.slice(cell * perCell, (cell + 1) * perCell))));
    const painted = levels.map((level) => cellText(level, width, isColoured)).join('');
    return `${layer.padStart(LAYER_WIDTH)} ${painted}${hasNotes ? ` ${note}` : ''}`;
  };
  const ticks = tickLine(cells, width, perCell);
  const legend = LEVEL_NAMES.map((name, level) => `${cellText(level, 1, isColoured)} ${name}`).join('  ');
  return [
    title,
    ...(perCell > 1 ? [`a column is ${perCell} experts, as hot as the hottest of them`] : []),
    `layer ${ticks}`.trimEnd(),
    ...rows.map(line),
    ...wrapped(`of an even share: ${legend}`, columns, isColoured),
  ];
}

const cellText = (level: number, width: number, isColoured: boolean): string =>
  isColoured ? `\x1b[48;5;${COLOURS[level] as number}m${' '.repeat(width)}\x1b[0m` : (BARS[level] as string).repeat(width);

/** The first expert of every so manieth cell, where its number has room. */
function tickLine(cells: number, width: number, perCell: number): string {
  let line = '';
  for (let cell = 0; cell < cells; cell++) {
    const at = cell * width;
    if (at >= line.length + (line === '' ? 0 : 2) && (cell % 4 === 0 || width > 2)) line = line.padEnd(at) + String(cell * perCell);
  }
  return line;
}

/** In two lines where one is too narrow. */
function wrapped(legend: string, columns: number, isColoured: boolean): string[] {
  const visible = 'of an even share: '.length + LEVEL_NAMES.reduce((sum, name) => sum + name.length + 4, -2);
  if (visible <= columns) return [legend];
  const half = Math.ceil(LEVEL_NAMES.length / 2);
  const part = (from: number, to?: number): string =>
    LEVEL_NAMES.slice(from, to)
      .map((name, index) => `${cellText(from + index, 1, isColoured)} ${name}`)
      .join('  ');
  return ['of an even share:', part(0, half), part(half)];
}

/** What stands behind a layer's row. */
export function busiest(loads: readonly number[]): string {
  const heat = heatOf(loads);
  const most = Math.max(...heat);
  return most === 0 ? 'no tokens' : `${grouped(loads.reduce((sum, load) => sum + load, 0))} tokens, ${heat.indexOf(most)}: ${most.toFixed(2)} ×`;
}
