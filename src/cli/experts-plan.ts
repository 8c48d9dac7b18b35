/**
 * `minipod experts plan`: tries placement policies on loads from a file.
 * @module
 */
import { type Command, Option } from 'commander';
import type { ExpertLoads } from '../../actors/policies/expert-placement/expert-loads.ts';
import type { ExpertMap } from '../../actors/policies/expert-placement/expert-map.ts';
import { type MapMoves, movesBetween } from '../../actors/policies/expert-placement/map-moves.ts';
import { nativeMap } from '../../actors/policies/expert-placement/native.ts';
import { checkShape, type PlacementShape } from '../../actors/policies/expert-placement/placement-shape.ts';
import { PLACE_EXPERTS, PLACEMENT_POLICIES, type PlacementPolicy, planFrom } from '../../actors/policies/expert-placement/policies.ts';
import { imbalance, imbalanceByLayer } from '../../actors/policies/expert-placement/predicted-balance.ts';
import { judgePlan } from '../../actors/policies/expert-placement/worth-installing.ts';
import { MinipodError } from '../index.ts';
import { type Column, table } from './columns.ts';
import { loadsOf, readLoads, readMap, tableNamed } from './loads-file.ts';
import { note, print, printJson } from './output.ts';
import { positive } from './trace-arguments.ts';
import { INCOMPLETE } from './trace-end.ts';
import { UsageError } from './usage-error.ts';

type PlanFlags = {
  readonly ranks: number;
  readonly slots: number;
  readonly nodes: number;
  readonly groups: number;
  readonly policy?: PlacementPolicy;
  readonly table?: string;
  readonly score?: string;
  readonly present?: string;
  readonly json?: true;
};

export function addPlanCommand(experts: Command, setExitCode: (code: number) => void): void {
  const plan = 'Tries placement policies on the tokens that experts got: how even ranks would be, and what would move.';
  experts
    .command('plan')
    .summary(plan)
    .description(plan)
    .argument(
      '<loads>',
      'a routing trace, a .pt file of SGLang’s recorder, or a JSON file of tokens as [layer][expert] or [window][layer][expert], under any names',
    )
    .addOption(new Option('--ranks <N>', 'NPUs that the experts of a layer are spread over').argParser(positive).makeOptionMandatory())
    .addOption(new Option('--slots <N>', 'experts that all ranks together hold of a layer, with redundant ones').argParser(positive).makeOptionMandatory())
    .addOption(new Option('--nodes <N>', 'nodes that the ranks are in').argParser(positive).default(1))
    .addOption(new Option('--groups <N>', 'expert groups that the model’s gate chooses among').argParser(positive).default(1))
    .addOption(new Option('--policy <NAME>', 'this one alone').choices(PLACEMENT_POLICIES))
    .option(
      '--table <NAME>',
      'the loads to plan on, where the file has several: their key, or how it begins; model/key where that is not enough; of a routing trace prefill, decode, first_half or second_half (default: all of it)',
    )
    .option('--score <NAME>', 'the loads to score the plans on (default: those that they were planned on)')
    .option(
      '--present <FILE>',
      'the map that is there, {"physical_to_logical_map": [layer][slot]}, from which plans move as little as they can (default: native)',
    )
    .option('--json', 'print one JSON object, with the maps')
    .addHelpText('after', EXAMPLES)
    .action(async (file: string, flags: PlanFlags) => setExitCode(await plans(file, flags)));
}

async function plans(file: string, flags: PlanFlags): Promise<number> {
  const { tables, isWhole } = readLoads(file);
  const planned = tableNamed(tables, file, flags.table);
  const scored = flags.score === undefined ? planned : tableNamed(tables, file, flags.score);
  const loads = loadsOf(planned, file);
  const { ranks, slots, nodes, groups } = flags;
  const shape: PlacementShape = { layers: loads.layers, experts: loads.experts, slots, ranks, nodes, groups };
  asUsage(() => checkShape(shape));
  const present = flags.present === undefined ? nativeMap(shape) : readMap(flags.present, shape);
  const next = loadsOf(scored, file);
  const before = imbalance(present, next);
  // From nothing, a plan is as its policy makes it.
  const place: Place = (policy) => (flags.present === undefined ? PLACE_EXPERTS[policy](loads, shape) : planFrom(present, policy, loads));
  const row = (policy: PlacementPolicy): PlanRow => scoredPlan(policy, place(policy), present, loads, next);
  const { policy } = flags;
  const rows = policy === undefined ? whereItFits(row) : [asUsage(() => row(policy))];
  const named = { planned_on: planned.name, scored_on: scored.name };
  if (flags.json) await printJson({ ...named, shape, windows: loads.windows, present: before, plans: rows.map(inJson) });
  else await print(`${headline(named, shape, loads, before)}\n\n${table(rows, COLUMNS, COLUMNS.length - 1).join('\n')}\n`);
  return isWhole ? 0 : INCOMPLETE;
}

