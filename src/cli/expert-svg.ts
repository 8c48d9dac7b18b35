/**
 * Heat maps of experts as one SVG: the same map gives the same bytes on every runtime.
 * @module
 */
import { COLOURS_HEX, type HeatMap, heatOf, LEVEL_NAMES, levelOf } from './expert-heat.ts';

/** In pixels. */
const WIDTH_MAX = 960;
const CELL = { width_max: 24, width_min: 2, height: 18 } as const;
const LEFT = 56;
const NOTE_WIDTH = 220;
const TITLE_HEIGHT = 40;
const LEGEND_HEIGHT = 44;
const TICK_EVERY = 8;

export function heatSvg(maps: readonly HeatMap[]): string {
  const experts = Math.max(1, ...maps.flatMap(({ rows }) => rows.map(({ loads }) => loads.length)));
  const cell = Math.max(CELL.width_min, Math.min(CELL.width_max, Math.floor((WIDTH_MAX - LEFT - NOTE_WIDTH) / experts)));
  const width = LEFT + experts * cell + NOTE_WIDTH;
  const parts: string[] = [];
  let y = 0;
  for (const map of maps) {
    parts.push(...panel(map, cell, y));
    y += TITLE_HEIGHT + map.rows.length * CELL.height + 12;
  }
  parts.push(...legend(y));
  const height = y + LEGEND_HEIGHT;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    '<title>Tokens of each expert, of an even share</title>',
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

function panel({ title, rows }: HeatMap, cell: number, top: number): string[] {
  const experts = rows[0]?.loads.length ?? 0;
  const ticks = Array.from({ length: experts }, (_, expert) => expert).filter((expert) => expert % TICK_EVERY === 0);
  return [
    text(LEFT, top + 16, title, 'font-weight="bold"'),
    ...ticks.map((expert) => text(LEFT + expert * cell, top + 34, String(expert), 'fill="#666666" font-size="10"')),
    ...rows.flatMap(({ layer, loads, note }, row) => {
      const y = top + TITLE_HEIGHT + row * CELL.height;
      const heat = heatOf(loads);
      const middle = y + CELL.height - 5;
      return [
        text(LEFT - 8, middle, layer, 'text-anchor="end"'),
        ...loads.map(
          (load, expert) =>
            `<rect x="${LEFT + expert * cell}" y="${y}" width="${cell}" height="${CELL.height}" fill="${COLOURS_HEX[levelOf(heat[expert] as number)]}"><title>${`layer ${layer}, expert ${expert}: ${load} tokens, ${(heat[expert] as number).toFixed(2)} of an even share`}</title></rect>`,
        ),
        text(LEFT + experts * cell + 8, middle, note, 'fill="#666666"'),
      ];
    }),
  ];
}

const legend = (top: number): string[] => [
  text(LEFT, top + 26, 'tokens, of an even share:'),
  ...LEVEL_NAMES.flatMap((name, level) => [
    `<rect x="${LEFT + 160 + level * 62}" y="${top + 14}" width="14" height="14" fill="${COLOURS_HEX[level]}"/>`,
    text(LEFT + 178 + level * 62, top + 26, name),
  ]),
];

const escaped = (raw: string): string => raw.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
const text = (x: number, y: number, content: string, attributes = ''): string =>
  `<text x="${x}" y="${y}"${attributes === '' ? '' : ` ${attributes}`}>${escaped(content)}</text>`;
