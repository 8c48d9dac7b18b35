/**
 * How work is laid out over NPUs: a pod is a list of task executors, each with its DP groups of so many ranks.
 *
 *   colocated:dp=2                                   one task executor, two DP groups, each does prefill and decode
 *   pd:prefill=2xdp1tp2,decode=1xdp4                 two prefill executors of one group on two NPUs each, one decode executor of four groups
 *   mixed:colocated=1xdp2,prefill=1xdp1,decode=1xdp1
 *   colocated:dp=4,oproj=2                           four DP groups, each two neighbours of which have half of the output projections' columns each
 *   moe-attention:domains=3x4,experts=8              three domains of four attention NPUs each, and eight NPUs that have all experts (xDeepServe §5.2)
 *   pd:prefill=1xdp2,decode=1xdomains3x4experts8     the same for decode alone; `shared=2`, `shared2`: two of the expert NPUs have the shared expert,
 *                                                    `shared=attention`, `sharedattention`: each attention NPU has it
 *
 * NPUs are numbered through: executor by executor, group by group, rank by rank, then the executor's expert NPUs; so are DP groups. Each executor is an EP group
 * of its own, with all of the model's experts (xDeepServe §5.1: prefill and decode engines are whole ones).
 * @module
 */
import { assert, MinipodError } from './errors.ts';

export const EXECUTOR_ROLES = ['colocated', 'prefill', 'decode'] as const;
export type ExecutorRole = (typeof EXECUTOR_ROLES)[number];
/** What joins task executors: the memory that all share, or TCP, a stand-in for the RoCE network between machines. */
export const KV_FABRICS = ['memory', 'tcp'] as const;
export type KvFabric = (typeof KV_FABRICS)[number];
/**
 * One task executor: `dp` groups of `tp` NPUs. `oproj`, missing: 1: so many NPUs of neighbouring groups share the weights of their output projections, each
 * with attention of its own (xDeepServe §4: attention with TP 1, O-projection with TP > 1).
 */
export type ExecutorShape = {
  readonly role: ExecutorRole;
  readonly dp: number;
  readonly tp: number;
  readonly oproj?: number | undefined;
  readonly split?: SplitShape | undefined;
};
/**
 * Attention and experts apart: the `dp` groups make up so many domains of equal size, and `experts` NPUs more have the experts. `shared`: how many of those have the
 * shared expert; missing: as many as there are groups, if there are; `attention`: every attention NPU has it instead.
 */
export type SplitShape = { readonly domains: number; readonly experts: number; readonly shared?: number | 'attention' | undefined };
export type Topology = readonly ExecutorShape[];

/**
 * How attention NPUs and expert NPUs take turns: `dataflow`, nobody waits for a peer that he needs nothing from (xDeepServe §5.3); `domains`, the attention NPUs of
 * a domain go layer by layer together, and domains are at the experts in turn (§5.2).
 */
export const SCHEDULES = ['dataflow', 'domains'] as const;
export type Schedule = (typeof SCHEDULES)[number];

/** Neighbouring NPUs. */
export type NpuRange = { readonly first: number; readonly npus: number };
/**
 * Those over which an executor's experts are spread. Where their number changes while requests run: `serving`, so many of the first have experts when the pod
 * starts, and `fewest`, so many always have; missing: all.
 */
export type ExpertGroup = NpuRange & { readonly serving?: number; readonly fewest?: number };
/** Of one executor, how many of its expert NPUs serve. */
export type ExpertsServing = { readonly executor: number; readonly serving: number; readonly fewest: number };
/** `attention`: its NPUs that run steps; where it is not split, they have its experts too. */
export type Executor = ExecutorShape & {
  readonly id: number;
  readonly groups: readonly number[];
  readonly attention: NpuRange;
  readonly experts: ExpertGroup;
};
export type DpGroupPlace = { readonly id: number; readonly executor: number /** By rank. */; readonly npus: readonly number[] };
/** An NPU that runs steps, for its DP group. */
export type AttentionPlace = { readonly kind: 'attention'; readonly id: number; readonly executor: number; readonly group: number; readonly rank: number };
/** An NPU that has nothing but experts, and computes for whoever asks. */
export type ExpertPlace = { readonly kind: 'experts'; readonly id: number; readonly executor: number };
export type NpuPlace = AttentionPlace | ExpertPlace;

