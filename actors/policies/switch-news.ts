/**
 * What a role switch has the task executor hear of experts that are nowhere: nothing while whoever needs them waits for it.
 * @module
 */
import type { ErrorRecord } from '../../src/protocol/errors.ts';
import { advised, type ExpertsNowhere } from '../../src/protocol/role-switch.ts';

export type Told = Pick<ExpertsNowhere, 'npus'> & { readonly error: ErrorRecord };
/** `waits`: requests wait for a switch; `isLate`: for so long that they hear of the loss; `awaitsNews`: the map has yet to say what is nowhere, since somebody is back. */
export type News = {
  readonly nowhere: ExpertsNowhere | null;
  readonly told: Told | null;
  readonly waits: boolean;
  readonly isLate: boolean;
  readonly awaitsNews: boolean;
  readonly lost: readonly number[];
};

/** Somebody who is needed is lost still. */
export const isMissed = ({ nowhere, lost }: Pick<News, 'nowhere' | 'lost'>): boolean => nowhere?.needed.some((npu) => lost.includes(npu)) ?? false;

/** `hasLate`: one is to come, late; `mayCome`: another one may. */
export function toldNow(news: News, hasLate: boolean, mayCome: () => boolean): Told | null {
  const { nowhere, waits, told, isLate, lost, awaitsNews } = news;
  if (nowhere === null || nowhere.error === null) return null;
  // They are back, and the map says so in a moment.
  if (nowhere.needed.length > 0 && !isMissed(news)) return told;
  // There may be room with them for all that is missed, and the map says so when it lies there: who waits need not hear of it before, unless another was late.
  if (awaitsNews && told === null && !hasLate) return null;
  const comes = mayCome();
  if (waits && !isLate && comes) return null;
  return { error: advised(nowhere.error, comes || hasLate ? 'switch' : 'never'), npus: nowhere.npus.filter((npu) => lost.includes(npu)) };
}
