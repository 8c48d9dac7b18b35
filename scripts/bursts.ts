/**
 * Bursts of short calls against pods whose experts are apart, each of another shape, on worker threads: whether anything stalls, fails, or is told other tokens than one NPU
 * tells. Exits with 1 if so.
 *
 * @example
 * node scripts/bursts.ts --seconds 300 --schedule dataflow          # a pod every 20 seconds
 * node scripts/bursts.ts --seconds 20 --seed 417                    # a seed that failed, again
 * @module
 */
import { parseArgs } from 'node:util';
import { createPod, type PodOptions } from '../src/index.ts';
import { bursts, talesOf } from '../test/system/bursts.ts';
import { expectNothingLeft } from '../test/system/pods.ts';
import { draws } from '../test/trace/files.ts';

const POD_S = 20;

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string', default: '1' },
    schedule: { type: 'string' },
    topology: { type: 'string' },
  },
});

function podOf(seed: number): PodOptions {
  const below = draws(seed);
  const [domains, attention, experts, schedule, micro_batches] = [1 + below(3), 1 + below(2), 1 + below(3), below(2), 1 + below(2)];
  const shared = ['', ',shared=attention', ',shared=1'][below(3)];
  const drawn: PodOptions = {
    topology: `moe-attention:domains=${domains}x${attention},experts=${experts}${shared}`,
    schedule: schedule === 0 ? 'domains' : 'dataflow',
    workers: 1 + below(Math.min(3, domains * attention + experts)),
    load_balancing: below(2) === 0 ? 'round_robin' : 'auto',
    max_batch_tokens: [7, 64, 256][below(3)],
    async_scheduling: below(3) > 0,
  };
  const asked = { ...drawn, ...(values.schedule !== undefined && { schedule: values.schedule as 'domains' | 'dataflow' }) };
  return {
    ...asked,
    ...(values.topology !== undefined && { topology: values.topology }),
    ...(asked.schedule === 'dataflow' && { micro_batches: micro_batches as 1 | 2 }),
  };
}

async function talesOfOneNpu(): ReturnType<typeof talesOf> {
  await using pod = await createPod();
  return await talesOf(pod);
}

const tales = await talesOfOneNpu();
const start = performance.now();
let failed = false;
for (let seed = Number(values.seed); performance.now() - start < Number(values.seconds) * 1000 && !failed; seed++) {
  const options = podOf(seed);
  const left_s = Number(values.seconds) - (performance.now() - start) / 1000;
  try {
    await using pod = await createPod(options);
    const counts = await bursts(pod, tales, Math.min(POD_S, left_s) * 1000, seed);
    await expectNothingLeft(pod);
    console.log(`seed ${seed} ${JSON.stringify(options)}: ${counts.bursts} bursts, ${counts.ended} calls, ${counts.left} left, ${counts.tokens} tokens`);
  } catch (error) {
    failed = true;
    console.log(`seed ${seed} ${JSON.stringify(options)}: ${error instanceof Error ? error.message : error}`);
  }
}
process.exitCode = failed ? 1 : 0;
