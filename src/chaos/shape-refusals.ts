/**
 * Whether a change of the pod's shape was rightly refused: it was of more than is left, since parts that are named were lost, and each of them really was; or of more
 * groups, where all that served were lost, and those that stand by have no weights.
 *
 *   experts: 4 expert NPUs are more than the 3 that are left of 4: expert NPU 4 is lost, and nobody takes the place
 *   attention: no DP group is left from which others could have their weights
 * @module
 */
const LEFT = /: (\d+) (DP group|expert NPU)s? are more than the (\d+) that are left of (\d+): \2s? ([\d, ]+) (?:is|are) lost, and nobody takes the place$/;

const NO_SOURCE = 'attention: no DP group is left from which others could have their weights';

/** An NPU or a DP group: with a worker, at some time; `allServing`: all groups that served, at once. */
export type Lost = {
  readonly wasLost: (npu: number) => boolean;
  readonly groupWasLost: (group: number) => boolean;
  readonly allServingWereLost: () => boolean;
};

export function isRefusedForLoss(message: string, { wasLost, groupWasLost, allServingWereLost }: Lost): boolean {
  if (message === NO_SOURCE) return allServingWereLost();
  const [found, asked, what, left, all, names = ''] = LEFT.exec(message) ?? [];
  if (found === undefined) return false;
  const gone = names.split(', ').map(Number);
  const isGone = what === 'DP group' ? groupWasLost : wasLost;
  return Number(asked) > Number(left) && Number(asked) <= Number(all) && Number(left) === Number(all) - gone.length && gone.every(isGone);
}
