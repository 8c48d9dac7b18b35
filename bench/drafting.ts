/**
 * Drafting against none: tokens a second at 1 and at 16 concurrent requests, on and off in turns in one run, beside what the measured costs of steps, of verifying and of
 * drafting, and the drafts that were right, predict:
 *
 *   T(n)                 what a step of n requests takes without drafts
 *   V(n)                 what a draft takes to verify in such a step: of lookups on `calibration`, nearly all of them wrong, what T(n) leaves
 *   P(n)                 what an MTP layer takes of requests that do not draft, for it goes through their prompts: what T(n) leaves
 *   D(n, k)              what k drafts of each of n requests take to compute: of MTP layers on `calibration`, what T(n), V(n) and P(n) leave
 *   predicted on / off   (tokens a step, on) / (T(n) + P(n) + V(n) × drafts a step + D(n, k) × share of requests that drafted) × T(n) / (tokens a step, off)
 *
 * So no row is predicted from itself. `quotes`: greedy text that repeats itself, as it is asked to; `story`: greedy text of the sort that the model was trained on; `hostile`:
 * lookup has drafts for nearly every token, nearly all of them wrong; `six words`: the model may say six words alone, and the MTP layer guesses another one nearly
 * each time (2 of 100 are right). Time is the processor's, of all threads, since that of the clock counts what else the machine does; the clock's is shown beside it.
 *
 * @example
 * BENCH_ROUNDS=3 node bench/drafting.ts mtp     # one pod against none
 * @module
 */
import { createPod, type GenerateOptions, type Pod, type PodOptions } from '../src/index.ts';
import { machine, median, printTable, writeResults } from './harness.ts';

const TOKENS = Number(process.env['BENCH_TOKENS'] ?? 192);
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 5);
/** Of each pod: V8 goes on optimising for about ten seconds (bench/pod.ts), in threads whose time counts. */
const WARM_MS = Number(process.env['BENCH_WARM_MS'] ?? 8_000);
const CALIBRATIONS = 5;
/** A load of fewer tokens is told apart from the machine's ticks too badly. */
const REQUESTS_MIN = 3;
const LOOKUP = { method: 'ngram', num_speculative_tokens: 3, prompt_lookup_min: 1, prompt_lookup_max: 4 } as const;
const LAYER = { method: 'mtp', num_speculative_tokens: 1 } as const;
/** The second draft by the first one's layer. */
const LAYER_TWICE = { method: 'mtp', num_speculative_tokens: 2 } as const;

const OPTIONS = {
  off: {},
  ngram: { speculative_config: LOOKUP },
  'ngram, always': { speculative_config: { ...LOOKUP, adaptive: false } },
  mtp: { speculative_config: LAYER },
  'mtp, always': { speculative_config: { ...LAYER, adaptive: false } },
  'mtp 2': { speculative_config: LAYER_TWICE },
  'mtp 2, always': { speculative_config: { ...LAYER_TWICE, adaptive: false } },
} as const satisfies Record<string, PodOptions>;
type Name = keyof typeof OPTIONS;
/** Who measures V and D. */
const CALIBRATING = ['ngram, always', 'mtp, always', 'mtp 2, always'] as const satisfies readonly Name[];

const LINE = 'Once upon a time there was a fox, and the fox said to the wolf: come with me. ';
/** `words` again and again in an order that does not repeat itself soon. */
const shuffled = (words: string, index: number): string => {
  const all = words.split(' ');
  return Array.from({ length: 60 }, (_, at) => all[(at * 7 + index) % all.length]).join(' ');
};
type Call = { readonly prompt: string; readonly options: GenerateOptions };
const WORKLOADS = {
  quotes: (index: number): Call => ({ prompt: LINE.slice(index % 8).repeat(3), options: { temperature: 0, frequency_penalty: -0.5 } }),
  story: (index: number): Call => ({ prompt: `${LINE.slice(0, 40)} ${index}`, options: { temperature: 0 } }),
  // Most of the vocabulary is in the prompt again and again, and what follows is drawn at random.
  hostile: (index: number): Call => ({ prompt: shuffled('the a of and he she it to in said was', index), options: { temperature: 1.5, seed: index } }),
  'six words': (index: number): Call => ({
    prompt: shuffled('the a of and he she it to in said was', index),
    options: { temperature: 0, logit_bias: Object.fromEntries(['201', '764', '1425', '1503', '1538', '1661'].map((token) => [token, 90])) },
  }),
} as const;
type Workload = keyof typeof WORKLOADS;
const undrafted = (index: number): Call => {
  const { prompt, options } = calibration(index);
  return { prompt, options: { ...options, speculative_decoding: false } };
};
const calibration = (index: number): Call => ({
  prompt: shuffled('she and of a in the to was his with had', index),
  options: { temperature: 1.3, seed: 99 + index },
});

