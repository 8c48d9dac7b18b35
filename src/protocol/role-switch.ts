/**
 * What passes where an attention NPU takes the role of an expert NPU that was lost, and has no successor (ReviveMoE; xDeepServe §6).
 *
 *   expert map ─ EXPERTS_NOWHERE ─▶ role switch ─ MAP_WANTED ──▶ expert map ─ MAP_GRANTED ─▶     as a writer of its log (map-log.ts)
 *                                        ├─────── LEND_SHAPE ──▶ scaling ──── SHAPE_LENT ──▶     where the number of groups may change
 *                                        ├─────── SERVE ───────▶ task executor ── SERVING ─▶     the group that goes hands back what it has (scaling.ts)
 *                                        └─────── SWITCH_ROLE ─▶ control                         its worker ends, and the lost one's successor begins in its place
 *                                     task executor ─ NPU_BACK ─▶ role switch ─ MAP_DONE, GIVE_SHAPE ─▶
 *
 * As long as it may come to that, the task executor hears nothing of lost experts: who needs them waits.
 * @module
 */
import type { Address } from './address.ts';
import type { ErrorRecord } from './errors.ts';
import type { MapGrantMessage } from './map-log.ts';

/**
 * `auto`: as ReviveMoE decides: requests wait for the switch where the EP group is small, in a large one they are served by masked gates or fail meanwhile (`background`).
 * `foreground`, `background`: so whatever its size. `never`: experts without a copy stay lost.
 */
export const ROLE_SWITCHES = ['auto', 'foreground', 'background', 'never'] as const;
export type RoleSwitching = (typeof ROLE_SWITCHES)[number];

/**
 * By the expert map: no copy is left of some, and there is nobody to bring one back, or no room for it; null: all are somewhere, or will be. Whether it helps to send a
 * request again says who tells the task executor: a role switch says so of what it is told (`advised`).
 */
export type ExpertsNowhere = {
  readonly type: 'EXPERTS_NOWHERE';
  readonly error: ErrorRecord | null;
  /** That had them: who can do without their experts has all there are. */
  readonly npus: readonly number[];
  /** With these all would be somewhere again. */
  readonly needed: readonly number[];
};

export type RoleSwitchMessage =
  | ExpertsNowhere
  | MapGrantMessage
  /** By the task executor, of all its NPUs. */
  | { readonly type: 'NPU_LOST'; readonly npu: number; readonly error: ErrorRecord }
  | { readonly type: 'NPU_BACK'; readonly npu: number }
  /** By the scaling actor, which changes nothing now: these groups serve. */
  | { readonly type: 'SHAPE_LENT'; readonly groups: readonly number[] }
  /** By the task executor: as SERVE had it, nothing is left at the groups that are not to serve. */
  | { readonly type: 'SERVING'; readonly query: number }
  /** The state of that turn has had its time. */
  | { readonly type: 'SWITCH_OVERDUE'; readonly turn: number }
  /** By the task executor: nobody can be put in its place for now. */
  | { readonly type: 'NPU_GONE'; readonly npu: number; readonly error: ErrorRecord }
  /** By the control plane: the place is no more, or nobody is to be put in it. */
  | { readonly type: 'ROLE_REFUSED'; readonly place: number }
  | { readonly type: 'SWITCH_RETRY' }
  /** Of `claim`: the time. */
  | { readonly type: 'TIME_TOLD'; readonly now_ms: number };

/** To the scaling actor. */
export type ShapeLoanMessage =
  /** A change that is under way comes to nothing. */
  | { readonly type: 'LEND_SHAPE'; readonly role_switch: Address }
  /** These are to serve from now on. */
  | { readonly type: 'GIVE_SHAPE'; readonly serving: readonly number[] };

/** To the control plane: worker `place` ends, and what worker `lost` had begins anew where that one sat. */
export type SwitchRoleMessage = { readonly type: 'SWITCH_ROLE'; readonly role_switch: Address; readonly lost: number; readonly place: number };

export const expertsNowhere = (error: ErrorRecord | null, npus: readonly number[], needed: readonly number[]): ExpertsNowhere => ({
  type: 'EXPERTS_NOWHERE',
  error,
  npus,
  needed,
});
export const shapeLent = (groups: readonly number[]): RoleSwitchMessage => ({ type: 'SHAPE_LENT', groups });
export const switchOverdue = (turn: number): RoleSwitchMessage => ({ type: 'SWITCH_OVERDUE', turn });
export const roleRefused = (place: number): RoleSwitchMessage => ({ type: 'ROLE_REFUSED', place });
export const switchRetry = (): RoleSwitchMessage => ({ type: 'SWITCH_RETRY' });
export const lendShape = (role_switch: Address): ShapeLoanMessage => ({ type: 'LEND_SHAPE', role_switch });
export const giveShape = (serving: readonly number[]): ShapeLoanMessage => ({ type: 'GIVE_SHAPE', serving });
export const switchRole = (role_switch: Address, lost: number, place: number): SwitchRoleMessage => ({ type: 'SWITCH_ROLE', role_switch, lost, place });

const ADVICE = {
  /** It is tried again, or a successor is to come. */
  soon: 'the request may be sent again',
  switch: 'an attention NPU takes the place, and the request may be sent again then',
  never: 'nobody takes the place, and sending the request again does not help',
} as const;

/** What who misses experts is to do. */
export const advised = (error: ErrorRecord, advice: keyof typeof ADVICE): ErrorRecord => ({ ...error, message: `${error.message}; ${ADVICE[advice]}` });
