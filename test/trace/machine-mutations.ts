/** The small changes of machine-mutations.txt, made to a copy of the sources, and the runs that must tell them. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createPod } from '../../src/index.ts';
import { type Ended, start } from '../cli/command.ts';
import { sleep } from '../system/pods.ts';
import { openRig } from '../system/rig.ts';
import { recordDeaths, recordHandoffs, recordPreemptions, recordVirtual, useRecorded } from './recorded-runs.ts';

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
  /** Prefill and decode apart, with KV blocks for few. */
  handoffs: recordHandoffs,
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

const HEAD = /^(?<file>\S+), (?<run>\w+): (?<role>\S+) (?<type>\S+)$/;

function parseMutation(block: string): Mutation {
  const [head = '', ...lines] = block.split('\n');
  const { file = '', run = '', role = '', type = '' } = HEAD.exec(head)?.groups ?? {};
  const marked = (mark: string): string => lines.flatMap((line) => (line.startsWith(`${mark} `) ? [line.slice(2)] : [])).join('\n');
  const [from, to] = [marked('-'), marked('+')];
  if (!(run in RUNS) || from === '' || to === '' || from === to || lines.some((line) => !/^[-+] /.test(line)))
    throw new Error(`machine-mutations.txt: a block is "file, run: role MESSAGE", then lines after "- " and lines after "+ ", not:\n${block}`);
  return { file, from, to, run: run as RunName, role, type };
}

export const MUTATIONS: readonly Mutation[] = readFileSync(new URL('machine-mutations.txt', import.meta.url), 'utf8')
  .replaceAll(/^#.*\n/gm, '')
  .trim()
  .split(/\n{2,}/)
  .map(parseMutation);

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

  holds({ file, from }: Mutation): boolean {
    return readFileSync(this.#pathOf(file), 'utf8').includes(from);
  }

  /** Replays the mutation's run with the mutation in place. */
  async replay({ file, from, to, run }: Mutation): Promise<{ readonly ended: Ended; readonly verdict: Verdict }> {
    const path = this.#pathOf(file);
    const source = readFileSync(path, 'utf8');
    if (!source.includes(from)) throw new Error(`actors/${file} does not hold ${from}: mend the mutation`);
    writeFileSync(path, source.replace(from, to));
    try {
      const ended = await start(['replay', this.traceOf(run), '--no-compute', '--json'], '', { NODE_COMPILE_CACHE: join(this.root, 'compiled') }, this.root)
        .ended;
      return { ended, verdict: JSON.parse(ended.stdout) as Verdict };
    } finally {
      writeFileSync(path, source);
    }
  }

  #pathOf(file: string): string {
    return join(this.root, 'actors', file);
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
