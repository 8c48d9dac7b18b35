/** How a test tells a rogue control thread what to do, and hears that it does (`spins`): these threads, which nobody is, are stopped. */
import { bundleOf } from '../../scripts/bundle-names.ts';

/** Its file's name is in this variable of the environment. */
export const BEGINS_NOT = 'MINIPOD_TEST_BEGINS_NOT';

/** Who hears nothing any more when it is to be mute, of those who live there. */
export const MUTE = 'task-executor/0';
export const CONTROL_ORDERS = { mute: 123, spin: 124, throw: 125, spins: 126 } as const;

const bundles = process.env['MINIPOD_BUNDLES'];
/** On Deno nobody puts a bundle in its place (bundled-threads.ts). */
export const ROGUE_CONTROL = bundles === undefined ? new URL('rogue-control.ts', import.meta.url) : new URL(bundleOf('test/system/rogue-control'), bundles);
