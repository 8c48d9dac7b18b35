/**
 * Drafting against none: tokens a second at 1 and at 16 concurrent requests, on and off in turns in one run, beside what the measured costs of steps, of verifying, of telling
 * and of drafting, and the drafts that were right, predict:
 *
 *   T(n)                 what a step of n requests takes without drafts, of the same text
 *   V(n)                 what a draft takes to verify in such a step: of lookups on `calibration`, nearly all of them wrong, what T(n) leaves
 *   A(n)                 what each token takes that a step has beyond the first, to be told: of lookups on `echo`, all of them right, what T(n) and V(n) leave
 *   P(n)                 what an MTP layer takes of requests that do not draft, for it goes through their prompts: what T(n) leaves
 *   D(n, k)              what k drafts of each of n requests take to compute: of MTP layers on `calibration`, what T(n), V(n), A(n) and P(n) leave
 *   predicted on / off   (tokens a step, on) / (T(n) + P(n) + V(n) × drafts a step + A(n) × right ones a step + D(n, k) × share of requests that drafted) × T(n) / (tokens a step, off)
 *
 * So no row is predicted from itself. `quotes`: greedy text that repeats itself, as it is asked to; `story`: greedy text of the sort that the model was trained on; `hostile`:
 * lookup has drafts for nearly every token, nearly all of them wrong; `six words`: the model may say six words alone, and the MTP layer guesses another one nearly
 * each time (2 of 100 are right). All of it twice: by the clock, which is what the goals are about and says something on a machine at rest, and by the processor's time, of all
 * threads, which what else the machine does disturbs less.
 *
 * One request alone is disturbed by anything, and two pods that are the same may differ by a tenth in five loads of a second each. So loads are short and many, the pods
 * follow each other in another order each round, and what is told are medians over rounds with the 95 of 100 intervals that their order statistics give. A second pod
 * without drafts, `off, again`, is held against the first like all others: what a run says of drafts is worth what it says of that. A goal is met by its median, `within
 * noise` where the interval reaches it or the twin misses 1 by as much, and missed otherwise; where twins differ by more than a tenth nothing is said.
 *
 * @example
 * BENCH_ROUNDS=20 node bench/drafting.ts mtp     # one pod against none
 * @module
 */
import { createPod, type GenerateOptions, type Pod, type PodOptions } from '../src/index.ts';
import { machine, median, printTable, writeResults } from './harness.ts';

const TOKENS = Number(process.env['BENCH_TOKENS'] ?? 128);
/** With one request; a load of sixteen is as long as many of one, and steadier. */
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 72);
const roundsOf = (requests: number): number => Math.ceil(requests === 1 ? ROUNDS : ROUNDS / 6);
/** Of each pod: V8 goes on optimising for about ten seconds (bench/pod.ts), in threads whose time counts. */
const WARM_MS = Number(process.env['BENCH_WARM_MS'] ?? 8_000);
const LOOKUP = { method: 'ngram', num_speculative_tokens: 3, prompt_lookup_min: 1, prompt_lookup_max: 4 } as const;
const LAYER = { method: 'mtp', num_speculative_tokens: 1 } as const;
/** The second draft by the first one's layer. */
const LAYER_TWICE = { method: 'mtp', num_speculative_tokens: 2 } as const;

