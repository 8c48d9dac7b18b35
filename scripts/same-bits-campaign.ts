/**
 * Runs pods of every sort, each from a seed, and holds what they generate against one NPU alone, bit for bit: topologies, tensor parallelism, split output
 * projections, chunks, batch limits, tight KV, KV by request and by layer, by memory and by sockets, prefixes that groups share, caches that are hot, off or
 * dropped in the middle of a run, drafts, callers that go away. With --experts attention and experts are apart, by either schedule, with redundant experts that are moved all
 * the time: on virtual time at every boundary of a layer, live as often as it goes. With --mtp MTP layers draft, one or two of them, held against one NPU without them; on
 * virtual time drafts, too, are the same where nothing is kept of prefixes. With --shapes numbers of DP groups and of expert NPUs change while requests run. On virtual time with the hash model, where a stale block or a lost gather changes
 * the tokens, and live on
 * worker threads with the shipped model, logprobs included.
 * With --int8 all compute with real kernels, on virtual time as well: a small checkpoint in INT8, with two MTP layers, KV and rows to experts and back in INT8 too, a DRAM tier below
 * some; log-probabilities are compared.
 * Exits with 1 if anything differs or is left behind.
 *
 * @example
 * node scripts/same-bits-campaign.ts --virtual 1000 --live 100 --seed 1
 * node scripts/same-bits-campaign.ts --virtual 1000 --live 20 --experts
 * node scripts/same-bits-campaign.ts --virtual 1000 --live 20 --shapes
 * node scripts/same-bits-campaign.ts --virtual 1000 --live 100 --mtp --experts
 * node scripts/same-bits-campaign.ts --virtual 100 --int8 --experts
 * node scripts/same-bits-campaign.ts --virtual 1 --seed 417      # a seed that failed, again
 * @module
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createPod, type GenerateOptions, type Pod, type PodOptions, quantizeModel } from '../src/index.ts';
import type { VirtualPod } from '../src/pod/virtual-pod.ts';
import { formatTopology, type Topology } from '../src/protocol/topology.ts';
import { twoMtpLayers } from '../test/model/two-mtp-layers.ts';
import { smallCheckpoint } from '../test/quantize/small-checkpoint.ts';
import { compared, draftsAt } from '../test/system/draft-positions.ts';
import { forceRebalances } from '../test/system/forced-rebalances.ts';
import { expectNothingLeft, fingerprint } from '../test/system/pods.ts';
import { draws } from '../test/trace/files.ts';
import { changeShape, changingPod, type ShapeChange } from './shape-changes.ts';

const { values } = parseArgs({
  options: {
    virtual: { type: 'string', default: '0' },
    live: { type: 'string', default: '0' },
    seed: { type: 'string', default: '1' },
    experts: { type: 'boolean', default: false },
    shapes: { type: 'boolean', default: false },
    mtp: { type: 'boolean', default: false },
    int8: { type: 'boolean', default: false },
  },
});

type Below = (limit: number) => number;
/** `leaves`: chunks after which its caller goes away; `drops`: what is cached is dropped when it has come so far. −1: never. */
type Call = { readonly prompt: readonly number[]; readonly options: GenerateOptions; readonly leaves: number; readonly drops: number };
type Plan = { readonly pod: PodOptions; readonly calls: readonly Call[]; readonly changes?: readonly ShapeChange[] };

const pick = <Value>(below: Below, ...values: readonly Value[]): Value => values[below(values.length)] as Value;

function topologyOf(below: Below): Topology {
  const shape = (role: Topology[number]['role'], dp_max: number): Topology[number] => {
    const [dp, split, parts] = [1 + below(dp_max), below(4), 2 + below(2)];
    if (split === 0) return { role, dp: Math.ceil(dp / 2) * parts, tp: 1, oproj: parts };
    return { role, dp, tp: split === 1 ? parts : 1 };
  };
  const some = (role: Topology[number]['role'], most: number): Topology => Array.from({ length: 1 + below(most) }, () => shape(role, 2));
  const kind = below(4);
  if (kind === 0) return [shape('colocated', 4)];
  const disaggregated = [...some('prefill', 2), ...some('decode', 3)];
  return kind === 1 ? [shape('colocated', 2), ...disaggregated] : disaggregated;
}

