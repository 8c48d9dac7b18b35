/**
 * Small changes to machines and policies, such as slip into an edit: one guard or one constant each. A trace of the unchanged code must tell each of them.
 * Not among them is what no command, state or token ever shows (a counter that nobody reads), or what the trace itself says (where an actor was born).
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createPod } from '../../src/index.ts';
import { type Ended, start } from '../cli/command.ts';
import { sleep } from '../system/pods.ts';
import { openRig } from '../system/rig.ts';
import { recordDeaths, recordPreemptions, recordVirtual, useRecorded } from './recorded-runs.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

// ── Runs ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What the unchanged code is recorded doing. */
export const RUNS = {
  /** Several choices, aborts, stop strings. */
  mixed: (path: string) => recordVirtual(path),
  /** Callers that come when others have gone. */
  rounds: recordRounds,
  preemptions: recordPreemptions,
  /** Prompts that begin alike, in rounds, and more of them than can be kept. */
  prefixes: recordPrefixes,
  refusals: recordRefusals,
  deaths: recordDeaths,
  traps: recordTraps,
} as const satisfies { readonly [name: string]: (path: string) => Promise<void> };
export type RunName = keyof typeof RUNS;

async function recordRounds(path: string): Promise<void> {
  await using pod = await createPod({ clock: 'virtual', kernels: 'hash', npus: 3, workers: 3, record: path });
  for (let round = 0; round < 2; round++) await useRecorded(pod, 4);
}

async function recordPrefixes(path: string): Promise<void> {
  await using pod = await createPod({ clock: 'virtual', kernels: 'hash', kv_blocks: 8, max_batch_tokens: 32, record: path });
  const stem = (family: number): number[] => Array.from({ length: 50 }, (_, at) => 3 + ((family * 37 + at * 11) % 500));
  for (let round = 0; round < 8; round++)
    await Promise.all([0, 1].map((call) => pod.complete([...stem(round % 3), 7 + call], { max_tokens: 12, seed: round, ignore_eos: true })));
}

/** One more than there is room for, one after the other; and requests that need all KV blocks, and more. */
async function recordRefusals(path: string): Promise<void> {
  await using pod = await createPod({ clock: 'virtual', kernels: 'hash', kv_blocks: 4, max_queued: 5, record: path });
  for (const max_tokens of [8, 60, 80]) {
    const calls = Array.from({ length: 8 }, (_, seed) => pod.complete([1, 86, 1461, 613], { max_tokens, seed, temperature: 1, ignore_eos: true }));
    await Promise.allSettled(calls);
  }
}

/** A kernel that traps under a step, with sequences beside it. */
async function recordTraps(path: string): Promise<void> {
  await using rig = await openRig({ npus: 2, workers: 1, record: path });
  const running = useRecorded(rig.pod, 10);
  while ((await rig.pod.stats()).generation_tokens < 8) await sleep(1);
  rig.poisonBlockTables(0);
  await running;
  await useRecorded(rig.pod, 4);
}

// ── Mutations ───────────────────────────────────────────────────────────────────────────────────────────────────────

export type Mutation = {
  /** Under actors/. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
  /** The run that tells it, and what its replay must name: the actor's role and the message. */
  readonly run: RunName;
  readonly role: string;
  readonly type: string;
};

/** The actor's birth, which has no message. */
const BIRTH = '(birth)';

const of = (file: string, run: RunName, role: string, type: string, from: string, to: string): Mutation => ({ file, from, to, run, role, type });

