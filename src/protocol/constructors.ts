/**
 * Builds every message that actors exchange, each with one order of keys, so that its encoding never varies.
 * @module
 */
import { type Address, address } from './address.ts';
import type { GroupState, LongPrompts, StepCost, StepSample, Wanted } from './balancing.ts';
import type { ClusterManagerMessage, JobExecutorMessage, MemberLife } from './controllers.ts';
import type { ErrorRecord } from './errors.ts';
import type { WeightBroadcast } from './expert-maps.ts';
import {
  type DpGroupMessage,
  decodeTaskId,
  type ExpertMessage,
  type FrontendMessage,
  type Handoff,
  type JobMessage,
  type KvOffer,
  type NpuMessage,
  type Placement,
  type RequestMessage,
  type Sequence,
  type Stage,
  type TaskExecutorMessage,
  type TaskMessage,
  taskId,
} from './messages.ts';
import type { Begun, OutputMessage, TextTerms, TokenOut } from './output.ts';
import type { ScaledMessage, ScalingMessage, WeightsFurnished } from './scaling.ts';
import type { StepOutcome, StepPlan } from './steps.ts';
import type { TransferMessage } from './transfers.ts';

export const taskAddress = (sequence: { readonly request: number; readonly choice: number }): Address => address('task', taskId(sequence));
export const decodeTaskAddress = (sequence: { readonly request: number; readonly choice: number }): Address => address('task', decodeTaskId(sequence));

export const PLAIN_TEXT: TextTerms = {
  ...{ stop: [], skip_special_tokens: true },
  ...{ reasoning_parser: '', tool_call_parser: '', tools: '', prompt_tail: '' },
};

/** What a sequence says that asks for no more than to be generated; behind `sampling`, in the order of its keys. */
export const NO_TERMS: Pick<Sequence, 'cache_salt' | 'data_parallel_rank' | 'priority' | 'context' | 'output' | 'held' | 'drafts' | 'text'> = {
  cache_salt: '',
  data_parallel_rank: -1,
  priority: 0,
  context: '',
  output: [],
  held: null,
  drafts: true,
  text: PLAIN_TEXT,
};

const unexplained: ErrorRecord = { code: 'internal', message: 'failed without a reason', param: null };

// to a request
export const submit = (sequences: readonly Sequence[], deadline_ms = -1): RequestMessage => ({ type: 'SUBMIT', sequences, deadline_ms });
export const resume = (sequences: readonly Sequence[], placements: readonly Placement[], deadline_ms: number): RequestMessage => ({
  type: 'RESUME',
  sequences,
  placements,
  deadline_ms,
});
export const replaced = (sequences: readonly Sequence[], placements: readonly Placement[], error: ErrorRecord | null): RequestMessage => ({
  type: 'REPLACED',
  sequences,
  placements,
  error,
});
export const admitted = (placements: readonly Placement[]): RequestMessage => ({ type: 'ADMITTED', placements });
export const refused = (error: ErrorRecord): RequestMessage => ({ type: 'REFUSED', error });
export const jobPlaced = (): RequestMessage => ({ type: 'JOB_PLACED' });
export const jobRunning = (): RequestMessage => ({ type: 'JOB_RUNNING' });
export const jobStreaming = (): RequestMessage => ({ type: 'JOB_STREAMING' });
export const jobDone = (): RequestMessage => ({ type: 'JOB_DONE' });
export const jobFailed = (error: ErrorRecord | null): RequestMessage => ({ type: 'JOB_FAILED', error: error ?? unexplained });
export const jobCancelled = (): RequestMessage => ({ type: 'JOB_CANCELLED' });
export const deadlinePassed = (): RequestMessage => ({ type: 'DEADLINE_PASSED' });
export const fail = (error: ErrorRecord): RequestMessage => ({ type: 'FAIL', error });
/** To a request, a job or a task. */
export const cancel = (): { readonly type: 'CANCEL' } => ({ type: 'CANCEL' });