type Load = {
  readonly cpu_us: number;
  readonly wall_us: number;
  readonly tokens: number;
  readonly steps: number;
  /** Drafts that were verified, in so many parts of steps. */
  readonly drafted: number;
  readonly drafts: number;
  readonly accepted: number;
};
type Counts = Pick<Load, 'steps' | 'drafted' | 'drafts' | 'accepted'>;

const countsOf = async (pod: Pod): Promise<Counts> => {
  const { npus, dp_groups } = await pod.stats();
  const { draft_tokens = 0, accepted_tokens = 0, drafts = 0 } = dp_groups[0]?.drafting ?? {};
  return { steps: npus[0]?.steps ?? 0, drafted: draft_tokens, accepted: accepted_tokens, drafts };
};

/** `requests` at once, each of TOKENS tokens; few of them several times. */
async function load(pod: Pod, workload: (index: number) => Call, requests: number): Promise<Load> {
  const before = await countsOf(pod);
  const [cpu, start] = [process.cpuUsage(), performance.now()];
  const turns = Math.ceil(REQUESTS_MIN / requests);
  for (let turn = 0; turn < turns; turn++)
    await Promise.all(
      Array.from({ length: requests }, (_, index) => {
        const { prompt, options } = workload(turn * requests + index);
        return pod.complete(prompt, { ...options, max_tokens: TOKENS, ignore_eos: true });
      }),
    );
  const wall_us = (performance.now() - start) * 1000;
  const { user, system } = process.cpuUsage(cpu);
  const after = await countsOf(pod);
  const since = (of: keyof Counts): number => after[of] - before[of];
  const counts = { steps: since('steps'), drafted: since('drafted'), drafts: since('drafts'), accepted: since('accepted') };
  return { cpu_us: user + system, wall_us, tokens: turns * requests * TOKENS, ...counts };
}

const asked = process.argv.slice(2) as Name[];
const names = (Object.keys(OPTIONS) as Name[]).filter((name) => asked.length === 0 || name === 'off' || [...CALIBRATING, ...asked].includes(name));
const shown = names.filter((name) => name !== 'off' && (asked.length === 0 || asked.includes(name)));
const pods = new Map<Name, Pod>();
for (const name of names) pods.set(name, await createPod(OPTIONS[name]));
const podOf = (name: Name): Pod => pods.get(name) as Pod;

const sizes = [1, 16];
for (const start = performance.now(); performance.now() - start < WARM_MS * names.length; )
  for (const name of names)
    for (const requests of sizes) for (const workload of [...Object.values(WORKLOADS), calibration]) await load(podOf(name), workload, requests);

const per = (loads: readonly Load[], of: 'cpu_us' | 'drafted' | 'drafts'): number => median(loads.map((one) => one[of] / one.steps));

const perStep = (loads: readonly Load[], of: 'tokens' | 'drafted' | 'drafts'): number =>
  loads.reduce((sum, one) => sum + one[of], 0) / loads.reduce((sum, { steps }) => sum + steps, 0);

// ── What steps, verifying and drafting cost ───────────────────────────────────────────────────────────────────────────

