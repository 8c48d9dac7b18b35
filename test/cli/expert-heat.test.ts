/** Heat maps of experts: in a terminal of any width, with colour and without, and as an SVG that never changes. */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type HeatMap, heatLines, heatOf, LEVELS, levelOf } from '../../src/cli/expert-heat.ts';
import { heatSvg } from '../../src/cli/expert-svg.ts';
import { between, expertLines } from '../../src/cli/expert-tables.ts';
import type { PodExperts } from '../../src/index.ts';
import { NOTHING_COPIED } from '../../src/protocol/map-log.ts';
import type { ExpertBalancingStats } from '../../src/stats.ts';

const MAP: HeatMap = {
  title: 'a model',
  rows: [
    { layer: '1', loads: [10, 10, 10, 10], note: 'even' },
    { layer: '2', loads: [40, 0, 0, 0], note: 'one does it all' },
    { layer: '12', loads: [0, 0, 0, 0], note: '' },
  ],
};

describe('a heat map in a terminal', () => {
  it('should show each expert as a column, told apart without colour', () => {
    expect(heatLines(MAP, { columns: 80, isColoured: false })).toEqual([
      'a model',
      'layer 0  1  2  3',
      '    1 ▄▄▄▄▄▄▄▄▄▄▄▄ even',
      '    2 ███········· one does it all',
      '   12 ············ ',
      'of an even share: · none  ▁ < ¼  ▂ < ½  ▃ < ¾  ▄ < 1¼  ▅ < 2  ▆ < 4  █ ≥ 4',
    ]);
  });

  it('should be no wider than the paper, and say where a column is several experts', () => {
    fc.assert(
      fc.property(fc.integer({ min: 40, max: 200 }), fc.integer({ min: 1, max: 300 }), fc.boolean(), (columns, experts, isColoured) => {
        const loads = Array.from({ length: experts }, (_, expert) => expert % 7);
        const lines = heatLines({ title: 'm', rows: [{ layer: '3', loads, note: 'a note of some length' }] }, { columns, isColoured });
        const seen = lines.map(stripVTControlCharacters).filter((line) => !line.startsWith('a column'));
        expect(Math.max(...seen.map(({ length }) => length))).toBeLessThanOrEqual(columns);
        // The note has 21 letters, and goes where the map would have too little room.
        const isShared = lines.some((line) => line.startsWith('a column is'));
        if (experts > columns - 6) expect(isShared).toBe(true);
        if (experts <= columns - 6 - 22) expect(isShared).toBe(false);
        expect(lines.some((line) => line.includes('\x1b[48;5;'))).toBe(isColoured);
      }),
    );
  });

  it('should show a hot expert among cold ones that share its column', () => {
    const loads = Array.from({ length: 256 }, (_, expert) => (expert === 77 ? 256 : 1));
    const lines = heatLines({ title: 'm', rows: [{ layer: '0', loads, note: '' }] }, { columns: 70, isColoured: false });
    const row = lines.find((line) => line.startsWith('    0'));
    expect(row?.indexOf('█')).toBe(6 + Math.floor(77 / 4));
    expect(row?.match(/█/g)).toHaveLength(1);
  });
});

describe('the levels of heat', () => {
  it('should rise with it, from none on', () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 300, noNaN: true }), fc.double({ min: 0, max: 300, noNaN: true }), (a, b) => {
        if (a <= b) expect(levelOf(a)).toBeLessThanOrEqual(levelOf(b));
      }),
    );
    expect([0, 1e-9, 0.25, 0.5, 0.75, 1, 1.25, 2, 4].map(levelOf)).toEqual([0, 1, 2, 3, 4, 4, 5, 6, LEVELS - 1]);
    expect(heatOf([3, 1])).toEqual([1.5, 0.5]);
  });
});

describe('a heat map as SVG', () => {
  it('should be the file that it always was', () => {
    const file = fileURLToPath(new URL('./expert-heat.svg', import.meta.url));
    const svg = heatSvg([MAP, { title: 'one & <two>', rows: [{ layer: '0', loads: [1, 2, 3], note: '' }] }]);
    if (process.env['RENEW'] === '1') writeFileSync(file, svg);
    expect(svg).toBe(readFileSync(file, 'utf8'));
  });
});

const replica = (npu: number, queued: number | null, p50_us?: number) => ({
  npu,
  queued,
  service: p50_us === undefined ? null : { batches: 1, tokens: 1, mean_us: p50_us, p50_us, p99_us: 2 * p50_us },
});
const look = (loads: readonly number[]): PodExperts => {
  const tokens = loads.reduce((sum, load) => sum + load, 0);
  const experts = loads.map((load, expert) => ({
    expert,
    tokens: load,
    share: load / tokens,
    replicas: [replica(expert % 2, expert || null, expert || undefined)],
    moved: null,
  }));
  const layers = [{ layer: 3, tokens, busiest_over_mean_npu: 1, map_epoch: 0, last_rebalance: null, experts }];
  return {
    model: 'm',
    uptime_seconds: 9,
    experts_per_layer: loads.length,
    top_k: 1,
    task_executors: [{ task_executor: 0, role: 'colocated', balancing: null, layers }],
  };
};

