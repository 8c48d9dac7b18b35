/**
 * Drafting against none: tokens a second at 1 and at 16 concurrent requests, on and off in turns in one run, beside what the measured costs of rows and the drafts
 * that were right predict:
 *
 *   T(r)                 what a step of r rows takes, from requests without drafts, so many at once
 *   D(n)                 what a draft of each of n requests takes to compute: of MTP layers' steps on `story`, in rounds of their own, what T(rows) leaves
 *   predicted on / off   (tokens a step, on / (T(rows a step, on) + D(requests) × share of them that drafted)) / (requests / T(requests))
 *
 * `quotes`: greedy text that repeats itself, as it is asked to; `story`: greedy text of the sort that the model was trained on; `hostile`: lookup has drafts for nearly every token, nearly all of them wrong. Time is the processor's, of all threads, since
 * that of the clock counts what else the machine does; the clock's is shown beside it.
 * @module
 */
import { createPod, type GenerateOptions, type Pod } from '../src/index.ts';
import { machine, printTable, writeResults } from './harness.ts';

const TOKENS = Number(process.env['BENCH_TOKENS'] ?? 96);
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 9);
const DRAFTS = Number(process.env['BENCH_DRAFTS'] ?? 3);
const LOOKUP = { method: 'ngram', num_speculative_tokens: DRAFTS, prompt_lookup_min: 1, prompt_lookup_max: 4 } as const;

/** As many as there are layers for it. */
const LAYERS = { method: 'mtp', num_speculative_tokens: 1 } as const;

const LINE = 'Once upon a time there was a fox, and the fox said to the wolf: come with me. ';
const WORKLOADS: Readonly<Record<string, (index: number) => { readonly prompt: string; readonly options: GenerateOptions }>> = {
  quotes: (index) => ({ prompt: LINE.slice(index % 8).repeat(3), options: { temperature: 0, frequency_penalty: -0.5 } }),
  story: (index) => ({ prompt: `${LINE.slice(0, 40)} ${index}`, options: { temperature: 0 } }),
  // Most of the vocabulary is in the prompt again and again, and what follows is drawn at random.
  hostile: (index) => ({
    prompt: Array.from({ length: 60 }, (_, at) => 'the a of and he she it to in said was'.split(' ')[(at * 7 + index) % 11]).join(' '),
    options: { temperature: 1.5, seed: index },
  }),
};

type Load = {
  readonly cpu_us: number;
  readonly wall_us: number;
  readonly tokens: number;
  readonly steps: number;
  readonly drafted: number;
  readonly accepted: number;
};

const countsOf = async (pod: Pod): Promise<{ steps: number; drafted: number; accepted: number }> => {
  const { npus, dp_groups } = await pod.stats();
  const [{ drafting } = { drafting: { draft_tokens: 0, accepted_tokens: 0 } }] = dp_groups;
  return { steps: npus[0]?.steps ?? 0, drafted: drafting.draft_tokens, accepted: drafting.accepted_tokens };
};

/** `requests` at once, each of TOKENS tokens. */
async function load(pod: Pod, workload: keyof typeof WORKLOADS, requests: number): Promise<Load> {
  const before = await countsOf(pod);
  const [cpu, start] = [process.cpuUsage(), performance.now()];
  await Promise.all(
    Array.from({ length: requests }, (_, index) => {
      const { prompt, options } = (WORKLOADS[workload] as (typeof WORKLOADS)[string])(index);
      return pod.complete(prompt, { ...options, max_tokens: TOKENS, ignore_eos: true });
    }),
  );
  const wall_us = (performance.now() - start) * 1000;
  const { user, system } = process.cpuUsage(cpu);
  const after = await countsOf(pod);
  const [steps, drafted, accepted] = (['steps', 'drafted', 'accepted'] as const).map((name) => after[name] - before[name]) as [number, number, number];
  return { cpu_us: user + system, wall_us, tokens: requests * TOKENS, steps, drafted, accepted };
}

const pods = {
  off: await createPod({}),
  ngram: await createPod({ speculative_config: LOOKUP }),
  'ngram, always': await createPod({ speculative_config: { ...LOOKUP, adaptive: false } }),
  mtp: await createPod({ speculative_config: LAYERS }),
  'mtp, always': await createPod({ speculative_config: { ...LAYERS, adaptive: false } }),
};
type Name = keyof typeof pods;
const names = Object.keys(pods) as Name[];

