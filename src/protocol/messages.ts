/**
 * The messages that actors exchange and the commands they give their host.
 * Built only by constructors.ts, each with one order of keys, so that their encoding never varies.
 * @module
 */
import type { Address, Role } from './address.ts';

import type { LeaderMessage, StepSample, Wanted } from './balancing.ts';
import type { Claim, ClusterManagerMessage, JobExecutorMessage, MemberLife } from './controllers.ts';

import type { ErrorRecord } from './errors.ts';
import type { ExpertMapMessage, ExpertWork, ExpertWorkMessage, RebalancedMessage, WeightBroadcast } from './expert-maps.ts';
import type { HeartbeatMessage, PingMessage, SuspectedMessage, TrustedMessage } from './heartbeats.ts';
import type { MapGrantMessage } from './map-log.ts';
import type { OutputMessage, TextTerms } from './output.ts';
import type { HeldPrefix, PrefixMessage } from './prefix-sharing.ts';
import type { RoleSwitchMessage, SwitchRoleMessage } from './role-switch.ts';
import type { GroupShapeMessage, HandedBack, ScaledMessage, ScalingMessage, ShapeMessage, StandbyMessage } from './scaling.ts';
import type { StepOutcome, StepPlan } from './steps.ts';
import type { Transfer } from './transfers.ts';

// ── What a request carries ──────────────────────────────────────────────────────────────────────────────────────────

/** Sampling parameters, checked and complete; −1 stands for "not asked for". Bits that matter travel as float64. */
export type Sampling = {
  readonly temperature: number;
  readonly top_p: number;
  readonly top_k: number;
  readonly min_p: number;
  readonly seed: number;
  readonly min_tokens: number;
  readonly stop_token_ids: readonly number[];
  readonly logprobs: number;
  readonly prompt_logprobs: number;
  readonly bias_ids: readonly number[];
  readonly bias_values: readonly number[];
  readonly presence_penalty: number;
  readonly frequency_penalty: number;
  readonly repetition_penalty: number;
};

/** All that one choice needs to be generated anywhere: enough to move it. */
export type Sequence = {
  readonly request: number;
  readonly choice: number;
  readonly prompt: readonly number[];
  readonly max_tokens: number;
  readonly sampling: Sampling;
  /** Prefixes are shared among sequences of one salt only, such as those of one tenant. */
  readonly cache_salt: string;
  /** The DP group that is to compute it, of those where requests begin; −1: any. */
  readonly data_parallel_rank: number;
  /** The lower the sooner, as in vLLM; 0 if nothing else is asked for. */
  readonly priority: number;
  /** The context whose tokens the prompt begins with, which is kept wherever it is computed; empty: none. */
  readonly context: string;
  /** Tokens that its caller has already: of one that is taken over. It goes on behind them. */
  readonly output: readonly number[];
  /** Who probably has its beginning. */
  readonly held: HeldPrefix | null;
  /** Whether steps may draft it, in a pod that drafts. No token depends on it. */
  readonly drafts: boolean;
  readonly text: TextTerms;
};

/** Which part of a choice's generation a task is: all of it on one task executor, or its prefill and its decode on two (DeepServe §3). */
export type Stage = 'whole' | 'prefill' | 'decode';

/** Where a job executor puts a choice first. */
export type Placement = { readonly executor: Address; readonly stage: Stage };

/**
 * KV blocks that a prefill NPU lends: on which die and in which life of it, which of its offers, and the how manieth of that place. No data and no deadline
 * travel with it (xDeepServe §5.1, step 3). The blocks are named for a replay, which has no table of offers to look them up in.
 */
export type KvOffer = {
  readonly npu: number;
  readonly die: number;
  readonly epoch: number;
  readonly slot: number;
  readonly serial: number;
  readonly blocks: readonly number[];
};

/**
 * What decode begins with: the tokens that prefill generated, and where the KV of all but the last of them is. `ahead`: the step that computes this KV, and
 * the last of the tokens, goes on: its layers come one by one, the token by HANDED_OVER. `drafts`: what prefill drafted behind that, if anything.
 */