// to a job
export const plan = (request: Address, sequences: readonly Sequence[], placements: readonly Placement[]): JobMessage => ({
  type: 'PLAN',
  request,
  sequences,
  placements,
});
export const taskPlaced = (task: Address): JobMessage => ({ type: 'TASK_PLACED', task });
export const taskRunning = (task: Address): JobMessage => ({ type: 'TASK_RUNNING', task });
export const taskStreaming = (task: Address): JobMessage => ({ type: 'TASK_STREAMING', task });
export const taskLent = (task: Address, handoff: Handoff): JobMessage => ({ type: 'TASK_LENT', task, handoff });
export const taskPrefilled = (task: Address, handoff: Handoff): JobMessage => ({ type: 'TASK_PREFILLED', task, handoff });
export const decodeChosen = (task: Address, executor: Address): JobMessage => ({ type: 'DECODE_CHOSEN', task, executor });
export const choiceStopped = (choice: number): JobMessage => ({ type: 'CHOICE_STOPPED', choice });
export const taskDone = (task: Address): JobMessage => ({ type: 'TASK_DONE', task });
export const taskFailed = (task: Address, error: ErrorRecord | null): JobMessage => ({ type: 'TASK_FAILED', task, error: error ?? unexplained });
export const taskCancelled = (task: Address): JobMessage => ({ type: 'TASK_CANCELLED', task });

// to a task
export const assignTask = (job: Address, sequence: Sequence, placement: Placement, handoff: Handoff | null): TaskMessage => ({
  type: 'ASSIGN',
  job,
  sequence,
  placement,
  handoff,
});
export const placed = (dp_group: Address): TaskMessage => ({ type: 'PLACED', dp_group });
export const withdrawn = (): TaskMessage => ({ type: 'WITHDRAWN' });
export const scheduled = (): TaskMessage => ({ type: 'SCHEDULED' });
export const receiving = (): TaskMessage => ({ type: 'RECEIVING' });
export const decoding = (): TaskMessage => ({ type: 'DECODING' });
export const lent = (handoff: Handoff): TaskMessage => ({ type: 'LENT', handoff });
export const prefilled = (handoff: Handoff): TaskMessage => ({ type: 'PREFILLED', handoff });
export const handedOver = (output: readonly number[], drafts?: readonly number[]): TaskMessage =>
  drafts === undefined ? { type: 'HANDED_OVER', output } : { type: 'HANDED_OVER', output, drafts };
export const nothingLeft = (): TaskMessage => ({ type: 'NOTHING_LEFT' });
export const transferred = (): TaskMessage => ({ type: 'TRANSFERRED' });
export const preempted = (): TaskMessage => ({ type: 'PREEMPTED' });
export const generated = (): TaskMessage => ({ type: 'GENERATED' });
export const generationFailed = (error: ErrorRecord): TaskMessage => ({ type: 'GENERATION_FAILED', error });
export const abandoned = (): TaskMessage => ({ type: 'ABANDONED' });
export const executorLost = (error: ErrorRecord): TaskMessage => ({ type: 'EXECUTOR_LOST', error });
export const expertsLost = (error: ErrorRecord): TaskMessage => ({ type: 'EXPERTS_LOST', error });
export const stopStringFound = (): TaskMessage => ({ type: 'STOP_STRING_FOUND' });

// to a job executor
export const executorReady = (task_executor: Address): JobExecutorMessage => ({ type: 'EXECUTOR_READY', task_executor });
export const executorUnready = (task_executor: Address): JobExecutorMessage => ({ type: 'EXECUTOR_UNREADY', task_executor });
export const executorGone = (task_executor: Address, error: ErrorRecord): JobExecutorMessage => ({ type: 'EXECUTOR_GONE', task_executor, error });
export const admit = (request: Address, choices: number, data_parallel_rank: number): JobExecutorMessage => ({
  type: 'ADMIT',
  request,
  choices,
  data_parallel_rank,
});
export const chooseDecode = (job: Address, request: Address, task: Address, from: Address): JobExecutorMessage => ({
  type: 'CHOOSE_DECODE',
  job,
  request,
  task,
  from,
});
export const leave = (request: Address, choices: number): JobExecutorMessage => ({ type: 'LEAVE', request, choices });
export const measureThroughput = (): JobExecutorMessage => ({ type: 'MEASURE_THROUGHPUT' });