/** A topology with everything numbered: a plain value, as it travels to threads. */
export type Deployment = {
  readonly topology: Topology;
  readonly executors: readonly Executor[];
  readonly groups: readonly DpGroupPlace[];
  readonly npus: readonly NpuPlace[];
};

/** What an address of an expert can name (address.ts). */
export const EXECUTORS_MAX = 64;

/** Experts spread evenly, neighbours apart: expert e of each layer lives on NPU e mod n of its executor's. Never replicated here. */
export const npuOfExpert = (expert: number, { first, npus }: ExpertGroup): number => first + (expert % npus);

export const colocated = (dp: number): Topology => [{ role: 'colocated', dp, tp: 1 }];

/** `apart`: of an executor whose expert NPUs change in number; the topology is its largest. */
export function deploy(topology: Topology, apart: ExpertsServing | null = null): Deployment {
  const executors: Executor[] = [];
  const groups: DpGroupPlace[] = [];
  const npus: NpuPlace[] = [];
  for (const [executor, shape] of topology.entries()) {
    const [firstGroup, first] = [groups.length, npus.length];
    for (let index = 0; index < shape.dp; index++) {
      const group = groups.length;
      const ranks = Array.from({ length: shape.tp }, (_, rank): NpuPlace => ({ kind: 'attention', id: npus.length + rank, executor, group, rank }));
      npus.push(...ranks);
      groups.push({ id: group, executor, npus: ranks.map(({ id }) => id) });
    }
    const own = Array.from({ length: shape.dp }, (_, index) => firstGroup + index);
    const attention = { first, npus: npus.length - first };
    const changing = apart?.executor === executor ? { serving: apart.serving, fewest: apart.fewest } : {};
    const experts: ExpertGroup = shape.split === undefined ? attention : { first: npus.length, npus: shape.split.experts, ...changing };
    for (let id = npus.length; id < experts.first + experts.npus; id++) npus.push({ kind: 'experts', id, executor });
    executors.push({ ...shape, id: executor, groups: own, attention, experts });
  }
  return { topology, executors, groups, npus };
}

/** The NPU whose scheduler is the DP group's. @throws `invalid_request` for a group that there is not */
export function leaderOf({ groups }: Deployment, dp_group: number): number {
  const leader = groups[dp_group]?.npus[0];
  if (leader !== undefined) return leader;
  throw new MinipodError('invalid_request', `dp_group: there is no DP group ${dp_group}, only 0 to ${groups.length - 1}`, { param: 'dp_group' });
}

/** The DP groups in which requests begin. */
export const firstGroups = ({ executors }: Deployment): number[] => executors.flatMap(({ role, groups }) => (role === 'decode' ? [] : groups));

/** NPUs that executors of a shape have. */
export const npusOfShape = ({ dp, tp, split }: ExecutorShape): number => dp * tp + (split?.experts ?? 0);

export const isSplit = ({ executors }: Pick<Deployment, 'executors'>): boolean => executors.some(({ split }) => split !== undefined);

/** The executor that an NPU is of. */
export function executorOfNpu({ npus, executors }: Deployment, npu: number): Executor {
  const executor = executors[npus[npu]?.executor ?? -1];
  assert(executor, `there is no NPU ${npu}`);
  return executor;
}

/** Where an NPU runs steps. */
export function attentionPlaceOf({ npus }: Deployment, npu: number): AttentionPlace {
  const place = npus[npu];
  assert(place?.kind === 'attention', `NPU ${npu} runs no steps`);
  return place;
}

