/** The small changes of machine-mutations.txt, made to a copy of the sources, and the runs that must tell them. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createPod } from '../../src/index.ts';
import type { Ended } from '../cli/command.ts';
import { type Change, isChangeable, readChanges, SourceCopy } from '../cli/source-copy.ts';
import { sleep } from '../system/pods.ts';
import { openRig } from '../system/rig.ts';
import { recordDeaths, recordHandoffs, recordPreemptions, recordVirtual, useRecorded } from './recorded-runs.ts';

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

export type Mutation = Change & {
  /** The run that tells it, and what its replay must name: the actor's role and the message. */
  readonly run: RunName;
  readonly role: string;
  readonly type: string;
};

/** The actor's birth, which has no message. */
const BIRTH = '(birth)';

const HEAD = /^(?<file>\S+), (?<run>\w+): (?<role>\S+) (?<type>\S+)$/;

export const MUTATIONS: readonly Mutation[] = readChanges(new URL('machine-mutations.txt', import.meta.url)).map(({ head, from, to }) => {
  const { file = '', run = '', role = '', type = '' } = HEAD.exec(head)?.groups ?? {};
  if (!(run in RUNS)) throw new Error(`machine-mutations.txt: a block begins with "file, run: role MESSAGE", not with ${head}`);
  return { file: `actors/${file}`, from, to, run: run as RunName, role, type };
});

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

/** A copy of the sources whose machines are changed, and old traces. */
export class MutatedSources implements Disposable {
  readonly #sources = new SourceCopy();

  constructor() {
    mkdirSync(join(this.#sources.root, 'traces'));
  }

  /** Recorded by the code as it is. */
  async record(run: RunName): Promise<void> {
    await RUNS[run](this.traceOf(run));
  }

  traceOf(run: RunName): string {
    return join(this.#sources.root, 'traces', `${run}.trace`);
  }

  holds(mutation: Mutation): boolean {
    return isChangeable(this.#sources.root, mutation);
  }

  /** Replays the mutation's run with the mutation in place. */
  replay(mutation: Mutation): Promise<{ readonly ended: Ended; readonly verdict: Verdict }> {
    return this.#sources.changed(mutation, async () => {
      const ended = await this.#sources.minipod('replay', this.traceOf(mutation.run), '--no-compute', '--json');
      return { ended, verdict: JSON.parse(ended.stdout) as Verdict };
    });
  }

  [Symbol.dispose](): void {
    this.#sources[Symbol.dispose]();
  }
}

/** Null: it was caught as it must be; else what is wrong. */
export function complaintOf({ role, type }: Mutation, { ended, verdict }: { readonly ended: Ended; readonly verdict: Verdict }): string | null {
  const { divergence } = verdict;
  if (ended.code !== 1 || divergence === null) return `exit code ${ended.code}, ${verdict.outcome}: it was not seen`;
  const named = divergence.message?.type ?? BIRTH;
  return divergence.actor.startsWith(`${role}/`) && named === type ? null : `names ${divergence.actor} ${named}, and not ${role} ${type}`;
}
