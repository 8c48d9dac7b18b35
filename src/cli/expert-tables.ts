/**
 * What a pod's experts do, as lines for a terminal.
 * @module
 */
import prettyBytes from 'pretty-bytes';
import type { ExpertLayerStats, ExpertStats, PodExperts } from '../index.ts';
import { busiestOverMean } from '../pod/expert-stats.ts';
import type { Copied, LostExperts, WeightsCopied } from '../protocol/map-log.ts';
import { type Column, NONE, table } from './columns.ts';
import { busiest, type HeatMap, heatLines, heatOf, type Paper } from './expert-heat.ts';

/** What was routed between two looks. A layer whose tokens are fewer than before began anew meanwhile, with its worker: then all of it is new. */
export function between(earlier: PodExperts, now: PodExperts): PodExperts {
  return {
    ...now,
    task_executors: now.task_executors.map((executor) => {
      const before = earlier.task_executors.find(({ task_executor }) => task_executor === executor.task_executor);
      return {
        ...executor,
        layers: executor.layers.map((layer) =>
          grown(
            before?.layers.find((other) => other.layer === layer.layer),
            layer,
          ),
        ),
      };
    }),
  };
}

function grown(before: ExpertLayerStats | undefined, now: ExpertLayerStats): ExpertLayerStats {
  if (before === undefined || now.tokens < before.tokens) return now;
  const growth = now.experts.map(({ tokens }, expert) => Math.max(0, tokens - (before.experts[expert]?.tokens ?? 0)));
  const tokens = growth.reduce((sum, tokens) => sum + tokens, 0);
  const experts = now.experts.map((expert, id): ExpertStats => {
    const own = growth[id] as number;
    return { ...expert, tokens: own, share: tokens === 0 ? 0 : own / tokens };
  });
  return { ...now, tokens, experts, busiest_over_mean_npu: busiestOverMean(experts) };
}

/** As its row in a map and in a table has it. */
export const nameOf = ({ layer, mtp }: Pick<ExpertLayerStats, 'layer' | 'mtp'>): string => (mtp === undefined ? String(layer) : `MTP ${mtp}`);

/** One of each task executor. `only`: of that layer; missing: of all. */
export const heatMaps = ({ model, task_executors }: PodExperts, only?: number): HeatMap[] =>
  task_executors.map(({ task_executor, role, layers }) => ({
    title: `${model}, task executor ${task_executor} (${role})`,
    rows: layers.flatMap((stats) => {
      if (only !== undefined && stats.layer !== only) return [];
      const loads = stats.experts.map(({ tokens }) => tokens);
      return [{ layer: nameOf(stats), loads, note: `${busiest(loads)}; NPUs ${stats.busiest_over_mean_npu.toFixed(2)}` }];
    }),
  }));

type Row = ExpertStats & { readonly task_executor: number; readonly layer: string; readonly heat: number };

/** Of one layer by id, or the hottest of all. */
function expertRows({ task_executors }: PodExperts, layer: number | undefined, most: number): Row[] {
  const rows = task_executors.flatMap(({ task_executor, layers }) =>
    layers.flatMap((stats) => {
      if (layer !== undefined && stats.layer !== layer) return [];
      const heat = heatOf(stats.experts.map(({ tokens }) => tokens));
      return stats.experts.map((expert): Row => ({ ...expert, task_executor, layer: nameOf(stats), heat: heat[expert.expert] as number }));
    }),
  );
  return layer === undefined ? rows.sort((a, b) => b.heat - a.heat).slice(0, most) : rows;
}

/** Batches of all replicas; percentiles of the slowest one's. */
function timesText(pick: 'mean_us' | 'p50_us' | 'p99_us'): (row: Row) => string {
  return ({ replicas }) => {
    const times = replicas.flatMap(({ service }) => (service === null ? [] : [service[pick]]));
    return times.length === 0 ? NONE : Math.max(...times).toFixed(1);
  };
}

/** By the latest rebalance. */
function movedText({ moved }: Row): string {
  if (moved === null) return NONE;
  const [onto, off] = [moved.onto, moved.off].map((npus) => npus.join(', '));
  return [...(onto === '' ? [] : [`onto ${onto}`]), ...(off === '' ? [] : [`off ${off}`])].join('; ');
}