describe('the table of experts', () => {
  it('should have what was routed between two looks, and all of it where counters began anew', () => {
    const [layer] = between(look([10, 10, 10, 10]), look([40, 20, 10, 10])).task_executors[0]?.layers ?? [];
    expect(layer?.experts.map(({ tokens, share }) => [tokens, share])).toEqual([
      [30, 0.75],
      [10, 0.25],
      [0, 0],
      [0, 0],
    ]);
    expect(layer).toMatchObject({ tokens: 40, busiest_over_mean_npu: 1.5 });
    expect(between(look([40, 20, 10, 10]), look([1, 2, 3, 4]))).toEqual(look([1, 2, 3, 4]));
  });

  it('should say why the last rebalance moved experts, or did not', () => {
    const last = {
      entry: 3,
      trigger: 'period' as const,
      installed: false,
      outcome: 'unchanged' as const,
      cause: 'no_better' as const,
      reason: 'no layer would gain',
      before: 1.1,
      after: 1.1,
      slots: 0,
      epoch: 4,
    };
    const balancing = {
      executor: 0,
      state: 'stable',
      epoch: 4,
      progress: 3,
      last_progress_seconds: 8,
      stalled: false,
      last,
      log: [],
      counts: [],
      copied: NOTHING_COPIED,
      lost: { experts: [], shared: false },
    };
    const experts = look([1, 1]);
    const linesOf = (of: ExpertBalancingStats): string[] =>
      expertLines('head', { ...experts, task_executors: experts.task_executors.map((one) => ({ ...one, balancing: of })) }, undefined, {
        columns: 100,
        isColoured: false,
      }).slice(1);
    const told = (of: ExpertBalancingStats): string | undefined => linesOf(of)[0];
    const entry = { entry: 5, change: 'rehome', writer: 'expert-map/0', epoch: 4, copied: NOTHING_COPIED } as const;
    const rehomed = { ...entry, outcome: 'installed', cause: 'npu_gone', reason: 'npu/2 is lost for good; 2 experts are nowhere' } as const;
    const lost = { experts: [3, 5].map((expert) => ({ layer: 1, expert })), shared: true };
    expect(linesOf({ ...balancing, log: [rehomed], lost }).slice(1, 3)).toEqual([
      'TE 0: last rehome (installed): npu/2 is lost for good; 2 experts are nowhere',
      'TE 0: LOST: layer 1: 3 5; the shared expert',
    ]);
    expect(told(balancing)).toBe('TE 0: map 4, stable; last rebalance (period): nothing moved, no layer would gain');
    expect(told({ ...balancing, stalled: true, last: { ...last, installed: true, slots: 7, reason: 'better in 2 layers' } })).toBe(
      'TE 0: map 4, stable, STALLED; last rebalance (period): 7 slots changed, better in 2 layers',
    );
    // Of one layer: what became of each of its experts.
    const layers = (experts.task_executors[0]?.layers ?? []).map((layer) => ({
      ...layer,
      last_rebalance: { before: 1.2, planned: 1.1, reason: 'predicted better' },
      experts: layer.experts.map((expert, at) => ({ ...expert, moved: at === 0 ? { onto: [1, 2], off: [0] } : null })),
    }));
    const ofLayer = { ...experts, task_executors: experts.task_executors.map((one) => ({ ...one, balancing, layers })) };
    const lines = expertLines('head', ofLayer, 3, { columns: 100, isColoured: false });
    expect(lines[2]).toBe('TE 0, layer 3: predicted better');
    const cells = lines.filter((line) => line.startsWith('|')).map((line) => line.split('|').map((cell) => cell.trim()));
    expect([cells[0], cells[2], cells[3]].map((row) => row?.[5])).toEqual(['MOVED', 'onto 1, 2; off 0', '–']);
  });

  it('should name the layers for multi-token prediction', () => {
    const experts = look([30, 20]);
    const executors = experts.task_executors.map((one) => ({ ...one, layers: one.layers.flatMap((layer) => [layer, { ...layer, layer: 4, mtp: 1 }]) }));
    const lines = (layer?: number): string[] =>
      expertLines('head', { ...experts, task_executors: executors }, layer, { columns: 100, isColoured: false })
        .map((line) => /^( +3|MTP 1) [^ ]|^\| 0 +\| (3|MTP 1) /.exec(line)?.slice(1).join('').trim() ?? '')
        .filter((name) => name !== '');
    expect(lines()).toEqual(['3', 'MTP 1', '3', 'MTP 1', '3', 'MTP 1']);
    expect(lines(4)).toEqual(['MTP 1', 'MTP 1', 'MTP 1']);
  });

  it('should have the hottest first, or one layer in order; a lost NPU’s queue and what was not timed are not numbers', () => {
    const paper = { columns: 100, isColoured: false };
    const cells = (layer?: number): string[][] =>
      expertLines('head', look([30, 20, 40, 10]), layer, paper)
        .slice(-4)
        .map((line) =>
          line
            .split('|')
            .slice(1, -1)
            .map((cell) => cell.trim()),
        );
    expect(cells().map((row) => row[2])).toEqual(['2', '0', '1', '3']);
    expect(cells(3)).toEqual([
      ['0', '3', '0', '0', '30', '30.0 %', '1.20', 'lost', '–', '–', '–'],
      ['0', '3', '1', '1', '20', '20.0 %', '0.80', '1', '1.0', '1.0', '2.0'],
      ['0', '3', '2', '0', '40', '40.0 %', '1.60', '2', '2.0', '2.0', '4.0'],
      ['0', '3', '3', '1', '10', '10.0 %', '0.40', '3', '3.0', '3.0', '6.0'],
    ]);
  });
});
