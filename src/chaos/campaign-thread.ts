/** A thread of a campaign: runs the seeds that it is given, batch by batch. @module */
import { parentPort } from 'node:worker_threads';
import { type Batch, runSeed, type SeedReport } from './campaign.ts';
import { Undisturbed } from './undisturbed.ts';

/** What calls are answered undisturbed is asked once for all batches. */
const undisturbed = new Undisturbed();

parentPort?.on('message', async ({ seeds, scope }: Batch) => {
  const reports: SeedReport[] = [];
  for (const seed of seeds) reports.push(await runSeed(seed, scope, undisturbed));
  parentPort?.postMessage(reports);
});