/** The EP group that an NPU is in. */
export const expertGroupOf = (deployment: Deployment, npu: number): ExpertGroup => executorOfNpu(deployment, npu).experts;

/** The DP groups of an executor by domain; all of them where it is not split. */
export function domainsOf({ groups, split }: Executor): readonly (readonly number[])[] {
  const { domains = 1 } = split ?? {};
  const size = groups.length / domains;
  return Array.from({ length: domains }, (_, domain) => groups.slice(domain * size, (domain + 1) * size));
}

/** Of the expert NPUs that always serve, those that have the shared expert, at equal distances from one another; none where each attention NPU has it. */
export function sharedExpertNpusOf({ attention, experts, split }: Executor): readonly number[] {
  if (split === undefined || split.shared === 'attention') return [];
  const { first, npus, fewest = npus } = experts;
  const { shared = Math.min(attention.npus, fewest) } = split;
  return Array.from({ length: shared }, (_, index) => first + Math.floor((index * fewest) / shared));
}

/** The expert NPU that computes the shared expert for an attention NPU, spread by its position; null: that has it itself. */
export function sharedExpertNpuFor(deployment: Deployment, npu: number): number | null {
  const executor = executorOfNpu(deployment, npu);
  const holders = sharedExpertNpusOf(executor);
  return holders[(npu - executor.attention.first) % Math.max(1, holders.length)] ?? null;
}

/** The NPUs over which the output projection of an NPU is split: itself alone where it is not, or where ranks of its DP group split it. */
export function projectionGroupOf(deployment: Deployment, npu: number): NpuRange {
  const { oproj = 1, attention } = executorOfNpu(deployment, npu);
  return { first: npu - ((npu - attention.first) % oproj), npus: oproj };
}

const GRAMMAR =
  "'colocated:dp=2', 'pd:prefill=2xdp1tp2,decode=1xdp4', 'moe-attention:domains=3x4,experts=8', 'pd:prefill=1xdp2,decode=1xdomains3x4experts8', or 'mixed:colocated=1xdp2,prefill=1xdp1,decode=1xdp1'";

const refuse = (text: string, why: string): MinipodError =>
  new MinipodError('invalid_request', `topology: '${text}': ${why}; a topology is written like ${GRAMMAR}`, { param: 'topology' });

/** The one-line text of a topology; what `parseTopology` reads. */
export function formatTopology(topology: Topology): string {
  const [first] = topology;
  if (first !== undefined && topology.length === 1 && first.role === 'colocated') {
    const { dp, tp, oproj = 1, split } = first;
    if (split === undefined) return `colocated:dp=${dp}${tp > 1 ? `,tp=${tp}` : ''}${oproj > 1 ? `,oproj=${oproj}` : ''}`;
    return `moe-attention:domains=${domainsText(dp, split)},experts=${split.experts}${split.shared === undefined ? '' : `,shared=${split.shared}`}`;
  }
  const parts: string[] = [];
  for (let from = 0; from < topology.length; ) {
    const [role, size] = roleAndSize(topology[from]);
    let to = from;
    while (roleAndSize(topology[to]).join() === `${role},${size}`) to++;
    parts.push(`${role}=${to - from}x${size}`);
    from = to;
  }
  return `${topology.some(({ role }) => role === 'colocated') ? 'mixed' : 'pd'}:${parts.join(',')}`;
}

const domainsText = (dp: number, { domains }: SplitShape): string => `${domains}x${dp / domains}`;

function roleAndSize(shape: ExecutorShape | undefined): [string, string] {
  if (shape === undefined) return ['', ''];
  const { role, dp, tp, oproj = 1, split } = shape;
  if (split !== undefined) return [role, `domains${domainsText(dp, split)}experts${split.experts}${split.shared === undefined ? '' : `shared${split.shared}`}`];
  return [role, `dp${dp}${tp > 1 ? `tp${tp}` : ''}${oproj > 1 ? `oproj${oproj}` : ''}`];
}