export type Handoff = {
  readonly output: readonly number[];
  readonly offer: KvOffer;
  readonly ahead: boolean;
  readonly drafts?: readonly number[] /** Some of it was computed without all experts. */;
  readonly degraded?: true;
};

/** Log-probabilities at one position: of the token itself, then of the best ones. */
export type PositionLogprobs = { readonly logprob: number; readonly top_ids: readonly number[]; readonly top_logprobs: readonly number[] };

export type FinishReason = 'stop' | 'length';

// ── Messages, by receiver ───────────────────────────────────────────────────────────────────────────────────────────

export type RequestMessage =
  /** `deadline_ms`: from now on it may take so long; −1: as long as it takes. */
  | { readonly type: 'SUBMIT'; readonly sequences: readonly Sequence[]; readonly deadline_ms: number }
  /** It was another job executor's, which is lost: admitted long ago, it goes on with what is left of it. */
  | { readonly type: 'RESUME'; readonly sequences: readonly Sequence[]; readonly placements: readonly Placement[]; readonly deadline_ms: number }
  /** By choice. */
  | { readonly type: 'ADMITTED'; readonly placements: readonly Placement[] }
  | { readonly type: 'REFUSED'; readonly error: ErrorRecord }
  /** What is left of it, and where it goes on. */
  | {
      readonly type: 'REPLACED';
      readonly sequences: readonly Sequence[];
      readonly placements: readonly Placement[];
      readonly error: ErrorRecord | null;
    }
  | { readonly type: 'JOB_PLACED' }
  | { readonly type: 'JOB_RUNNING' }
  | { readonly type: 'JOB_STREAMING' }
  | { readonly type: 'JOB_DONE' }
  | { readonly type: 'JOB_FAILED'; readonly error: ErrorRecord }
  | { readonly type: 'JOB_CANCELLED' }
  | { readonly type: 'DEADLINE_PASSED' }
  /** Its caller cannot be told what it says: what is left of it is let go of. */
  | { readonly type: 'FAIL'; readonly error: ErrorRecord }
  | { readonly type: 'CANCEL' };

export type JobMessage =
  | { readonly type: 'PLAN'; readonly request: Address; readonly sequences: readonly Sequence[]; readonly placements: readonly Placement[] }
  | { readonly type: 'TASK_PLACED'; readonly task: Address }
  | { readonly type: 'TASK_RUNNING'; readonly task: Address }
  | { readonly type: 'TASK_STREAMING'; readonly task: Address }
  /** By layer: its KV is lent while it is computed. */
  | { readonly type: 'TASK_LENT'; readonly task: Address; readonly handoff: Handoff }
  | { readonly type: 'TASK_PREFILLED'; readonly task: Address; readonly handoff: Handoff }
  | { readonly type: 'DECODE_CHOSEN'; readonly task: Address; readonly executor: Address }
  /** A stop string has ended it: whatever its tasks still do is for nobody. */
  | { readonly type: 'CHOICE_STOPPED'; readonly choice: number }
  | { readonly type: 'TASK_DONE'; readonly task: Address }
  | { readonly type: 'TASK_FAILED'; readonly task: Address; readonly error: ErrorRecord }
  | { readonly type: 'TASK_CANCELLED'; readonly task: Address }
  | { readonly type: 'CANCEL' };