const OPTIONS = {
  off: {},
  'off, again': {},
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
/** All tokens are one. */
const ECHO = { temperature: 0, logit_bias: { '265': 90 } } as const;
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
const echo = (index: number): Call => ({ prompt: LINE.slice(index % 8), options: ECHO });
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

/** `requests` at once, each of TOKENS tokens: those of the round. */
async function load(pod: Pod, workload: (index: number) => Call, requests: number, round: number): Promise<Load> {
  const before = await countsOf(pod);
  const [cpu, start] = [process.cpuUsage(), performance.now()];
  await Promise.all(
    Array.from({ length: requests }, (_, index) => {
      const { prompt, options } = workload(round * requests + index);
      return pod.complete(prompt, { ...options, max_tokens: TOKENS, ignore_eos: true });
    }),
  );
  const wall_us = (performance.now() - start) * 1000;
  const { user, system } = process.cpuUsage(cpu);
  const after = await countsOf(pod);
  const since = (of: keyof Counts): number => after[of] - before[of];
  const counts = { steps: since('steps'), drafted: since('drafted'), drafts: since('drafts'), accepted: since('accepted') };
  return { cpu_us: user + system, wall_us, tokens: requests * TOKENS, ...counts };
}

const asked = process.argv.slice(2) as Name[];
const TWINS: readonly Name[] = ['off', 'off, again'];
const names = (Object.keys(OPTIONS) as Name[]).filter((name) => asked.length === 0 || [...TWINS, ...CALIBRATING, ...asked].includes(name));
const shown = names.filter((name) => name !== 'off' && (name === 'off, again' || asked.length === 0 || asked.includes(name)));
const pods = new Map<Name, Pod>();
for (const name of names) pods.set(name, await createPod(OPTIONS[name]));
const podOf = (name: Name): Pod => pods.get(name) as Pod;

const sizes = [1, 16];
for (let start = performance.now(), round = 0; performance.now() - start < WARM_MS * names.length; round++)
  for (const name of names)
    for (const requests of sizes) for (const workload of [...Object.values(WORKLOADS), calibration, echo]) await load(podOf(name), workload, requests, round);
console.log('All pods are warm.');

type Time = 'wall_us' | 'cpu_us';

function shuffle<Item>(items: readonly Item[]): Item[] {
  const all = [...items];
  for (let last = all.length - 1; last > 0; last--) {
    const at = Math.floor(Math.random() * (last + 1));
    [all[last], all[at]] = [all[at] as Item, all[last] as Item];
  }
  return all;
}

/** A median, and between which of the values in their order it lies in 95 of 100 runs. */
type Within = { readonly low: number; readonly median: number; readonly high: number };
function within(values: readonly number[]): Within {
  const inOrder = values.toSorted((a, b) => a - b);
  const { length } = inOrder;
  const reach = 0.98 * Math.sqrt(length);
  const at = (index: number): number => inOrder[Math.min(length - 1, Math.max(0, index))] as number;
  return { low: at(Math.floor(length / 2 - reach)), median: median(inOrder), high: at(Math.ceil(length / 2 + reach) - 1) };
}
const scaled = ({ low, median, high }: Within, by: number): Within => ({ low: low * by, median: median * by, high: high * by });
const told = ({ low, median, high }: Within, digits = 2): string => `${median.toFixed(digits)} (${low.toFixed(digits)}–${high.toFixed(digits)})`;

/** Of all loads together, a step. */
const perStep = (loads: readonly Load[], of: 'tokens' | 'drafted' | 'drafts' | 'accepted'): number =>
  loads.reduce((sum, one) => sum + one[of], 0) / loads.reduce((sum, { steps }) => sum + steps, 0);

/** What a step took, in the middle of the rounds. */
const stepOf = (time: Time, loads: readonly Load[]): number => median(loads.map((one) => one[time] / one.steps));

/** What a step took more than one of the same round: what disturbs the machine for a while disturbs both. */
const moreThan = (time: Time, others: readonly Load[], loads: readonly Load[]): Within =>
  within(loads.map((one, round) => one[time] / one.steps - (others[round] as Load)[time] / (others[round] as Load).steps));

// ── What verifying, telling and drafting cost ─────────────────────────────────────────────────────────────────────────

type Costs = {
  readonly step_us: number;
  /** What a step of the twin takes more: by so much any of these may be off. */
  readonly again_us: Within;
  readonly prompts_us: number;
  readonly verify_us: number;
  readonly tell_us: number;
  readonly draft_us: Readonly<Record<number, number>>;
};
type Calibrated = { [Of in Name | 'undrafted' | 'echo' | 'echo, off']?: Load[] };

function costsOf(time: Time, requests: number, loads: Calibrated): Costs {
  const of = (name: keyof Calibrated): Load[] => loads[name] as Load[];
  const more = (name: keyof Calibrated): number => moreThan(time, of('off'), of(name)).median;
  const verify_us = more('ngram, always') / perStep(of('ngram, always'), 'drafted');
  const echo_us = moreThan(time, of('echo, off'), of('echo')).median - verify_us * perStep(of('echo'), 'drafted');
  const tell_us = Math.max(0, echo_us / perStep(of('echo'), 'accepted'));
  const prompts_us = Math.max(0, more('undrafted'));
  const drafting = (name: Name): number => {
    const left_us = more(name) - prompts_us - verify_us * perStep(of(name), 'drafted') - tell_us * perStep(of(name), 'accepted');
    return Math.max(0, (left_us * requests) / perStep(of(name), 'drafts'));
  };
  const draft_us = { 1: drafting('mtp, always'), 2: drafting('mtp 2, always') };
  return { step_us: stepOf(time, of('off')), again_us: moreThan(time, of('off'), of('off, again')), prompts_us, verify_us, tell_us, draft_us };
}

const costs = new Map<number, Readonly<Record<Time, Costs>>>();
for (const requests of sizes) {
  const loads: Calibrated = {};
  const turns: readonly { readonly as: keyof Calibrated; readonly name: Name; readonly text: (index: number) => Call }[] = [
    ...[...TWINS, ...CALIBRATING].map((name) => ({ as: name, name, text: calibration })),
    { as: 'undrafted', name: 'mtp, always', text: undrafted },
    { as: 'echo, off', name: 'off', text: echo },
    { as: 'echo', name: 'ngram, always', text: echo },
  ];
  for (let round = 0; round < roundsOf(requests); round++)
    for (const { as, name, text } of shuffle(turns)) {
      loads[as] ??= [];
      loads[as].push(await load(podOf(name), text, requests, round));
    }
  costs.set(requests, { wall_us: costsOf('wall_us', requests, loads), cpu_us: costsOf('cpu_us', requests, loads) });
}

function predictedRatio(time: Time, name: Name, requests: number, on: readonly Load[], off: readonly Load[]): number {
  const { prompts_us, verify_us, tell_us, draft_us } = (costs.get(requests) as Record<Time, Costs>)[time];
  const drafts = name.startsWith('mtp 2') ? 2 : 1;
  const [layer_us, computed_us] = name.startsWith('mtp') ? [prompts_us, draft_us[drafts] as number] : [0, 0];
  const step_us = stepOf(time, off);
  const drafting_us = verify_us * perStep(on, 'drafted') + tell_us * perStep(on, 'accepted') + (computed_us * perStep(on, 'drafts')) / requests;
  return (perStep(on, 'tokens') / (step_us + layer_us + drafting_us)) * (step_us / perStep(off, 'tokens'));
}

// ── On against off ────────────────────────────────────────────────────────────────────────────────────────────────────

const TIMES = ['wall_us', 'cpu_us'] as const;
/** On / off: of what is predicted, and with the adaptive switch on hostile input. */
const GOALS = { ofPredicted: 0.95, hostile: 0.97 } as const;

const NOISE_MAX = 0.1;

/** How far from `at`, where the twin should be, it may be. */
const reachOf = ({ low, high }: Within, at: number): number => Math.max(Math.abs(low - at), Math.abs(high - at));

function verdictOf({ median, high }: Within, goal: number, noise: number): 'met' | 'within noise' | 'missed' | 'too noisy' {
  if (noise > NOISE_MAX) return 'too noisy';
  if (median >= goal) return 'met';
  return Math.max(high, median + noise) >= goal ? 'within noise' : 'missed';
}

const isHostileTo = (workload: Workload, name: Name): boolean => (workload === 'hostile' || workload === 'six words') && !name.endsWith('always');

const results: object[] = [];
const rows: Readonly<Record<Time, string[][]>> = { wall_us: [], cpu_us: [] };
for (const workload of Object.keys(WORKLOADS) as Workload[])
  for (const requests of sizes) {
    const loads = new Map<Name, Load[]>(names.map((name) => [name, []]));
    for (let round = 0; round < roundsOf(requests); round++)
      for (const name of shuffle(['off', ...shown] as const)) loads.get(name)?.push(await load(podOf(name), WORKLOADS[workload], requests, round));
    const off = loads.get('off') as Load[];
    // In pairs: what disturbs the machine for a while disturbs both.
    const ratioOf = (on: readonly Load[], time: Time): Within => within(on.map((one, round) => (off[round] as Load)[time] / one[time]));
    for (const name of shown) {
      const on = loads.get(name) as Load[];
      const sum = (of: keyof Counts): number => on.reduce((total, one) => total + one[of], 0);
      const counts = { drafted: sum('drafted'), accepted: sum('accepted'), steps: sum('steps') };
      const cells = [
        `${workload}, ${requests}`,
        name,
        median(on.map(({ tokens, wall_us }) => (tokens * 1e6) / wall_us)).toFixed(0),
        (counts.drafted / counts.steps / requests).toFixed(2),
        (counts.accepted / Math.max(1, counts.drafted)).toFixed(2),
        (perStep(on, 'tokens') / requests).toFixed(2),
      ];
      const found = TIMES.map((time) => {
        const ratio = ratioOf(on, time);
        if (name === 'off, again') {
          rows[time].push([...cells, told(ratio), '', '', '', '']);
          return [time, { ratio }] as const;
        }
        const noise = reachOf(ratioOf(loads.get('off, again') as Load[], time), 1);
        const { again_us, step_us } = (costs.get(requests) as Record<Time, Costs>)[time];
        const predicted = predictedRatio(time, name, requests, on, off);
        const ofPredicted = scaled(ratio, 1 / predicted);
        const verdict = verdictOf(ofPredicted, GOALS.ofPredicted, Math.max(noise, reachOf(again_us, 0) / step_us));
        const hostile = isHostileTo(workload, name) ? verdictOf(ratio, GOALS.hostile, noise) : null;
        rows[time].push([...cells, told(ratio), predicted.toFixed(2), told(ofPredicted), verdict, hostile ?? '']);
        return [time, { ratio, predicted, ofPredicted, verdict, hostile }] as const;
      });
      results.push({ workload, requests, name, ...counts, ...Object.fromEntries(found) });
    }
  }
for (const time of TIMES) {
  const described = [...costs].map(([requests, both]) => {
    const { step_us, again_us, prompts_us, verify_us, tell_us, draft_us } = both[time];
    const [T, V, A, P, once, twice] = [step_us, verify_us, tell_us, prompts_us, draft_us[1] as number, draft_us[2] as number].map(Math.round);
    return `requests ${requests}: T ${T} (the twin's ${told(again_us, 0)} more), V ${V}, A ${A}, P ${P}, D of one draft ${once}, of two ${twice}`;
  });
  console.log(`${time === 'wall_us' ? 'By the clock' : 'Processor time'}, µs: ${described.join('; ')}`);
  printTable(
    `Tokens a second with drafts against none, ${time === 'wall_us' ? 'by the clock' : 'by processor time'}; in brackets where the median lies in 95 of 100 runs`,
    ['requests', 'drafts', 'tokens/s', 'drafts a step', 'right', 'tokens a step', 'on / off', 'predicted', 'of that', '≥ 0.95', 'hostile ≥ 0.97'],
    rows[time],
  );
}
console.log(JSON.stringify(machine()));
if (asked.length === 0) writeResults(new URL('results/drafting.json', import.meta.url).pathname, { costs: Object.fromEntries(costs), results });
for (const pod of pods.values()) await pod.close();
