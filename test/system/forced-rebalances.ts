/**
 * Rebalances that are forced at every boundary of a layer of a virtual pod: whenever its steps wait for one another, the next state of one that never ends is gone
 * through whole, as NPUs would do it just then. Some states are cut short: what was under way goes back to its last good map. Now and then nobody waits until all
 * have the new map, and no dispatch by an older one is open: then some are refused.
 * @module
 */
import { type ExpertMap, expertMap, NO_EXPERT } from '../../actors/policies/expert-placement/expert-map.ts';
import { planRounds } from '../../actors/policies/expert-placement/map-rounds.ts';
import { Reconfiguration } from '../../actors/policies/reconfiguration.ts';
import { firstMap } from '../../src/flowserve/experts/expert-routing.ts';
import { layersWithExperts } from '../../src/flowserve/experts/expert-slots.ts';
import type { VirtualControl } from '../../src/platform/virtual-control.ts';
import { address, idOf } from '../../src/protocol/address.ts';
import type { Commands } from '../../src/protocol/messages.ts';

type Below = (limit: number) => number;
type State = 'stage' | 'disable' | 'load' | 'enable' | 'settle';

/** One in so many waits is cut short. */
const HASTE = 3;

/** Each expert in at least one slot, what is left holds any of them or nothing; by layer. */
function anyMap({ shape }: ExpertMap, below: Below): ExpertMap {
  const { layers, slots, experts } = shape;
  const layerOf = (): number[] => {
    const of = Array.from({ length: slots }, (_, slot) => (slot < experts ? slot : below(experts + 1) + NO_EXPERT));
    for (let slot = slots - 1; slot > 0; slot--) {
      const other = below(slot + 1);
      [of[slot], of[other]] = [of[other] as number, of[slot] as number];
    }
    return of;
  };
  return expertMap(shape, Int32Array.from(Array.from({ length: layers }, layerOf).flat()));
}

/** One for each task executor, each at a state of its own; not `isHasty`: all waits are waited. Returns how many rounds were gone through so far, and how many taken back. */
export function forceRebalances(
  { plan, npus }: Pick<VirtualControl, 'plan' | 'npus'>,
  below: Below,
  isHasty = true,
): () => { readonly rounds: number; readonly back: number } {
  const counts = { rounds: 0, back: 0 };
  const loops = plan.hosting.deployment.executors.map((executor) => {
    const { id, attention, experts } = executor;
    const askers = Array.from({ length: attention.npus }, (_, index) => attention.first + index);
    const seat = {
      self: address('expert-map', id),
      askers,
      first: experts.first,
      shared: [],
      layers: layersWithExperts(plan.config),
      movable: true,
    };
    return { askers, moves: new Reconfiguration(seat, firstMap(plan.config, plan.options, executor)), state: 'stage' as State };
  });
  let isBusy = false;

  npus.onTurn = (movesOf) => {
    // Whoever is told of a map may turn once more.
    if (isBusy) return;
    isBusy = true;
    const perform = (moves: Reconfiguration, sends: readonly Commands['send'][]): void => {
      for (const { to, message } of sends) {
        if (message.type !== 'EXPERT_WORK') continue;
        const at = movesOf(idOf(to));
        at.perform(idOf(to), message.work, (told) => {
          if (told.type === 'MAP_INSTALLED') moves.installed(told.npu, told.epoch);
          else if (told.type === 'SLOT_DONE') moves.changed(told.change);
          else throw new Error(`npu/${idOf(to)} says ${told.type}: ${JSON.stringify(told)}`);
        });
        while (at.poll());
      }
    };
    for (const loop of loops) {
      const { moves } = loop;
      for (const npu of loop.askers) movesOf(npu).poll();
      if (moves.waits && (!isHasty || below(HASTE) > 0)) continue;
      if (!moves.hasRounds) {
        moves.begin(moves.map, planRounds(moves.map, anyMap(moves.map, below)) ?? []);
        loop.state = 'stage';
        if (!moves.hasRounds) continue;
      }
      if (below(12) === 0 && loop.state !== 'stage') {
        perform(moves, moves.rollBack());
        counts.back++;
        continue;
      }
      if (loop.state === 'stage') perform(moves, moves.stage());
      else if (loop.state === 'disable') perform(moves, moves.disable());
      else if (loop.state === 'load') perform(moves, moves.load());
      else if (loop.state === 'enable') perform(moves, moves.enable());
      if (loop.state !== 'settle') loop.state = ({ stage: 'disable', disable: 'load', load: 'enable', enable: 'settle' } as const)[loop.state];
      if (loop.state !== 'settle' || moves.waits) continue;
      moves.settle();
      counts.rounds++;
      loop.state = 'stage';
    }
    isBusy = false;
  };
  return () => counts;
}