/** @throws `invalid_request` that says what is wrong and how a topology is written */
export function parseTopology(text: string): Topology {
  const [name = '', rest] = cut(text, ':');
  const parts = rest === undefined || rest === '' ? [] : rest.split(',').map((part) => part.trim());
  const topology = topologyNamed(text, name, parts);
  checkTopology(topology, text);
  return topology;
}

function topologyNamed(text: string, name: string, parts: readonly string[]): Topology {
  switch (name) {
    case 'colocated':
      return [colocatedOf(text, parts)];
    case 'moe-attention':
      return [splitOf(text, parts)];
    case 'pd':
    case 'mixed':
      return executorsOf(text, name, parts);
    default:
      throw refuse(text, `'${name}' is no kind of topology`);
  }
}

/** @throws `invalid_request` for a list of executors that could serve no request */
export function checkTopology(topology: Topology, text = formatTopology(topology)): void {
  const has = (role: ExecutorRole): boolean => topology.some((executor) => executor.role === role);
  if (topology.length === 0) throw refuse(text, 'it has no task executor');
  if (topology.length > EXECUTORS_MAX) throw refuse(text, `it has ${topology.length} task executors, at most ${EXECUTORS_MAX} are possible`);
  if (has('decode') && !has('prefill')) throw refuse(text, 'its decode executors get nothing to decode: it needs a prefill executor');
  if (has('prefill') && !has('decode')) throw refuse(text, 'what its prefill executors compute goes nowhere: it needs a decode executor');
  for (const { role, dp, tp, oproj = 1, split } of topology) {
    if (split !== undefined) checkSplit(text, role, dp, tp, oproj, split);
    if (oproj > 1 && tp > 1)
      throw refuse(text, `a ${role} executor has tp ${tp} and oproj ${oproj}: ranks of a DP group split their output projection already`);
    if (dp % oproj > 0)
      throw refuse(text, `a ${role} executor has dp ${dp}, which oproj ${oproj} does not divide: each ${oproj} NPUs have one output projection`);
  }
}

function checkSplit(text: string, role: ExecutorRole, dp: number, tp: number, oproj: number, { domains, experts, shared }: SplitShape): void {
  const its = `a ${role} executor with experts apart`;
  if (tp > 1 || oproj > 1) throw refuse(text, `${its} has tp ${tp} and oproj ${oproj}: its attention NPUs are whole DP groups each, tp 1 and oproj 1`);
  if (dp % domains > 0) throw refuse(text, `${its} has dp ${dp} in ${domains} domains, which are of equal size`);
  if (typeof shared === 'number' && shared > experts) throw refuse(text, `${its} has the shared expert on ${shared} of ${experts} expert NPUs`);
}

/** `moe-attention:domains=3x4,experts=8`, with `shared=2` or `shared=attention`. */
function splitOf(text: string, parts: readonly string[]): ExecutorShape {
  const given = new Map<string, string>();
  for (const part of parts) {
    const found = /^(domains=\d+x\d+|experts=\d+|shared=(?:\d+|attention))$/.exec(part);
    if (found === null) throw refuse(text, `'${part}' is neither domains=NxN nor experts=N nor shared=N nor shared=attention`);
    const [name = '', value = ''] = cut(part, '=');
    if (given.has(name)) throw refuse(text, `it says ${name} twice`);
    given.set(name, value);
  }
  const [domains, experts] = [given.get('domains'), given.get('experts')];
  if (domains === undefined || experts === undefined) throw refuse(text, `it does not say ${domains === undefined ? 'domains=NxN' : 'experts=N'}`);
  const [count, size] = cut(domains, 'x');
  return splitShapeOf(text, parts.join(), 'colocated', [count, size, experts, given.get('shared')]);
}