export const MUTATIONS: readonly Mutation[] = [
  of('request.ts', 'mixed', 'request', 'ADMITTED', "ADMITTED: 'held'", "ADMITTED: 'withdrawing'"),
  of('request.ts', 'mixed', 'request', 'JOB_PLACED', "JOB_PLACED: 'queued'", "JOB_PLACED: 'running'"),
  of('request.ts', 'mixed', 'request', 'JOB_CANCELLED', "code: 'cancelled'", "code: 'closed'"),
  of('request.ts', 'mixed', 'request', 'CANCEL', "CANCEL: '.cancelling'", 'CANCEL: {}'),
  of(
    'request.ts',
    'refusals',
    'request',
    'REFUSED',
    "REFUSED: { target: 'failed', actions: assign({ error: ({ event }) => event.error }) }",
    "REFUSED: 'failed'",
  ),
  of('job.ts', 'mixed', 'job', 'TASK_DONE', 'without(context.open, event).length === 0', 'without(context.open, event).length <= 1'),
  of('job.ts', 'mixed', 'job', 'TASK_STREAMING', 'isFirstToken: ({ context }) => !context.streaming', 'isFirstToken: ({ context }) => context.streaming'),
  of('job.ts', 'deaths', 'job', 'TASK_FAILED', "event.type === 'TASK_FAILED' ? event.error : context.error", 'context.error'),
  of('job.ts', 'mixed', 'job', 'TASK_PLACED', "on: { TASK_PLACED: 'placed' }", "on: { TASK_PLACED: 'running' }"),
  of(
    'task.ts',
    'preemptions',
    'task',
    'SCHEDULED',
    "preempted: {\n          on: { SCHEDULED: 'prefilling' }",
    "preempted: {\n          on: { SCHEDULED: 'decoding' }",
  ),
  of('task.ts', 'mixed', 'task', 'STOP_STRING_FOUND', "STOP_STRING_FOUND: '.stopping'", "STOP_STRING_FOUND: '.cancelling'"),
  of('task.ts', 'deaths', 'task', 'EXECUTOR_LOST', "EXECUTOR_LOST: { target: 'failed'", "EXECUTOR_LOST: { target: 'cancelled'"),
  of('task.ts', 'traps', 'task', 'GENERATION_FAILED', "GENERATION_FAILED: { target: 'failed'", "GENERATION_FAILED: { target: 'done'"),
  of('job-executor.ts', 'refusals', 'job-executor', 'ADMIT', 'event.choices <= context.choices_max', 'event.choices < context.choices_max'),
  of('job-executor.ts', 'refusals', 'job-executor', 'ADMIT', 'context.choices - event.choices', 'context.choices'),
  of('task-executor.ts', 'mixed', 'task-executor', BIRTH, 'context.placement.allServe', '!context.placement.allServe'),
  of('policies/placement.ts', 'mixed', 'task-executor', 'PLACE', 'isFull ? load.tasks.size : -load.tasks.size', 'load.tasks.size'),
  of('policies/placement.ts', 'mixed', 'task-executor', 'PLACE', '(a[at] as number) < (b[at] as number)', '(a[at] as number) > (b[at] as number)'),
  of('policies/placement.ts', 'rounds', 'task-executor', 'PLACE', 'tasks.delete(task)', 'tasks.has(task)'),
  of('policies/placement.ts', 'mixed', 'task-executor', 'NPU_READY', 'every(({ serving })', 'some(({ serving })'),
  of('policies/placement.ts', 'deaths', 'task-executor', 'NPU_LOST', 'return [...load.tasks];', 'return [...load.tasks].reverse();'),
  of(
    'dp-group.ts',
    'mixed',
    'dp-group',
    BIRTH,
    'isStepping: ({ context }) => context.scheduler.isStepping',
    'isStepping: ({ context }) => !context.scheduler.isStepping',
  ),
  of(
    'policies/step-scheduler.ts',
    'prefixes',
    'dp-group',
    'ENQUEUE',
    'let budget = this.#limits.batch_tokens_max',
    'let budget = this.#limits.batch_tokens_max - 1',
  ),
  of('policies/step-scheduler.ts', 'mixed', 'dp-group', 'STEP_DONE', 'outputOf(running) >= sequence.max_tokens', 'outputOf(running) > sequence.max_tokens'),
  of('policies/step-scheduler.ts', 'refusals', 'dp-group', 'ENQUEUE', 'needed > this.cache.blocks', 'needed >= this.cache.blocks'),
  of('policies/step-scheduler.ts', 'preemptions', 'dp-group', 'STEP_DONE', 'this.#running.findLast((candidate)', 'this.#running.find((candidate)'),
  of('policies/step-scheduler.ts', 'preemptions', 'dp-group', 'STEP_DONE', 'this.#waiting.unshift(victim)', 'this.#waiting.push(victim)'),
  of('policies/step-scheduler.ts', 'mixed', 'dp-group', 'ABANDON', 'running.isAbandoned = true;\n      return [];', 'running.isAbandoned = true;'),
  of('policies/step-scheduler.ts', 'mixed', 'dp-group', 'STEP_DONE', 'if (!running.isDecoding) messages', 'if (running.isDecoding) messages'),
  of('policies/step-scheduler.ts', 'mixed', 'dp-group', 'ENQUEUE', '(this.#step % STEPS) + 1', '(this.#step % STEPS) + 2'),
  of('policies/relational-tensor-cache.ts', 'mixed', 'dp-group', 'ENQUEUE', 'blocks - 1 - index', 'index'),
  of('policies/relational-tensor-cache.ts', 'preemptions', 'dp-group', 'STEP_DONE', 'count <= this.#free.length + ', 'count < this.#free.length + '),
  of(
    'policies/relational-tensor-cache.ts',
    'prefixes',
    'dp-group',
    'STEP_DONE',
    '(path.length + 1) * this.block_size <= computed',
    '(path.length + 1) * this.block_size < computed - 16',
  ),
  of('policies/step-scheduler.ts', 'prefixes', 'dp-group', 'STEP_DONE', 'const known = holding.blocks.length * this.cache.block_size', 'const known = 0'),
  of('policies/prefix-tree.ts', 'prefixes', 'dp-group', 'STEP_DONE', 'const node = this.#oldest;', 'const node = this.#newest;'),
  of('policies/placement.ts', 'mixed', 'expert', 'LOADED', 'expert % npus', '(expert + 1) % npus'),
  of('npu.ts', 'mixed', 'npu', 'STEP', 'LOAD_REPORT_PERIOD_MS = 1_000', 'LOAD_REPORT_PERIOD_MS = 2_000'),
  of('npu.ts', 'mixed', 'npu', 'STEP', '!context.isReportDue', 'context.isReportDue'),
  of('npu.ts', 'traps', 'npu', 'LAUNCH_FAILED', "LAUNCH_FAILED: { target: 'lost'", "LAUNCH_FAILED: { target: 'idle'"),
  of('npu.ts', 'mixed', 'npu', 'LAUNCH_DONE', 'stepDone(event.step, event.outcomes)', 'stepDone(event.step + 1, event.outcomes)'),
  of('expert.ts', 'mixed', 'expert', 'LOADED', "target: 'serving'", "target: 'loading'"),
];

