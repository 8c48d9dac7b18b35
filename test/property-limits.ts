/** Before each test file. A property that fails is shrunk for hours if it may: what it has found by then, with seed and path, is worth more on a build machine. */
import fc from 'fast-check';
import { isCampaign } from './property-runs.ts';

/** Less than a test's time limit. Where nothing has failed until then, the runs were too many, and that fails too. */
const LIMIT_MS = 45_000;

if (!isCampaign) fc.configureGlobal({ interruptAfterTimeLimit: LIMIT_MS, markInterruptAsFailure: true });