export const replace = (request: Address): JobExecutorMessage => ({ type: 'REPLACE', request });
export const goOn = (request: Address): JobExecutorMessage => ({ type: 'GO_ON', request });
export const recordReopened = (request: Address, sequences: readonly Sequence[], deadline_ms: number, error: ErrorRecord | null): JobExecutorMessage => ({
  type: 'RECORD_REOPENED',
  request,
  sequences,
  deadline_ms,
  error,
});
export const recordRead = (request: Address, sequences: readonly Sequence[], error: ErrorRecord | null): JobExecutorMessage => ({
  type: 'RECORD_READ',
  request,
  sequences,
  error,
});
export const choicesGranted = (request: Address, choices: number, data_parallel_rank: number): JobExecutorMessage => ({
  type: 'CHOICES_GRANTED',
  request,
  choices,
  data_parallel_rank,
});
export const choicesRefused = (request: Address, choices: number, held: number): JobExecutorMessage => ({ type: 'CHOICES_REFUSED', request, choices, held });
export const takeOver = (lost: Address, life: number): JobExecutorMessage => ({ type: 'TAKE_OVER', lost, life });
export const recordTaken = (request: Address, sequences: readonly Sequence[], deadline_ms: number, error: ErrorRecord | null): JobExecutorMessage => ({
  type: 'RECORD_TAKEN',
  request,
  sequences,
  deadline_ms,
  error,
});
export const recordsTaken = (lost: Address, life: number): JobExecutorMessage => ({ type: 'RECORDS_TAKEN', lost, life });

// to a cluster manager
export const memberLife = (member: Address, life: number): MemberLife => ({ member, life });
export const members = (serving: readonly MemberLife[], lost: readonly MemberLife[]): ClusterManagerMessage => ({ type: 'MEMBERS', serving, lost });
export const memberReady = (member: Address, life: number): ClusterManagerMessage => ({ type: 'MEMBER_READY', member, life });
export const memberLost = (member: Address, life: number): ClusterManagerMessage => ({ type: 'MEMBER_LOST', member, life });
export const takenOver = (lost: Address, life: number): ClusterManagerMessage => ({ type: 'TAKEN_OVER', lost, life });
export const leaseDue = (): ClusterManagerMessage => ({ type: 'LEASE_DUE' });
export const leaseTaken = (term: number): ClusterManagerMessage => ({ type: 'LEASE_TAKEN', term });
export const leaseRefused = (holder: Address, term: number): ClusterManagerMessage => ({ type: 'LEASE_REFUSED', holder, term });
export const leaseLost = (holder: Address, term: number): ClusterManagerMessage => ({ type: 'LEASE_LOST', holder, term });
/** To a task executor or a cluster manager. */
export const join = (member: Address, life: number): { readonly type: 'JOIN'; readonly member: Address; readonly life: number } => ({
  type: 'JOIN',
  member,
  life,
});

// to a task executor
export const disown = (lost: Address, life: number): TaskExecutorMessage => ({ type: 'DISOWN', lost, life });
export const place = (task: Address, { data_parallel_rank, prompt, max_tokens, priority }: Sequence, marks: readonly number[]): TaskExecutorMessage => ({
  type: 'PLACE',
  task,
  data_parallel_rank,
  kv_positions: prompt.length + max_tokens,
  wanted: { task, prompt_tokens: prompt.length, marks, priority },
});
export const groupChosen = (task: Address, group: number): TaskExecutorMessage => ({ type: 'GROUP_CHOSEN', task, group });
export const withdraw = (task: Address): TaskExecutorMessage => ({ type: 'WITHDRAW', task });
export const release = (task: Address): TaskExecutorMessage => ({ type: 'RELEASE', task });
export const npuReady = (npu: number, samples: readonly StepSample[]): TaskExecutorMessage => ({ type: 'NPU_READY', npu, samples });
export const npuLost = (npu: number, error: ErrorRecord): TaskExecutorMessage => ({ type: 'NPU_LOST', npu, error });
export const npuGone = (npu: number, error: ErrorRecord): TaskExecutorMessage => ({ type: 'NPU_GONE', npu, error });

/** To an executor or an NPU: no new work; stop when what runs is done. */
export const drain = (): { readonly type: 'DRAIN' } => ({ type: 'DRAIN' });

// to a DP group
export const enqueueSequence = (task: Address, sequence: Sequence, stage: Stage = 'whole', handoff: Handoff | null = null): DpGroupMessage => ({
  type: 'ENQUEUE',
  task,
  sequence,
  stage,
  handoff,
});
export const abandon = (task: Address): DpGroupMessage => ({ type: 'ABANDON', task });
export const stopFound = (task: Address): DpGroupMessage => ({ type: 'STOP_FOUND', task });
export const handOver = (task: Address, output: readonly number[], drafts?: readonly number[]): DpGroupMessage =>
  drafts === undefined ? { type: 'HANDED_OVER', task, output } : { type: 'HANDED_OVER', task, output, drafts };