type Costs = { readonly step_us: number; readonly prompts_us: number; readonly verify_us: number; readonly draft_us: Readonly<Record<number, number>> };
const costs = new Map<number, Costs>();
for (const requests of sizes) {
  const all = ['off', ...CALIBRATING] as const;
  const loads = new Map<Name | 'undrafted', Load[]>([...all, 'undrafted' as const].map((name) => [name, []]));
  for (let round = 0; round < CALIBRATIONS; round++) {
    for (const name of all) loads.get(name)?.push(await load(podOf(name), calibration, requests));
    loads.get('undrafted')?.push(await load(podOf('mtp, always'), undrafted, requests));
  }
  const of = (name: Name | 'undrafted', what: 'cpu_us' | 'drafted' | 'drafts'): number => per(loads.get(name) as Load[], what);
  const step_us = of('off', 'cpu_us');
  const prompts_us = of('undrafted', 'cpu_us') - step_us;
  const verify_us = (of('ngram, always', 'cpu_us') - step_us) / of('ngram, always', 'drafted');
  const drafting = (name: Name): number => ((of(name, 'cpu_us') - step_us - prompts_us - verify_us * of(name, 'drafted')) * requests) / of(name, 'drafts');
  costs.set(requests, { step_us, prompts_us, verify_us, draft_us: { 1: drafting('mtp, always'), 2: drafting('mtp 2, always') } });
}

function predictedRatio(name: Name, requests: number, on: readonly Load[], off: readonly Load[]): number {
  const { step_us, prompts_us, verify_us, draft_us } = costs.get(requests) as Costs;
  const drafts = name.startsWith('mtp 2') ? 2 : 1;
  const [layer_us, computed_us] = name.startsWith('mtp') ? [prompts_us, draft_us[drafts] as number] : [0, 0];
  const on_us = step_us + layer_us + verify_us * perStep(on, 'drafted') + (computed_us * perStep(on, 'drafts')) / requests;
  return (perStep(on, 'tokens') / on_us) * (step_us / perStep(off, 'tokens'));
}

// ── On against off ────────────────────────────────────────────────────────────────────────────────────────────────────

const results: object[] = [];
const rows: string[][] = [];
for (const workload of Object.keys(WORKLOADS) as Workload[])
  for (const requests of sizes) {
    const loads = new Map<Name, Load[]>(names.map((name) => [name, []]));
    for (let round = 0; round < ROUNDS; round++)
      for (const name of ['off', ...shown] as const) loads.get(name)?.push(await load(podOf(name), WORKLOADS[workload], requests));
    const off = loads.get('off') as Load[];
    for (const name of shown) {
      const on = loads.get(name) as Load[];
      // In pairs: what disturbs the machine for a while disturbs both.
      const ratio = (of: 'cpu_us' | 'wall_us'): number => median(on.map((one, round) => (off[round] as Load)[of] / one[of]));
      const sum = (of: keyof Counts): number => on.reduce((total, one) => total + one[of], 0);
      const predicted = predictedRatio(name, requests, on, off);
      const found = { workload, requests, name, cpu_ratio: ratio('cpu_us'), wall_ratio: ratio('wall_us'), predicted };
      results.push({ ...found, drafted: sum('drafted'), accepted: sum('accepted'), steps: sum('steps') });
      rows.push([
        `${workload}, ${requests}`,
        name,
        median(on.map(({ tokens, wall_us }) => (tokens * 1e6) / wall_us)).toFixed(0),
        (sum('drafted') / sum('steps') / requests).toFixed(2),
        (sum('accepted') / Math.max(1, sum('drafted'))).toFixed(2),
        (perStep(on, 'tokens') / requests).toFixed(2),
        found.cpu_ratio.toFixed(2),
        predicted.toFixed(2),
        (found.cpu_ratio / predicted).toFixed(2),
        found.wall_ratio.toFixed(2),
      ]);
    }
  }
const described = [...costs].map(([requests, { step_us, prompts_us, verify_us, draft_us }]) => {
  const [step, prompts, verify, once, twice] = [step_us, prompts_us, verify_us, draft_us[1] as number, draft_us[2] as number].map(Math.round);
  return `requests ${requests}: T ${step}, V ${verify}, P ${prompts}, D of one draft ${once}, of two ${twice}`;
});
printTable(
  `Processor time, µs; ${described.join('; ')}`,
  ['requests', 'drafts', 'tokens/s', 'drafts a step', 'right', 'tokens a step', 'on / off', 'predicted', 'of that', 'by the clock'],
  rows,
);
console.log(JSON.stringify(machine()));
if (asked.length === 0) writeResults(new URL('results/drafting.json', import.meta.url).pathname, { costs: Object.fromEntries(costs), results });
for (const pod of pods.values()) await pod.close();