export type TaskMessage =
  | {
      readonly type: 'ASSIGN';
      readonly job: Address;
      readonly sequence: Sequence;
      readonly placement: Placement;
      /** Of a decode task. */
      readonly handoff: Handoff | null;
    }
  | { readonly type: 'PLACED'; readonly dp_group: Address }
  | { readonly type: 'SCHEDULED' }
  /** Decode: its KV is on its way. */
  | { readonly type: 'RECEIVING' }
  | { readonly type: 'DECODING' }
  /** Prefill, by layer: the last step of the prompt has begun, and its KV is lent. */
  | { readonly type: 'LENT'; readonly handoff: Handoff }
  /** Prefill: the first token is out, and the KV is lent to whoever goes on. */
  | { readonly type: 'PREFILLED'; readonly handoff: Handoff }
  /** Decode that began ahead of it: prefill's first token, and its drafts. */
  | { readonly type: 'HANDED_OVER'; readonly output: readonly number[]; readonly drafts?: readonly number[] }
  /** Decode that began ahead of it: with the first token all was said. */
  | { readonly type: 'NOTHING_LEFT' }
  /** Prefill: nobody needs its KV any more. */
  | { readonly type: 'TRANSFERRED' }
  | { readonly type: 'PREEMPTED' }
  | { readonly type: 'GENERATED' }
  | { readonly type: 'GENERATION_FAILED'; readonly error: ErrorRecord }
  | { readonly type: 'STOP_STRING_FOUND' }
  | { readonly type: 'ABANDONED' }
  | { readonly type: 'WITHDRAWN' }
  | { readonly type: 'EXECUTOR_LOST'; readonly error: ErrorRecord }
  /** Its executor has lost experts for good: it can compute nothing for now. */
  | { readonly type: 'EXPERTS_LOST'; readonly error: ErrorRecord }
  | HandedBack
  | { readonly type: 'CANCEL' };

export type TaskExecutorMessage =
  /** A job executor that has come to life, or whose name a new one has: it wants to hear when this one serves. */
  | { readonly type: 'JOIN'; readonly member: Address; readonly life: number }
  /** The job executor is lost: let go of its tasks. */
  | { readonly type: 'DISOWN'; readonly lost: Address; readonly life: number }
  /** `samples`: what its steps took as it warmed up. */
  | { readonly type: 'NPU_READY'; readonly npu: number; readonly samples: readonly StepSample[] }
  | { readonly type: 'NPU_LOST'; readonly npu: number; readonly error: ErrorRecord }
  /** It was lost, and nobody can be put in its place for now: until it is ready all the same. */
  | { readonly type: 'NPU_GONE'; readonly npu: number; readonly error: ErrorRecord }
  | {
      readonly type: 'PLACE';
      readonly task: Address;
      readonly data_parallel_rank: number;
      /** Its prompt and the longest that its output may become. */
      readonly kv_positions: number;
      readonly wanted: Wanted;
    }
  /** Its leader has found a group for it. */
  | { readonly type: 'GROUP_CHOSEN'; readonly task: Address; readonly group: number }
  | { readonly type: 'WITHDRAW'; readonly task: Address }
  | { readonly type: 'RELEASE'; readonly task: Address }
  | ShapeMessage
  | PingMessage
  | HeartbeatMessage
  | { readonly type: 'DRAIN' };

export type DpGroupMessage =
  | { readonly type: 'ENQUEUE'; readonly task: Address; readonly sequence: Sequence; readonly stage: Stage; readonly handoff: Handoff | null }
  | { readonly type: 'ABANDON'; readonly task: Address }
  /** Its output process has met a stop string: with the last token it has all that it gets. */
  | { readonly type: 'STOP_FOUND'; readonly task: Address }
  /** What its prefill has generated, of one that was enqueued ahead of that. */
  | { readonly type: 'HANDED_OVER'; readonly task: Address; readonly output: readonly number[]; readonly drafts?: readonly number[] }
  | LeaderMessage
  | PrefixMessage
  | GroupShapeMessage
  | PingMessage
  /** To itself, behind what waits for it: it has something to begin with. */
  | { readonly type: 'STEP_DUE' }
  /** Forget what is kept for later: each prompt is computed anew. */
  | { readonly type: 'DROP_CACHE' }
  /** Keep what begins with these tokens, known now or computed later, until the context is forgotten. */
  | { readonly type: 'KEEP_CONTEXT'; readonly context: string; readonly cache_salt: string; readonly tokens: readonly number[] }
  | { readonly type: 'FORGET_CONTEXT'; readonly context: string }
  /** From each rank; log-probabilities are in the first one's outcomes. `us`: what the step took, `draft_us` of that for the drafts behind it. */
  | {
      readonly type: 'STEP_DONE';
      readonly npu: number;
      readonly step: number;
      readonly outcomes: readonly StepOutcome[];
      readonly digest: number;
      readonly us: number;
      readonly draft_us: number;
    }
  /** `damaged`: KV blocks that do not hold what was written there, by which alone it failed; none: by something else. */
  | { readonly type: 'STEP_FAILED'; readonly npu: number; readonly step: number; readonly error: ErrorRecord; readonly damaged: readonly number[] }
  /** The rank has forgotten all slots, as it was told by the call of this number. */
  | { readonly type: 'RANK_RESET'; readonly npu: number; readonly reset: number }
  /** A rank but the first is gone, with all that it held; and has a successor that holds nothing. */
  | { readonly type: 'RANK_LOST'; readonly npu: number; readonly error: ErrorRecord }
  | { readonly type: 'RANK_BACK'; readonly npu: number }
  /** Its blocks are lent. */
  | { readonly type: 'OFFERED'; readonly id: number; readonly offer: KvOffer }
  /** Each transfer ends once. An offer's end: its blocks were pulled, or nobody will. */
  | { readonly type: 'TRANSFER_DONE'; readonly id: number }
  /** `damaged`: blocks of the group's own DRAM that do not hold what was copied there. */
  | { readonly type: 'TRANSFER_FAILED'; readonly id: number; readonly error: ErrorRecord; readonly damaged: readonly number[] }
  | { readonly type: 'LEASE_EXPIRED'; readonly id: number };

