/**
 * How work is laid out over NPUs: a pod is a list of task executors, each with its DP groups of so many ranks.
 *
 *   colocated:dp=2                                   one task executor, two DP groups, each does prefill and decode
 *   pd:prefill=2xdp1tp2,decode=1xdp4                 two prefill executors of one group on two NPUs each, one decode executor of four groups
 *   mixed:colocated=1xdp2,prefill=1xdp1,decode=1xdp1
 *   colocated:dp=4,oproj=2                           four DP groups, each two neighbours of which have half of the output projections' columns each
 *
 * NPUs are numbered through: executor by executor, group by group, rank by rank; so are DP groups. Each executor is an EP group of its own,
 * with all of the model's experts (xDeepServe §5.1: prefill and decode engines are whole ones).
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
export type ExecutorShape = { readonly role: ExecutorRole; readonly dp: number; readonly tp: number; readonly oproj?: number | undefined };
export type Topology = readonly ExecutorShape[];

/** Neighbouring NPUs: those over which an executor's experts are spread. */
export type ExpertGroup = { readonly first: number; readonly npus: number };
export type Executor = ExecutorShape & { readonly id: number; readonly groups: readonly number[]; readonly experts: ExpertGroup };
export type DpGroupPlace = { readonly id: number; readonly executor: number /** By rank. */; readonly npus: readonly number[] };
export type NpuPlace = { readonly id: number; readonly executor: number; readonly group: number; readonly rank: number };

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

export function deploy(topology: Topology): Deployment {
  const executors: Executor[] = [];
  const groups: DpGroupPlace[] = [];
  const npus: NpuPlace[] = [];
  for (const [executor, shape] of topology.entries()) {
    const [firstGroup, first] = [groups.length, npus.length];
    for (let index = 0; index < shape.dp; index++) {
      const group = groups.length;
      const ranks = Array.from({ length: shape.tp }, (_, rank): NpuPlace => ({ id: npus.length + rank, executor, group, rank }));
      npus.push(...ranks);
      groups.push({ id: group, executor, npus: ranks.map(({ id }) => id) });
    }
    const own = Array.from({ length: shape.dp }, (_, index) => firstGroup + index);
    executors.push({ ...shape, id: executor, groups: own, experts: { first, npus: npus.length - first } });
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

/** The EP group that an NPU is in. */
export function expertGroupOf({ npus, executors }: Deployment, npu: number): ExpertGroup {
  const executor = executors[npus[npu]?.executor ?? -1];
  assert(executor, `there is no NPU ${npu}`);
  return executor.experts;
}

/** The NPUs over which the output projection of an NPU is split: itself alone where it is not, or where ranks of its DP group split it. */
export function projectionGroupOf({ npus, executors }: Deployment, npu: number): ExpertGroup {
  const executor = executors[npus[npu]?.executor ?? -1];
  assert(executor, `there is no NPU ${npu}`);
  const { oproj = 1, experts } = executor;
  return { first: npu - ((npu - experts.first) % oproj), npus: oproj };
}

const GRAMMAR = "'colocated:dp=2', 'pd:prefill=2xdp1tp2,decode=1xdp4', or 'mixed:colocated=1xdp2,prefill=1xdp1,decode=1xdp1'";

const refuse = (text: string, why: string): MinipodError =>
  new MinipodError('invalid_request', `topology: '${text}': ${why}; a topology is written like ${GRAMMAR}`, { param: 'topology' });

/** The one-line text of a topology; what `parseTopology` reads. */
export function formatTopology(topology: Topology): string {
  const [first] = topology;
  if (first !== undefined && topology.length === 1 && first.role === 'colocated')
    return `colocated:dp=${first.dp}${first.tp > 1 ? `,tp=${first.tp}` : ''}${oprojOf(first) > 1 ? `,oproj=${first.oproj}` : ''}`;
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

const oprojOf = ({ oproj = 1 }: ExecutorShape): number => oproj;

function roleAndSize(shape: ExecutorShape | undefined): [string, string] {
  if (shape === undefined) return ['', ''];
  const { role, dp, tp } = shape;
  return [role, `dp${dp}${tp > 1 ? `tp${tp}` : ''}${oprojOf(shape) > 1 ? `oproj${shape.oproj}` : ''}`];
}

/** @throws `invalid_request` that says what is wrong and how a topology is written */
export function parseTopology(text: string): Topology {
  const [name = '', rest] = split(text, ':');
  const parts = rest === undefined || rest === '' ? [] : rest.split(',').map((part) => part.trim());
  const topology = name === 'colocated' ? [colocatedOf(text, parts)] : name === 'pd' || name === 'mixed' ? executorsOf(text, name, parts) : null;
  if (topology === null) throw refuse(text, `'${name}' is no kind of topology`);
  checkTopology(topology, text);
  return topology;
}

/** @throws `invalid_request` for a list of executors that could serve no request */
export function checkTopology(topology: Topology, text = formatTopology(topology)): void {
  const has = (role: ExecutorRole): boolean => topology.some((executor) => executor.role === role);
  if (topology.length === 0) throw refuse(text, 'it has no task executor');
  if (topology.length > EXECUTORS_MAX) throw refuse(text, `it has ${topology.length} task executors, at most ${EXECUTORS_MAX} are possible`);
  if (has('decode') && !has('prefill')) throw refuse(text, 'its decode executors get nothing to decode: it needs a prefill executor');
  if (has('prefill') && !has('decode')) throw refuse(text, 'what its prefill executors compute goes nowhere: it needs a decode executor');
  for (const { role, dp, tp, oproj = 1 } of topology) {
    if (oproj > 1 && tp > 1)
      throw refuse(text, `a ${role} executor has tp ${tp} and oproj ${oproj}: ranks of a DP group split their output projection already`);
    if (dp % oproj > 0)
      throw refuse(text, `a ${role} executor has dp ${dp}, which oproj ${oproj} does not divide: each ${oproj} NPUs have one output projection`);
  }
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
    const found = /^(colocated|prefill|decode)=(?=.)(?:(\d+)x?|(?:(\d+)x)?(?:dp(\d+))?(?:tp(\d+))?(?:oproj(\d+))?)$/.exec(part);
    if (found === null) throw refuse(text, `'${part}' is not like prefill=2xdp1tp2`);
    const role = found[1] as ExecutorRole;
    if (name === 'pd' && role === 'colocated') throw refuse(text, "a pd topology has no colocated executors; one with both begins with 'mixed:'");
    const [count, dp, tp] = [sizeOf(text, part, found[2] ?? found[3]), sizeOf(text, part, found[4]), sizeOf(text, part, found[5])];
    const oproj = sizeOf(text, part, found[6]);
    if (count > EXECUTORS_MAX) throw refuse(text, `${count} task executors are more than the ${EXECUTORS_MAX} that are possible`);
    return Array.from({ length: count }, (): ExecutorShape => shapeOf(role, dp, tp, oproj));
  });
}

/** One way to write each: what is not split says nothing of it. */
const shapeOf = (role: ExecutorRole, dp: number, tp: number, oproj: number): ExecutorShape => (oproj > 1 ? { role, dp, tp, oproj } : { role, dp, tp });

function sizeOf(text: string, part: string, digits: string | undefined): number {
  const size = digits === undefined ? 1 : Number(digits);
  if (size < 1 || size > 4096) throw refuse(text, `'${part}' has ${digits} of something; each number is from 1 to 4096`);
  return size;
}

function split(text: string, at: string): [string, string | undefined] {
  const index = text.indexOf(at);
  return index < 0 ? [text.trim(), undefined] : [text.slice(0, index).trim(), text.slice(index + 1).trim()];
}
