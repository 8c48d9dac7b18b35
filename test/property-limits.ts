/**
 * Before each test file. The suite is the same run for the same sources, whoever runs it: properties begin with one seed, and the search for what nobody has
 * thought of is a campaign's (property-runs.ts), or another seed's: `SEED=7 npm test`.
 *
 * A property that fails is shrunk for hours if it may: what it has found by then, with seed and path, is worth more on a build machine.
 */
import fc from 'fast-check';
import { isCampaign, SEED } from './property-runs.ts';

/** Less than a test's time limit. Where nothing has failed until then, the runs were too many, and that fails too. */
const LIMIT_MS = 45_000;

if (!isCampaign) fc.configureGlobal({ seed: SEED, interruptAfterTimeLimit: LIMIT_MS, markInterruptAsFailure: true });
