/**
 * Who gives way to whom where experts are nowhere (ReviveMoE): attention NPUs leave their place to an expert NPU that was lost. Places are workers: whose NPUs are
 * attention NPUs alone, and as many as the lost worker had at least. Of these it is the one with which the fewest DP groups end that serve, then the fewest that stand by,
 * then the last one.
 * @module
 */

/** What a worker has of the executor. `groups`: those that lose an NPU with it. */
export type Place = { readonly worker: number; readonly npus: readonly number[]; readonly groups: readonly number[] };
/** A worker that has expert NPUs, and all that it has. */
export type Home = { readonly worker: number; readonly npus: readonly number[] };
/** Of a task executor. `groups`: in the order in which they come to serve. */
export type RoleSeats = {
  readonly groups: readonly { readonly group: number; readonly npus: readonly number[] }[];
  readonly places: readonly Place[];
  readonly homes: readonly Home[];
};
/** `needed`: lost NPUs that are wanted back; `serving`: groups that are to serve; `refused`: places that are none any more. */
export type Losses = {
  readonly needed: readonly number[];
  readonly lost: readonly number[];
  readonly serving: readonly number[];
  readonly refused: readonly number[];
};
export type Switch = { readonly home: Home; readonly place: Place };
/** `served`: so many groups did when it was chosen. */
export type Chosen = Switch & { readonly served: number };
/** Of an executor, as things stand. */
export type Seated = { readonly seats: RoleSeats; readonly serving: readonly number[] };

/** Null: there is nobody to spare. One group at least goes on serving. */
export function switchFor({ groups, places, homes }: RoleSeats, { needed, lost, serving, refused }: Losses): Switch | null {
  const lives = (group: number): boolean => groups.find((one) => one.group === group)?.npus.every((npu) => !lost.includes(npu)) ?? false;
  const rankOf = ({ groups: own }: Place): number => Math.max(...own.map((group) => groups.findIndex((one) => one.group === group)));
  // A group that has lost another NPU costs nothing more.
  const servingOf = ({ groups: own }: Place): number => own.filter((group) => serving.includes(group) && lives(group)).length;
  const livingOf = ({ groups: own }: Place): number => own.filter(lives).length;
  const free = places
    .filter(({ worker, npus }) => !refused.includes(worker) && npus.every((npu) => !lost.includes(npu)))
    .sort((a, b) => servingOf(a) - servingOf(b) || livingOf(a) - livingOf(b) || rankOf(b) - rankOf(a));
  for (const home of homes) {
    if (!home.npus.some((npu) => needed.includes(npu)) || !home.npus.every((npu) => lost.includes(npu))) continue;
    const place = free.find(({ npus, groups: own }) => npus.length >= home.npus.length && serving.some((group) => !own.includes(group) && lives(group)));
    if (place !== undefined) return { home, place };
  }
  return null;
}

/** What is left of groups and places without who goes. */
export function withoutPlace({ seats, serving }: Seated, chosen: Switch | null): Seated {
  const isLeft = (group: number): boolean => !chosen?.place.groups.includes(group);
  const groups = seats.groups.filter(({ group }) => isLeft(group));
  const places = seats.places.filter(({ worker }) => worker !== chosen?.place.worker);
  return { serving: serving.filter(isLeft), seats: { ...seats, groups, places } };
}

/** So many groups serve. */
export const servedOf = ({ seats, serving }: Seated, lost: readonly number[]): number =>
  seats.groups.filter(({ group, npus }) => serving.includes(group) && !npus.some((npu) => lost.includes(npu))).length;