export type NpuMessage =
  | { readonly type: 'STARTED' }
  | { readonly type: 'STEP'; readonly plan: StepPlan }
  /** Their sequences are gone, and no step follows that would say so. */
  | { readonly type: 'RELEASE_SLOTS'; readonly slots: readonly number[] }
  /** Whom a step computes may not wait any longer, this one or the one before: it is given up (`undone`), should it wait for an NPU that is lost. */
  | { readonly type: 'LET_GO'; readonly step: number }
  /** `digest`: of the activations that the outcomes come from; `us`: what the step took, in whole microseconds, with the gap before it where it goes on with a sequence; `draft_us`: of that, computing the drafts behind it. */
  | {
      readonly type: 'LAUNCH_DONE';
      readonly step: number;
      readonly outcomes: readonly StepOutcome[];
      readonly digest: number;
      readonly us: number;
      readonly draft_us: number;
    }
  /** `damaged`: as in STEP_FAILED. */
  | { readonly type: 'LAUNCH_FAILED'; readonly step: number; readonly error: ErrorRecord; readonly damaged: readonly number[] }
  /** Give up what runs and forget all slots: a rank of the group has failed, or the group is a new one. */
  | { readonly type: 'RESET'; readonly reset: number }
  | { readonly type: 'RESET_DONE' }
  /** An expert NPU computes for others: the first of it since its last report. */
  | { readonly type: 'SERVED_DISPATCHES' }
  | ExpertWorkMessage
  | StandbyMessage
  | PingMessage
  | { readonly type: 'REPORT_LOADS' }
  | { readonly type: 'LOADS_COUNTED'; readonly experts: readonly Address[]; readonly tokens: readonly number[] }
  | { readonly type: 'DRAIN' };

export type ExpertMessage =
  | { readonly type: 'LOADED'; readonly npu: number; readonly weights: number; readonly bytes: number }
  | { readonly type: 'LOAD'; readonly tokens: number }
  /** Of the map: slots that hold it, or are to hold it, change from this epoch on. */
  | { readonly type: 'REPLICAS_CHANGING'; readonly epoch: number }
  /** It lies there now, on these NPUs. */
  | { readonly type: 'REPLICAS_CHANGED'; readonly epoch: number; readonly npus: readonly number[] };

/** The frontend's inbox. No token comes here: those go from a DP group's output process to the caller's thread. */
export type FrontendMessage =
  | { readonly type: 'REQUEST_RUNNING'; readonly request: Address }
  /** A DP group has computed its prompt, and keeps what of it others may begin with. */
  | { readonly type: 'PROMPT_COMPUTED'; readonly request: Address }
  /** The call goes on under this address. */
  | { readonly type: 'REQUEST_MOVED'; readonly request: Address }
  /** Those that take requests, by the cluster manager of that term. */
  | { readonly type: 'JOB_EXECUTORS'; readonly term: number; readonly serving: readonly MemberLife[] }
  | { readonly type: 'REQUEST_ENDED'; readonly request: Address; readonly error: ErrorRecord | null };