export const lead = (task_executor: Address, term: number, groups: readonly number[], cost: StepCost, long: LongPrompts): DpGroupMessage => ({
  type: 'LEAD',
  task_executor,
  term,
  groups,
  cost,
  long,
});
export const groupWanted = (wanted: Wanted): DpGroupMessage => ({ type: 'GROUP_WANTED', wanted });
export const groupUnwanted = (task: Address): DpGroupMessage => ({ type: 'GROUP_UNWANTED', task });
export const prefixWanted = (from: Address, task: Address, cache_salt: string, tokens: readonly number[], known: number): DpGroupMessage => ({
  type: 'PREFIX_WANTED',
  from,
  task,
  cache_salt,
  tokens,
  known,
});
export const prefixLent = (from: Address, task: Address, offer: KvOffer | null): DpGroupMessage => ({ type: 'PREFIX_LENT', from, task, offer });
export const prefixUnwanted = (task: Address): DpGroupMessage => ({ type: 'PREFIX_UNWANTED', task });
export const prefixOverdue = (task: Address): DpGroupMessage => ({ type: 'PREFIX_OVERDUE', task });
export const statusWanted = (leader: Address, term: number): DpGroupMessage => ({ type: 'STATUS_WANTED', leader, term });
export const groupStatus = (state: GroupState, task: Address | null): DpGroupMessage => ({ type: 'GROUP_STATUS', state, task });
export const dropCache = (): DpGroupMessage => ({ type: 'DROP_CACHE' });
export const keepContext = (context: string, cache_salt: string, tokens: readonly number[]): DpGroupMessage => ({
  type: 'KEEP_CONTEXT',
  context,
  cache_salt,
  tokens,
});
export const forgetContext = (context: string): DpGroupMessage => ({ type: 'FORGET_CONTEXT', context });
export const stepDone = (npu: number, step: number, outcomes: readonly StepOutcome[], digest: number, us: number, draft_us: number): DpGroupMessage => ({
  type: 'STEP_DONE',
  npu,
  step,
  outcomes,
  digest,
  us,
  draft_us,
});
export const stepFailed = (npu: number, step: number, error: ErrorRecord, damaged: readonly number[] = []): DpGroupMessage => ({
  type: 'STEP_FAILED',
  npu,
  step,
  error,
  damaged,
});
export const rankReset = (npu: number, reset: number): DpGroupMessage => ({ type: 'RANK_RESET', npu, reset });
export const rankLost = (npu: number, error: ErrorRecord): DpGroupMessage => ({ type: 'RANK_LOST', npu, error });
export const rankBack = (npu: number): DpGroupMessage => ({ type: 'RANK_BACK', npu });

export const offered = (id: number, offer: KvOffer): TransferMessage => ({ type: 'OFFERED', id, offer });
export const transferDone = (id: number): TransferMessage => ({ type: 'TRANSFER_DONE', id });
export const leaseExpired = (id: number): DpGroupMessage => ({ type: 'LEASE_EXPIRED', id });
export const transferFailed = (id: number, error: ErrorRecord, damaged: readonly number[] = []): TransferMessage => ({
  type: 'TRANSFER_FAILED',
  id,
  error,
  damaged,
});

// to an NPU
export const started = (): NpuMessage => ({ type: 'STARTED' });
export const step = (plan: StepPlan): NpuMessage => ({ type: 'STEP', plan });
export const launchDone = (step: number, outcomes: readonly StepOutcome[], digest: number, us: number, draft_us: number): NpuMessage => ({
  type: 'LAUNCH_DONE',
  step,
  outcomes,
  digest,
  us,
  draft_us,
});
export const launchFailed = (step: number, error: ErrorRecord, damaged: readonly number[] = []): NpuMessage => ({
  type: 'LAUNCH_FAILED',
  step,
  error,
  damaged,
});
export const releaseSlots = (slots: readonly number[]): NpuMessage => ({ type: 'RELEASE_SLOTS', slots });
export const letGo = (step: number): NpuMessage => ({ type: 'LET_GO', step });
export const reset = (reset: number): NpuMessage => ({ type: 'RESET', reset });
export const resetDone = (): NpuMessage => ({ type: 'RESET_DONE' });
/** An expert NPU has computed for others, for the first time since it last reported. */
export const servedDispatches = (): NpuMessage => ({ type: 'SERVED_DISPATCHES' });
export const reportLoads = (): NpuMessage => ({ type: 'REPORT_LOADS' });
export const loadsCounted = (experts: readonly Address[], tokens: readonly number[]): NpuMessage => ({ type: 'LOADS_COUNTED', experts, tokens });