function planOf(seed: number, isLive: boolean): Plan {
  const below = draws(seed);
  const topology = topologyOf(below);
  const npus = topology.reduce((sum, { dp, tp }) => sum + dp * tp, 0);
  const beginning = topology.reduce((sum, { role, dp }) => sum + (role === 'decode' ? 0 : dp), 0);
  const isTight = below(3) === 0;
  const pod: PodOptions = {
    topology: formatTopology(topology),
    max_batch_tokens: pick(below, 1, 7, 64, 256),
    max_batch_requests: pick(below, 1, 3, 64),
    // The longest call takes nine.
    ...(isTight && { kv_blocks: 9 + below(8) }),
    ...(below(4) === 0 && { prefix_caching: false }),
    ...(below(3) === 0 && { async_scheduling: false }),
    load_balancing: pick(below, 'auto', 'packed', 'least_kv', 'round_robin'),
    ...(below(2) === 1 && topology.some(({ role }) => role === 'prefill') && { kv_transfer: 'layer' }),
    ...(isLive ? { workers: Math.min(npus, 1 + below(2)), enforce_eager: below(3) === 0 } : { clock: 'virtual', kernels: 'hash', seed }),
  };
  const stem = Array.from({ length: 40 }, (_, at) => 3 + ((seed * 31 + at * 7) % 1_500));
  const calls = Array.from({ length: 2 + below(isLive ? 6 : 14) }, (): Call => {
    const own = Array.from({ length: 1 + below(40) }, () => 3 + below(1_500));
    return {
      prompt: [...stem.slice(0, pick(below, 0, 0, 17, 40)), ...own],
      options: {
        max_tokens: 1 + below(24),
        n: pick(below, 1, 1, 3),
        seed: below(1_000),
        temperature: pick(below, 0, 1),
        frequency_penalty: pick(below, 0, 0.7),
        ignore_eos: below(2) === 0,
        ...(isLive && { logprobs: below(3) }),
      },
      leaves: below(5) === 0 ? below(6) : -1,
      drops: below(8) === 0 ? below(6) : -1,
    };
  });
  // Last, so that a seed's other draws are what they were.
  const fabric: PodOptions = {
    ...(topology.length > 1 && { kv_fabric: pick(below, 'memory', 'tcp') }),
    ...(below(2) === 0 && beginning > 1 && pod.prefix_caching !== false && { prefix_sharing: true, link_bytes_per_s: 1e12 }),
  };
  const drafts = { num_speculative_tokens: 1 + below(6), prompt_lookup_min: 1, prompt_lookup_max: 1 + below(4), adaptive: below(2) === 0 };
  const drafting: PodOptions = below(2) === 0 ? { speculative_config: { method: 'ngram', ...drafts } } : {};
  // Texts that repeat themselves, so that drafts are right; some want none.
  const repeats = (): GenerateOptions => ({
    ...pick<GenerateOptions>(below, {}, isLive ? { frequency_penalty: -1 } : { top_k: 2 }),
    speculative_decoding: below(5) > 0,
  });
  return { pod: { ...pod, ...fabric, ...drafting }, calls: calls.map(({ options, ...call }) => ({ ...call, options: { ...options, ...repeats() } })) };
}

/** Attention and experts apart, and where experts move. */
function apart({ pod, calls }: Plan, seed: number, isLive: boolean): Plan {
  const below = draws(seed + 1_000_000);
  const [domains, each, experts] = [1 + below(3), 1 + below(2), 1 + below(4)];
  const schedule = pick(below, 'dataflow', 'dataflow', 'domains');
  const { kv_transfer, kv_fabric, prefix_sharing, ...others } = pod;
  const moves = experts > 1;
  return {
    calls,
    pod: {
      ...others,
      topology: `moe-attention:domains=${domains}x${each},experts=${experts}${pick(below, '', ',shared=attention')}`,
      schedule,
      ...(schedule === 'dataflow' && below(2) === 0 && { micro_batches: 2 }),
      ...(moves && { expert_balancing: { redundant_slots: 1 + below(20), policy: pick(below, 'global', 'fixed_primaries'), period_ms: 600_000 } }),
      ...(isLive ? { workers: 1 + below(2) } : { link_bytes_per_s: 10 ** (7 + below(5)) }),
    },
  };
}