/** What the control plane's host is told. */
export type ControlMessage = RebalancedMessage | ScaledMessage | SwitchRoleMessage | SuspectedMessage | TrustedMessage;

export type Message =
  | RequestMessage
  | JobMessage
  | TaskMessage
  | JobExecutorMessage
  | TaskExecutorMessage
  | ClusterManagerMessage
  | DpGroupMessage
  | NpuMessage
  | ExpertMessage
  | ExpertMapMessage
  | MapGrantMessage
  | FrontendMessage
  | OutputMessage
  | ScalingMessage
  | RoleSwitchMessage
  | ControlMessage;

/** What a machine may ask of its host. The host performs it; the machine never knows which host that is. */
export type Commands = {
  send: { readonly to: Address; readonly message: Message };
  /** Several sends in this order. */
  sendEach: readonly Commands['send'][];
  after: { readonly id: string; readonly delay_ms: number; readonly message: Message };
  /** Several timers. */
  afterEach: readonly Commands['after'][];
  cancel: { readonly id: string };
  launch: { readonly work: Work };
  transfer: { readonly work: Transfer };
  /** Several transfers in this order. */
  transferEach: readonly Transfer[];
  claim: { readonly claim: Claim };
};

/** Kernel work: its result comes back as a delivered message. */
export type Work =
  | { readonly kind: 'step'; readonly plan: StepPlan }
  | { readonly kind: 'release-slots'; readonly slots: readonly number[] }
  | { readonly kind: 'let-go'; readonly step: number }
  | { readonly kind: 'count-loads' }
  /** For the expert map; what comes of it is for that. */
  | { readonly kind: 'experts'; readonly expert_map: Address; readonly work: ExpertWork }
  /** Weights of a group that is to take part, or stands by. */
  | { readonly kind: 'furnish'; readonly scaling: Address; readonly query: number; readonly source: number; readonly broadcast: WeightBroadcast | null }
  | { readonly kind: 'send-weights'; readonly broadcast: WeightBroadcast }
  | { readonly kind: 'clear' }
  | { readonly kind: 'reset' };

/**
 * What may cross its receiver's end on the way and then finds nobody, which is harmless: the sender could not know.
 * Anything else that comes for an actor that is gone is a defect.
 */
export const MAY_COME_LATE: Readonly<Partial<Record<Role, ReadonlySet<Message['type']>>>> = {
  request: new Set(['CANCEL']),
  job: new Set(['CANCEL', 'CHOICE_STOPPED', 'DECODE_CHOSEN']),
  task: new Set(['CANCEL', 'STOP_STRING_FOUND', 'EXECUTOR_LOST', 'EXPERTS_LOST', 'HANDED_OVER', 'NOTHING_LEFT', 'HANDED_BACK']),
  // Its request has left already, and its job is on its way out.
  'job-executor': new Set(['CHOOSE_DECODE', 'PING']),
  npu: new Set(['RELEASE_SLOTS', 'LET_GO', 'PING']),
};

// ── Ids ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Choices of one request; a task's id is request × this + choice. */
export const CHOICES_MAX = 128;
/** Request ids wrap here, so that task ids stay below 2³². */
export const REQUEST_IDS = 2 ** 24;
const DECODE_TASKS = REQUEST_IDS * CHOICES_MAX;
/** A choice's only or first task; its decode task, where it has one of its own. */
export const taskId = (sequence: { readonly request: number; readonly choice: number }): number => sequence.request * CHOICES_MAX + sequence.choice;
export const decodeTaskId = (sequence: { readonly request: number; readonly choice: number }): number => DECODE_TASKS + taskId(sequence);
export const isDecodeTask = (id: number): boolean => id >= DECODE_TASKS;
/** The request and the choice that a task is for. */
export const choiceOfTask = (id: number): { readonly request: number; readonly choice: number } => ({
  request: Math.floor((id % DECODE_TASKS) / CHOICES_MAX),
  choice: id % CHOICES_MAX,
});