// ── Sources ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What `minipod replay --json` says, as far as it is looked at here. */
export type Verdict = {
  readonly outcome: string;
  readonly divergence: {
    readonly record: number;
    readonly actor: string;
    readonly message: { readonly type: string } | null;
    readonly difference: string;
  } | null;
};

/** A copy of the sources, to be changed and run. */
export class MutatedSources implements Disposable {
  readonly root = mkdtempSync(join(tmpdir(), 'minipod-mutated-'));

  constructor() {
    for (const name of ['actors', 'src', 'bin', 'package.json']) cpSync(join(ROOT, name), join(this.root, name), { recursive: true });
    for (const name of ['node_modules', 'models']) symlinkSync(join(ROOT, name), join(this.root, name));
    mkdirSync(join(this.root, 'traces'));
  }

  /** Recorded by the code as it is. */
  async record(run: RunName): Promise<void> {
    await RUNS[run](this.traceOf(run));
  }

  traceOf(run: RunName): string {
    return join(this.root, 'traces', `${run}.trace`);
  }

  /** Replays the mutation's run with the mutation in place. */
  async replay({ file, from, to, run }: Mutation): Promise<{ readonly ended: Ended; readonly verdict: Verdict }> {
    const path = join(this.root, 'actors', file);
    const source = readFileSync(path, 'utf8');
    if (!source.includes(from)) throw new Error(`actors/${file} does not hold ${from}: mend the mutation`);
    writeFileSync(path, source.replace(from, to));
    try {
      const ended = await start(['replay', this.traceOf(run), '--no-compute', '--json'], '', {}, this.root).ended;
      return { ended, verdict: JSON.parse(ended.stdout) as Verdict };
    } finally {
      writeFileSync(path, source);
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

/** Null: it was caught as it must be; else what is wrong. */
export function complaintOf({ role, type }: Mutation, { ended, verdict }: { readonly ended: Ended; readonly verdict: Verdict }): string | null {
  const { divergence } = verdict;
  if (ended.code !== 1 || divergence === null) return `exit code ${ended.code}, ${verdict.outcome}: it was not seen`;
  const named = divergence.message?.type ?? BIRTH;
  return divergence.actor.startsWith(`${role}/`) && named === type ? null : `names ${divergence.actor} ${named}, and not ${role} ${type}`;
}