/** Processor time of a step of so many rows. */
const costs = new Map<number, number>();
for (const pod of Object.values(pods)) for (let warm = 0; warm < 4; warm++) await load(pod, 'quotes', 8);
for (const rows of [1, 2, 3, 4, 8, 16, 24, 32, 48]) {
  const loads: Load[] = [];
  for (let round = 0; round < 4; round++) loads.push(await load(pods.off, 'quotes', rows));
  costs.set(rows, Math.min(...loads.map(({ cpu_us, steps }) => cpu_us / steps)));
}
/** Between those that were measured, on a line. */
function costOf(rows: number): number {
  const measured = [...costs.keys()];
  const above = measured.find((at) => at >= rows) ?? (measured.at(-1) as number);
  const below = measured.findLast((at) => at <= rows) ?? (measured[0] as number);
  const [low, high] = [costs.get(below) as number, costs.get(above) as number];
  return above === below ? low : low + ((high - low) * (rows - below)) / (above - below);
}

/** Processor time of a draft of each of so many requests. */
const drafting = new Map<number, number>();
for (const requests of [1, 16]) {
  const loads: Load[] = [];
  for (let round = 0; round < 6; round++) loads.push(await load(pods['mtp, always'], 'story', requests));
  drafting.set(requests, Math.min(...loads.map(({ cpu_us, steps, drafted }) => cpu_us / steps - costOf(requests + drafted / steps))));
}

const results: object[] = [];
const rows: string[][] = [];
for (const workload of Object.keys(WORKLOADS))
  for (const requests of [1, 16]) {
    const loads: Record<Name, Load[]> = { off: [], ngram: [], 'ngram, always': [], mtp: [], 'mtp, always': [] };
    for (let round = 0; round < ROUNDS; round++) for (const name of names) loads[name].push(await load(pods[name], workload, requests));
    for (const name of names.slice(1)) {
      const mine = loads[name];
      // Of each the round that was disturbed least.
      const ratios = (of: 'cpu_us' | 'wall_us'): number => Math.min(...loads.off.map((one) => one[of])) / Math.min(...mine.map((one) => one[of]));
      const sum = (of: keyof Load): number => mine.reduce((total, one) => total + one[of], 0);
      const [steps, drafted, accepted] = [sum('steps'), sum('drafted'), sum('accepted')];
      // Prompts take the same steps in both.
      const rowsOfStep = requests + drafted / steps;
      const computed_us = name.startsWith('mtp') ? ((drafting.get(requests) as number) * drafted) / steps / requests : 0;
      const predicted = sum('tokens') / steps / (costOf(rowsOfStep) + computed_us) / (requests / costOf(requests));
      const found = { workload, requests, name, cpu_ratio: ratios('cpu_us'), wall_ratio: ratios('wall_us'), predicted, drafted, accepted, steps };
      results.push(found);
      const tokens_per_s = Math.max(...mine.map(({ tokens, wall_us }) => (tokens * 1e6) / wall_us));
      rows.push([
        `${workload}, ${requests}`,
        name,
        `${Math.round(tokens_per_s)}`,
        (accepted / Math.max(1, drafted)).toFixed(2),
        (sum('tokens') / steps / requests).toFixed(2),
        found.cpu_ratio.toFixed(2),
        predicted.toFixed(2),
        (found.cpu_ratio / predicted).toFixed(2),
        found.wall_ratio.toFixed(2),
      ]);
    }
  }
const byNumber = (of: ReadonlyMap<number, number>): string => [...of].map(([at, us]) => `${at}: ${Math.round(us)}`).join(', ');
printTable(
  `Processor time of a step, µs by rows: ${byNumber(costs)}; of drafts that a layer computes, by requests: ${byNumber(drafting)}`,
  ['requests', 'drafts', 'tokens/s', 'right', 'tokens a step', 'on / off', 'predicted', 'of that', 'by the clock'],
  rows,
);
console.log(JSON.stringify(machine()));
writeResults(new URL('results/drafting.json', import.meta.url).pathname, { costs: Object.fromEntries(costs), drafting: Object.fromEntries(drafting), results });
for (const pod of Object.values(pods)) await pod.close();