/** Shapes that change. */
function changing({ pod, calls }: Plan, seed: number, isLive: boolean): Plan {
  const { kv_transfer, kv_fabric, prefix_sharing, load_balancing, ...others } = pod;
  return { calls, ...changingPod(draws(seed + 2_000_000), others, isLive) };
}

/** The hash model's tokens, where MTP layers are to foresee some of them. */
const FORESEEABLE = 0.6;

/** With MTP layers. Live all calls are sampled, with log-probabilities, and stay to their end. */
function foreseeing({ pod, calls, ...more }: Plan, seed: number, isLive: boolean): Plan {
  const below = draws(seed + 3_000_000);
  const speculative_config = { method: 'mtp', num_speculative_tokens: 1 + below(4), adaptive: below(3) === 0 } as const;
  const scored = (call: Call, times: number): Call => {
    const { options } = call;
    return { ...call, leaves: -1, drops: -1, options: { ...options, seed: (options.seed ?? 0) + times, temperature: 1, logprobs: below(3) } };
  };
  const asked = isLive ? [0, 1_000].flatMap((times) => calls.map((call) => scored(call, times))) : calls;
  const model = below(2) === 0 ? { model: two } : {};
  return { calls: asked, ...more, pod: { ...pod, ...model, speculative_config, ...(!isLive && { hash_foreseeable: FORESEEABLE }) } };
}

/** Everything that there is in INT8, of a model that is made for it. */
function inInt8({ pod, calls, ...more }: Plan, model: string, seed: number): Plan {
  const below = draws(seed + 4_000_000);
  const { kernels: _kernels, hash_foreseeable: _foreseeable, ...others } = pod;
  const dram_blocks = pick(below, 0, 0, 8, 64);
  // It has eight experts, and each NPU owns at least one.
  const topology = String(pod.topology).replace(/dp=[34],tp=3/, 'dp=2,tp=3');
  return {
    ...more,
    pod: { ...others, ...INT8, model, topology, ...(dram_blocks > 0 && pod.prefix_caching !== false && { dram_blocks, dram_bytes_per_s: 1e12 }) },
    calls: calls.map(({ options, ...call }) => ({ ...call, options: { ...options, logprobs: below(3) } })),
  };
}

const INT8 = { kv_cache_dtype: 'int8', dispatch_dtype: 'int8', combine_dtype: 'int8' } as const;

async function smallInt8(folder: string): Promise<string> {
  const text = readFileSync(new URL('../README.md', import.meta.url), 'utf8').slice(0, 6_000);
  const model = smallCheckpoint(join(folder, 'bf16'), 'mla', false, { num_nextn_predict_layers: 2 });
  return (await quantizeModel({ model, out: join(folder, 'int8'), text, window: 96, max_tokens: 600 })).out;
}

/** Drafts with what is kept of prefixes, against those without. */
async function draftsDiffer(pod: PodOptions, calls: readonly Call[]): Promise<string | null> {
  const always = { ...pod, speculative_config: { ...pod.speculative_config, adaptive: false } as PodOptions['speculative_config'] };
  const [{ drafts: warm }, { drafts: cold }] = [
    await draftsAt(always, calls),
    await draftsAt({ ...always, prefix_caching: false, prefix_sharing: false, dram_blocks: 0 }, calls),
  ];
  const { both, differing } = compared(warm, cold);
  drafted.compared += both;
  return differing[0] ?? null;
}

