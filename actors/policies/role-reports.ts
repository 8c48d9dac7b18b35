/**
 * What the map's log tells of role switches.
 * @module
 */
import { names } from './map-writers.ts';
import { type Chosen, type Seated, type Switch, servedOf, withoutPlace } from './role-places.ts';

/** Who gave way to whom; `how`: or is to. */
export function placed(chosen: Switch | null, how: 'took' | 'was to take'): string {
  if (chosen === null) return '';
  const { home, place } = chosen;
  const groups = `DP group${place.groups.length === 1 ? '' : 's'} ${place.groups.join(', ')}`;
  return `${names(home.npus)} ${how} the place of ${names(place.npus)} (${groups})`;
}

type Settling = Seated & { readonly chosen: Chosen | null; readonly lost: readonly number[]; readonly began_ms: number };

/** What came of a switch. */
export function reportOf({ seats, serving, chosen, lost, began_ms }: Settling, now_ms: number): string {
  const left = servedOf(withoutPlace({ seats, serving }, chosen), lost);
  const groups = `of ${chosen?.served} DP group${chosen?.served === 1 ? '' : 's'} ${left} ${left === 1 ? 'is' : 'are'} left to serve`;
  return `${placed(chosen, 'took')} in ${now_ms - began_ms} ms, since experts were nowhere else; ${groups}`;
}
