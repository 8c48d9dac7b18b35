/**
 * `npm run bench [NAME …]`: every benchmark in turn, each in a process of its own; tables on the terminal, JSON in bench/results/.
 * @module
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** By name, with what it measures. */
const BENCHMARKS: Readonly<Record<string, string>> = {
  kernels: "kernels against this core's own limits",
  pod: 'the pod against its bare kernels',
  disaggregation: 'prefill and decode apart against together, on the same two workers',
  'moe-attention': 'attention and experts apart against together, on the same two workers',
  scale: 'the longest stall of a stream while DP groups join and leave',
  recovery: 'the longest stall of a stream where a worker is lost, by recovery: live, and on a virtual clock with what the papers measured',
  schedules: 'one slow attention NPU among 480, by schedule, and a decode iteration of 768 NPUs, on a virtual clock',
  graph: 'what capturing decode steps saves, by model and rows',
  fabric: 'the fabric against what machine and platform offer',
  xccl: 'XCCL against memory.copy of the same bytes',
  distflow: 'KV blocks between NPUs against memory.copy of the same blocks',
  'prefix-cache': 'matching, keeping and giving up KV blocks in large trees',
  'expert-placement': 'how even expert placements are, and how long planning them takes',
  'expert-balancing': 'a skewed workload: experts balanced against where the checkpoint has them, and against even routing',
  drafting: 'tokens a second with drafts against none, and what costs and acceptance predict',
  int8: 'INT8 against BF16: products and tokens a second',
  scheduler: 'what a step costs its scheduler, by how many run and wait',
  trace: 'what recording costs, and how fast replays and virtual time are',
  'thread-times': 'whose processor time tokens take, by thread',
  'step-gap': 'from the end of a decode step to the first kernel of the next',
  'first-token': 'from createPod to the first token',
  'decode-profile': 'where a decode step goes',
};

const asked = process.argv.slice(2);
const unknown = asked.find((name) => !(name in BENCHMARKS));
if (unknown !== undefined) {
  const list = Object.entries(BENCHMARKS).map(([name, what]) => `  ${name.padEnd(16)}${what}`);
  console.error(`bench: there is no "${unknown}". Known:\n${list.join('\n')}`);
  process.exit(2);
}
let failed = 0;
for (const name of asked.length > 0 ? asked : Object.keys(BENCHMARKS)) {
  console.log(`\n── ${name}: ${BENCHMARKS[name]}`);
  const { status } = spawnSync(process.execPath, [fileURLToPath(new URL(`./${name}.ts`, import.meta.url))], { stdio: 'inherit' });
  if (status !== 0) failed++;
}
process.exit(failed === 0 ? 0 : 1);