const PLACES: readonly Column<Row>[] = [
  ['TE', ({ task_executor }) => task_executor],
  ['LAYER', ({ layer }) => layer],
  ['EXPERT', ({ expert }) => expert],
  ['NPUS', ({ replicas }) => replicas.map(({ npu }) => npu).join(', ')],
];
const FIGURES: readonly Column<Row>[] = [
  ['TOKENS', ({ tokens }) => tokens],
  ['SHARE', ({ share }) => `${(100 * share).toFixed(1)} %`],
  ['× EVEN', ({ heat }) => heat.toFixed(2)],
  ['QUEUED', ({ replicas }) => replicas.map(({ queued }) => queued ?? 'lost').join(', ')],
  ['MEAN µs', timesText('mean_us')],
  ['P50', timesText('p50_us')],
  ['P99', timesText('p99_us')],
];

/** Where nobody balances, nothing has moved. */
const columnsOf = ({ task_executors }: PodExperts): readonly Column<Row>[] => {
  const isBalanced = task_executors.some(({ balancing }) => balancing !== null);
  return [...PLACES, ...(isBalanced ? ([['MOVED', movedText]] as const) : []), ...FIGURES];
};

/** For all changes of its map. */
function copiedLines(task_executor: number, { broadcast, pulled, checkpoint, instead, why }: WeightsCopied): string[] {
  if (broadcast.slots + pulled.slots + checkpoint.slots === 0) return [];
  const text = ({ slots, bytes }: Copied): string => `${slots} slots (${prettyBytes(bytes, { binary: true })})`;
  const read = checkpoint.slots === 0 ? '' : `, to ${text(checkpoint)} from the checkpoint`;
  const failed = instead === 0 ? '' : `, ${instead} slots' broadcasts did not come: ${why}`;
  return [`TE ${task_executor}: weights copied to ${text(broadcast)} by broadcast, to ${text(pulled)} by pulls${read}${failed}`];
}

const lostText = ({ experts, shared }: LostExperts): string => {
  const layers = [...new Set(experts.map(({ layer }) => layer))];
  const parts = layers.map((layer) => `layer ${layer}: ${experts.flatMap((one) => (one.layer === layer ? [one.expert] : [])).join(' ')}`);
  return [...parts, ...(shared ? ['the shared expert'] : [])].join('; ');
};

/** Of each task executor whose experts are balanced. */
const balancingLines = ({ task_executors }: PodExperts): string[] =>
  task_executors.flatMap(({ task_executor, balancing }) => {
    if (balancing === null) return [];
    const { state, epoch, stalled, last, copied, log, lost } = balancing;
    const other = log.findLast(({ change, outcome }) => change !== 'rebalance' && outcome !== null);
    const moved =
      last === null
        ? 'no rebalance yet'
        : `last rebalance (${last.trigger}): ${last.installed ? `${last.slots} slots changed` : 'nothing moved'}, ${last.reason}`;
    return [
      `TE ${task_executor}: map ${epoch}, ${state}${stalled ? ', STALLED' : ''}; ${moved}`,
      ...(other === undefined ? [] : [`TE ${task_executor}: last ${other.change} (${other.outcome}): ${other.reason}`]),
      ...(lost.experts.length === 0 && !lost.shared ? [] : [`TE ${task_executor}: LOST: ${lostText(lost)}`]),
      ...copiedLines(task_executor, copied),
    ];
  });

/** Why the layer's experts lie where they do. */
const layerLines = ({ task_executors }: PodExperts, layer: number): string[] =>
  task_executors.flatMap(({ task_executor, layers }) => {
    const why = layers.find((one) => one.layer === layer)?.last_rebalance;
    return why == null ? [] : [`TE ${task_executor}, layer ${layer}: ${why.reason}`];
  });

const HOTTEST = 10;

/** `head`: what the figures are of. A line an entry. */
export function expertLines(head: string, experts: PodExperts, layer: number | undefined, paper: Paper): string[] {
  return [
    head,
    ...balancingLines(experts),
    ...(layer === undefined ? [] : layerLines(experts, layer)),
    '',
    ...heatMaps(experts, layer).flatMap((map) => [...heatLines(map, paper), '']),
    ...table(expertRows(experts, layer, HOTTEST), columnsOf(experts), FIGURES.length),
  ];
}
