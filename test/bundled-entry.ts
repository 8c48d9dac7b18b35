/**
 * Stands for src/runtime/thread-entry.ts in tests on Deno (bundled-loader.ts, bundled-threads.ts): a thread's entry is its bundle. On Node, whose loader can be
 * told so, the sources stay as they are.
 */
import { bundleOf } from '../scripts/bundle-names.ts';

/** Set before all tests; a folder's URL. */
const folder = process.env['MINIPOD_BUNDLES'];

export const entryPoint = (path: string): URL => new URL(bundleOf(path.replace('..', 'src')), folder);

export const threadOptions = (): object => ({});