// to an expert
export const loaded = (npu: number, weights: number, bytes: number): ExpertMessage => ({ type: 'LOADED', npu, weights, bytes });
export const load = (tokens: number): ExpertMessage => ({ type: 'LOAD', tokens });

export const replicasChanging = (epoch: number): ExpertMessage => ({ type: 'REPLICAS_CHANGING', epoch });
export const replicasChanged = (epoch: number, npus: readonly number[]): ExpertMessage => ({ type: 'REPLICAS_CHANGED', epoch, npus });

// to an output process
export const tokens = (tokens: readonly TokenOut[], begun: readonly Begun[] = []): OutputMessage => ({ type: 'TOKENS', tokens, begun });
export const forget = (request: number, choice: number): OutputMessage => ({ type: 'FORGET', request, choice });

// to the frontend
export const promptComputed = (request: Address): FrontendMessage => ({ type: 'PROMPT_COMPUTED', request });
export const requestRunning = (request: Address): FrontendMessage => ({ type: 'REQUEST_RUNNING', request });
export const requestEnded = (request: Address, error: ErrorRecord | null): FrontendMessage => ({ type: 'REQUEST_ENDED', request, error });
export const requestMoved = (request: Address): FrontendMessage => ({ type: 'REQUEST_MOVED', request });
export const jobExecutors = (term: number, serving: readonly MemberLife[]): FrontendMessage => ({ type: 'JOB_EXECUTORS', term, serving });

// scaling
export const scale = (attention: number, experts: number, deadline_ms: number): ScalingMessage => ({ type: 'SCALE', attention, experts, deadline_ms });
export const furnish = (scaling: Address, query: number, source: number, broadcast: WeightBroadcast | null): NpuMessage => ({
  type: 'FURNISH',
  scaling,
  query,
  source,
  broadcast,
});
export const sendWeights = (broadcast: WeightBroadcast): NpuMessage => ({ type: 'SEND_WEIGHTS', broadcast });
export const weightsCopied = (scaling: Address, query: number, copied: WeightsFurnished, error: ErrorRecord | null): NpuMessage => ({
  type: 'WEIGHTS_COPIED',
  scaling,
  query,
  copied,
  error,
});
export const clearWeights = (): NpuMessage => ({ type: 'CLEAR_WEIGHTS' });
export const furnished = (npu: number, query: number, copied: WeightsFurnished, error: ErrorRecord | null): ScalingMessage => ({
  type: 'FURNISHED',
  npu,
  query,
  copied,
  error,
});
export const scaleRetry = (): ScalingMessage => ({ type: 'SCALE_RETRY' });
export const serving = (query: number): ScalingMessage => ({ type: 'SERVING', query });
export const groupsGone = (groups: readonly number[]): ScalingMessage => ({ type: 'GROUPS_GONE', groups });
export const expertsLeft = (holders: readonly number[], gone: readonly number[]): ScalingMessage => ({ type: 'EXPERTS_LEFT', holders, gone });
export const scaleOverdue = (): ScalingMessage => ({ type: 'SCALE_OVERDUE' });
export const returnOverdue = (): ScalingMessage => ({ type: 'RETURN_OVERDUE' });
export const scaled = (attention: number, experts: number, error: ErrorRecord | null): ScaledMessage => ({ type: 'SCALED', attention, experts, error });
export const serve = (by: Address, query: number, groups: readonly number[]): TaskExecutorMessage => ({ type: 'SERVE', by, query, groups });
export const groupLeft = (group: number): TaskExecutorMessage => ({ type: 'GROUP_LEFT', group });
export const expertsHeld = (npus: readonly number[]): TaskExecutorMessage => ({ type: 'EXPERTS_HELD', npus });
export const maskExperts = (npus: readonly number[]): DpGroupMessage => ({ type: 'MASK_EXPERTS', npus });
export const handBack = (task_executor: Address, lends: boolean): DpGroupMessage => ({ type: 'HAND_BACK', task_executor, lends });
export const takePart = (): DpGroupMessage => ({ type: 'TAKE_PART' });
export const handedBack = (output: readonly number[], offer: KvOffer | null): TaskMessage => ({ type: 'HANDED_BACK', output, offer });