function splitShapeOf(text: string, part: string, role: ExecutorRole, [count, size, experts, shared]: readonly (string | undefined)[]): ExecutorShape {
  const domains = sizeOf(text, part, count);
  const holders = shared === 'attention' ? shared : sizeOf(text, part, shared);
  const split: SplitShape = { domains, experts: sizeOf(text, part, experts), ...(shared !== undefined && { shared: holders }) };
  return { role, dp: domains * sizeOf(text, part, size), tp: 1, split };
}

function colocatedOf(text: string, parts: readonly string[]): ExecutorShape {
  const sizes = { dp: 1, tp: 1, oproj: 1 };
  const given = new Set<string>();
  for (const part of parts) {
    const found = /^(dp|tp|oproj)=(\d+)$/.exec(part);
    if (found === null) throw refuse(text, `'${part}' is neither dp=N nor tp=N nor oproj=N`);
    const name = found[1] as keyof typeof sizes;
    if (given.has(name)) throw refuse(text, `it says ${name} twice`);
    given.add(name);
    sizes[name] = sizeOf(text, part, found[2]);
  }
  return shapeOf('colocated', sizes.dp, sizes.tp, sizes.oproj);
}

function executorsOf(text: string, name: string, parts: readonly string[]): ExecutorShape[] {
  if (parts.length === 0 && name === 'pd') return (['prefill', 'decode'] as const).map((role) => shapeOf(role, 1, 1, 1));
  return parts.flatMap((part) => {
    const found = SPLIT_EXECUTORS.exec(part) ?? EXECUTORS.exec(part);
    if (found === null) throw refuse(text, `'${part}' is not like prefill=2xdp1tp2, nor like decode=1xdomains3x4experts8`);
    const role = found[1] as ExecutorRole;
    if (name === 'pd' && role === 'colocated') throw refuse(text, "a pd topology has no colocated executors; one with both begins with 'mixed:'");
    const count = sizeOf(text, part, found[2] || found[3]);
    if (count > EXECUTORS_MAX) throw refuse(text, `${count} task executors are more than the ${EXECUTORS_MAX} that are possible`);
    const sizes = found.slice(4);
    const shape = part.includes('domains') ? splitShapeOf(text, part, role, sizes) : wholeShapeOf(text, part, role, sizes);
    return Array.from({ length: count }, () => shape);
  });
}

/** Role, number of executors (alone, or before an x), then what each is made of. */
const EXECUTORS = /^(colocated|prefill|decode)=(?=.)(?:(\d+)x?|(?:(\d+)x)?(?:dp(\d+))?(?:tp(\d+))?(?:oproj(\d+))?)$/;
const SPLIT_EXECUTORS = /^(colocated|prefill|decode)=()(?:(\d+)x)?domains(\d+)x(\d+)experts(\d+)(?:shared(\d+|attention))?$/;

const wholeShapeOf = (text: string, part: string, role: ExecutorRole, [dp, tp, oproj]: readonly (string | undefined)[]): ExecutorShape =>
  shapeOf(role, sizeOf(text, part, dp), sizeOf(text, part, tp), sizeOf(text, part, oproj));

/** One way to write each: what is not split says nothing of it. */
const shapeOf = (role: ExecutorRole, dp: number, tp: number, oproj: number): ExecutorShape => (oproj > 1 ? { role, dp, tp, oproj } : { role, dp, tp });

function sizeOf(text: string, part: string, digits: string | undefined): number {
  const size = digits === undefined ? 1 : Number(digits);
  if (size < 1 || size > 4096) throw refuse(text, `'${part}' has ${digits} of something; each number is from 1 to 4096`);
  return size;
}

function cut(text: string, at: string): [string, string | undefined] {
  const index = text.indexOf(at);
  return index < 0 ? [text.trim(), undefined] : [text.slice(0, index).trim(), text.slice(index + 1).trim()];
}