/** Until it is told to end. */
async function moveExperts(pod: Pod, seed: number, isLive: boolean): Promise<() => Promise<void>> {
  if (!isLive) {
    forceRebalances((pod as VirtualPod).control, draws(seed));
    return async () => {};
  }
  let isOver = false;
  const moving = (async () => {
    while (!isOver) await pod.rebalance({ force: true });
  })();
  return async () => {
    isOver = true;
    await moving;
  };
}

async function generate(pod: Pod, { prompt, options, leaves, drops }: Call): Promise<readonly string[] | null> {
  if (leaves < 0 && drops < 0) return fingerprint(await pod.complete(prompt, options));
  let chunks = 0;
  for await (const _chunk of pod.generate(prompt, options)) {
    if (chunks === drops) await pod.resetPrefixCache();
    if (chunks++ === leaves) return null;
  }
  return null;
}

const drafted = { right: 0, all: 0, compared: 0 };
const called = { generated: 0, scored: 0 };
const planFor = (seed: number, isLive: boolean): Plan => {
  const plan = shapeFor(seed, isLive);
  return model === null ? plan : inInt8(plan, model, seed);
};
const shapeFor = (seed: number, isLive: boolean): Plan => {
  const plan = values.mtp ? foreseeing(planOf(seed, isLive), seed, isLive) : planOf(seed, isLive);
  if (values.shapes) return changing(plan, seed, isLive);
  return values.experts ? apart(plan, seed, isLive) : plan;
};

async function differs(seed: number, isLive: boolean, one: Pod): Promise<string | null> {
  const { pod: options, calls, changes = [] } = planFor(seed, isLive);
  try {
    await using pod = await createPod(options);
    const end = options.expert_balancing === undefined || values.shapes ? null : await moveExperts(pod, seed, isLive);
    const [got] = await Promise.all([Promise.all(calls.map((call) => generate(pod, call))), changeShape(pod, changes)]);
    await end?.();
    await expectNothingLeft(pod);
    for (const { drafting } of (await pod.stats()).dp_groups) {
      drafted.right += drafting.accepted_tokens;
      drafted.all += drafting.draft_tokens;
    }
    for (const [index, { prompt, options: how }] of calls.entries()) {
      if (got[index]) called.generated++;
      if (got[index] && (how.logprobs ?? -1) >= 0 && how.temperature !== 0) called.scored++;
      const [mine, alone] = [got[index], got[index] && fingerprint(await one.complete(prompt, how))];
      if (mine && JSON.stringify(mine) !== JSON.stringify(alone)) return `call ${index}: ${mine.join(' / ')} is not ${alone?.join(' / ')}`;
    }
    return values.mtp && !values.shapes && !isLive ? await draftsDiffer(options, calls) : null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

const folder = mkdtempSync(join(tmpdir(), 'minipod-same-bits-'));
process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
const model = values.int8 ? await smallInt8(folder) : null;
const two = values.mtp ? twoMtpLayers(join(folder, 'two')) : '';
const first = Number(values.seed);
let failures = 0;
for (const [kind, count] of [
  ['virtual', Number(values.virtual)],
  ['live', Number(values.live)],
] as const) {
  if (count === 0) continue;
  const isLive = kind === 'live';
  const hashes = { kernels: 'hash', ...(values.mtp && { hash_foreseeable: FORESEEABLE }) } as const;
  await using one = await createPod({ ...(!isLive && { clock: 'virtual' }), ...(model !== null ? { ...INT8, model } : isLive ? {} : hashes) });
  let differing = 0;
  for (let seed = first; seed < first + count; seed++) {
    const difference = await differs(seed, isLive, one);
    if (difference === null) continue;
    differing++;
    console.log(`${kind} seed ${seed}, ${JSON.stringify(planFor(seed, isLive).pod)}: ${difference.slice(0, 400)}`);
  }
  console.log(`${count} ${kind} pods from seed ${first}: ${differing} differ; of ${drafted.all} drafts so far ${drafted.right} were right`);
  console.log(
    `${called.generated} requests so far, of which ${called.scored} were sampled with log-probabilities; ${drafted.compared} times the same drafts by a cold cache`,
  );
  failures += differing;
}
process.exitCode = failures > 0 ? 1 : 0;