/** `install`: layers whose plan is predicted better than what is there, on the loads that it was made on. */
type PlanRow = {
  readonly policy: PlacementPolicy;
  readonly map: ExpertMap;
  readonly imbalance: number;
  readonly by_layer: Float64Array;
  readonly moves: MapMoves;
  readonly install: readonly number[];
  readonly reason: string;
};

type Place = (policy: PlacementPolicy) => ExpertMap;

function scoredPlan(policy: PlacementPolicy, map: ExpertMap, present: ExpertMap, loads: ExpertLoads, next: ExpertLoads): PlanRow {
  const { layers, reason } = judgePlan(present, map, loads, 0);
  return { policy, map, imbalance: imbalance(map, next), by_layer: imbalanceByLayer(map, next), moves: movesBetween(present, map), install: layers, reason };
}

/** Of the policies that can fill the shape; why another cannot is said beside. */
function whereItFits(row: (policy: PlacementPolicy) => PlanRow): PlanRow[] {
  return PLACEMENT_POLICIES.flatMap((policy) => {
    try {
      return [row(policy)];
    } catch (error) {
      if (!(error instanceof MinipodError) || error.code !== 'invalid_request') throw error;
      note(`minipod: ${policy}: ${error.message}`);
      return [];
    }
  });
}

/** What does not fit is a flag. */
function asUsage<Result>(act: () => Result): Result {
  try {
    return act();
  } catch (error) {
    throw error instanceof MinipodError && error.code === 'invalid_request' ? new UsageError(error.message) : error;
  }
}

const COLUMNS: readonly Column<PlanRow>[] = [
  ['POLICY', ({ policy }) => policy],
  ['BUSIEST / MEAN RANK', (row) => row.imbalance.toFixed(3)],
  ['WORST LAYER', ({ by_layer }) => worstOf(by_layer)],
  ['LAYERS BETTER', ({ install, by_layer }) => `${install.length} of ${by_layer.length}`],
  ['SLOTS MOVED', ({ moves }) => moves.slots],
  ['WEIGHTS MOVED', ({ moves }) => moves.weights],
];

function worstOf(by_layer: Float64Array): string {
  const worst = by_layer.reduce((a, b) => Math.max(a, b));
  return `${by_layer.indexOf(worst)}: ${worst.toFixed(3)}`;
}

function headline(named: { planned_on: string; scored_on: string }, shape: PlacementShape, { windows }: ExpertLoads, before: number): string {
  const { layers, experts, slots, ranks } = shape;
  const scored = named.scored_on === named.planned_on ? '' : `, scored on ${named.scored_on}`;
  const size = `${layers} layers × ${experts} experts over ${windows} window${windows === 1 ? '' : 's'} → ${slots} slots on ${ranks} ranks`;
  return `${named.planned_on}${scored}: ${size}; now ${before.toFixed(3)}`;
}

function inJson({ policy, map, imbalance, by_layer, moves, install, reason }: PlanRow): object {
  const { layers, slots } = map.shape;
  const physical_to_logical_map = Array.from({ length: layers }, (_, layer) => [...map.expertOfSlot.subarray(layer * slots, (layer + 1) * slots)]);
  return { policy, imbalance, by_layer: [...by_layer], slots_moved: moves.slots, weights_moved: moves.weights, install, reason, physical_to_logical_map };
}

const EXAMPLES = `
Policies: native (no replicas), fixed_primaries (xDeepServe §4.5), hierarchical and global (DeepSeek EPLB), mirrored (each on two ranks, whatever the loads).
The busiest rank's tokens over the mean rank's, mean of the layers, is what a layer's time grows by; 1 is even. A plan is worth installing in the layers
where it is predicted better than the present map. Slots that get what their rank holds already are moved, but no weights move for them.
Exit code 3: the routing trace is damaged, unfinished, or recording stopped before the run did.

Examples:
  $ minipod experts plan loads.json --ranks 32 --slots 288 --nodes 4 --groups 8
  $ minipod experts plan loads.json --ranks 32 --slots 96 --table olmoe/c4 --score olmoe/github
  $ minipod experts plan run.routing --ranks 4 --slots 40 --table first_half --score second_half
  $ minipod experts plan loads.json --ranks 32 --slots 288 --policy global --json | jq '.plans[0] | {physical_to_logical_map}' > map.json`;
