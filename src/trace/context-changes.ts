/**
 * What differs between two contexts of an actor, leaf by leaf.
 * @module
 */

/** `path`: such as `scheduler.running.0.computed`. `undefined`: it is not there. */
export type Change = { readonly path: string; readonly before: unknown; readonly after: unknown };

/** Of plain JSON values. Lists of objects are compared item by item, others as a whole. */
export function changesBetween(before: unknown, after: unknown, path = ''): Change[] {
  if (isStructure(before) && isStructure(after) && Array.isArray(before) === Array.isArray(after))
    return Object.keys({ ...before, ...after }).flatMap((key) => changesBetween(before[key], after[key], path === '' ? key : `${path}.${key}`));
  return JSON.stringify(before) === JSON.stringify(after) ? [] : [{ path, before, after }];
}

type Structure = { readonly [key: string]: unknown };

const isStructure = (value: unknown): value is Structure =>
  typeof value === 'object' && value !== null && !(Array.isArray(value) && value.every((item) => typeof item !== 'object' || item === null));
