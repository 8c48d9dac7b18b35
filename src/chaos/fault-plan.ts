/**
 * A fault plan: a pod, what its callers ask, and what goes wrong when. With the seed in it a plan is one run; as a file it is YAML, or JSON, which YAML reads too.
 *
 *   seed: 7
 *   pod: { topology: 'pd:prefill=1,decode=1', workers: 2 }
 *   calls:
 *     - { key: 1, prompt_tokens: 40, max_tokens: 8 }
 *   faults:
 *     - { kind: worker-lost, worker: 1, at: { phase: kv-transfer } }
 *
 * @module
 */
import * as z from 'zod';
import { parseOptions } from '../options/options.ts';
import { SUCCESSOR_NS } from '../pod/virtual-pod.ts';
import { NS_PER_MS } from '../runtime/virtual-host.ts';

/** Named limits of one plan. */
export const LIMITS = {
  faults_max: 64,
  calls_max: 64,
  shapes_max: 16,
  rebalances_max: 16,
  choices_max: 4,
  for_ms_max: 60_000,
  pause_ms_max: 100,
  frames_max: 4_096,
  clock_factor_min: 0.05,
  clock_factor_max: 100,
  at_ms_max: 600_000,
} as const;

/** Moments that a fault may wait for, each the delivery of a message that begins it; `dispatch` strikes before the step begins, so that it meets the fault half-way. */
export const PHASES = ['admission', 'prefill', 'decode', 'dispatch', 'kv-transfer', 'rebalance', 'scaling', 'takeover'] as const;
export type Phase = (typeof PHASES)[number];

/** What a moment is told by. */
const MOMENTS = ['ms', 'event', 'phase'] as const;
const isTold = (moment: unknown): boolean =>
  typeof moment !== 'object' || moment === null || MOMENTS.filter((name) => Object.hasOwn(moment, name)).length === 1;

const momentWith = <There extends z.ZodType<boolean>>(there: There) =>
  z.union(
    [
      /** Milliseconds of virtual time after the first call. */
      z.strictObject({ ms: z.number().min(0).max(LIMITS.at_ms_max) }),
      /** When so many events have happened since the first call. */
      z.strictObject({ event: z.int().min(1) }),
      /** When the phase comes for the `nth` time. */
      z.strictObject({ phase: z.enum(PHASES), nth: z.int().min(1).default(1), there }),
    ],
    {
      // Else what is wrong with one of them is said, as if nothing else could be meant.
      error: ({ input }) => (isTold(input) ? undefined : `must have one of ${MOMENTS.join(', ')}, as { ms: 0.5 }, { event: 120 } or { phase: decode, nth: 2 }`),
    },
  );
/** `there`: whom its phase has come to, or what it came by, in place of whom the fault names, if there is one of that kind. */
const moment = momentWith(z.boolean().default(false));
export type Moment = z.output<typeof moment>;
const at = moment.default({ ms: 0 });
/** Of what is nowhere that a phase comes to, or by. */
const when = momentWith(z.literal(false, 'must be left out: this kind of fault is the same whomever its phase comes to').default(false)).default({ ms: 0 });
const worker = z.int().min(0);
const npu = z.int().min(0);
const id = z.int().min(0);
const for_ms = z.number().positive().max(LIMITS.for_ms_max);
/** A worker, or the thread of the control plane. */
const thread = z.union([worker, z.literal('control')]);
/** What takes once as long as ever is no fault. */
const slower = z.number().gt(1);
/** Which messages: of the type, if one is named, and of those a share. */
const messages = { type: z.string().optional(), share: z.number().gt(0).max(1).default(1), at: when, for_ms };
/**
 * Of those that go by a link from thread to thread, which guards them. `within_threads`: what stays on one, which nothing guards nor any real fault touches, too:
 * so whoever asks for that sees what a run says of a pod that is broken.
 */
const crossing = { ...messages, within_threads: z.boolean().default(false) };

const faultSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('worker-lost'), worker, at }),
  z.strictObject({ kind: z.literal('controllers-lost'), worker, at }),
  /** `successor_ms`: until another one runs in its place, and all others with it. */
  z.strictObject({
    kind: z.literal('control-lost'),
    successor_ms: z
      .number()
      .min(0)
      .max(LIMITS.for_ms_max)
      .default(SUCCESSOR_NS / NS_PER_MS),
    at: when,
  }),
  /** A worker is declared dead, and goes on writing until its successor begins. */
  z.strictObject({ kind: z.literal('zombie-writes'), worker, at }),
  /** The worker that holds the expert, of those that hold a copy of it the one named. */
  z.strictObject({ kind: z.literal('expert-lost'), executor: id.default(0), expert: id, copy: id.default(0), at: when }),
  z.strictObject({ kind: z.literal('worker-hangs'), worker, at, for_ms }),
  /** As for collecting garbage: nothing happens on it meanwhile. */
  z.strictObject({ kind: z.literal('thread-pauses'), thread, at, for_ms: z.number().positive().max(LIMITS.pause_ms_max) }),
  z.strictObject({ kind: z.literal('npu-hangs'), npu, at, for_ms }),
  z.strictObject({ kind: z.literal('npu-slow'), npu, factor: slower.max(1_000), at, for_ms }),
  z.strictObject({ kind: z.literal('npu-jitter'), npu, factor: slower.max(1_000), at, for_ms }),
  z.strictObject({ kind: z.literal('step-fails'), npu, at }),
  z.strictObject({ kind: z.literal('dp-group-hangs'), id, at, for_ms }),
  z.strictObject({ kind: z.literal('task-executor-hangs'), id, at, for_ms }),
  z.strictObject({ kind: z.literal('job-executor-hangs'), id, at, for_ms }),
  z.strictObject({ kind: z.literal('cluster-manager-hangs'), id, at, for_ms }),
  /** The actor throws, and its thread ends by that. */
  z.strictObject({ kind: z.literal('npu-crashes'), npu, at }),
  z.strictObject({ kind: z.literal('dp-group-crashes'), id, at }),
  z.strictObject({ kind: z.literal('task-executor-crashes'), id, at }),
  z.strictObject({ kind: z.literal('job-executor-crashes'), id, at }),
  z.strictObject({ kind: z.literal('cluster-manager-crashes'), id, at }),
  z.strictObject({ kind: z.literal('link-slow'), from: thread, to: thread, factor: slower.max(10_000), at, for_ms }),
  z.strictObject({ kind: z.literal('link-cut'), from: thread, to: thread, both: z.boolean().default(false), at, for_ms }),
  /** The reader takes a frame once in `every_ms`, and no more than `frames` find room in the ring: the others wait at their sender. */
  z.strictObject({ kind: z.literal('ring-full'), from: thread, to: thread, frames: z.int().min(1).max(LIMITS.frames_max), every_ms: for_ms, at, for_ms }),
  /** What the run is recorded on takes so many bytes more. */
  z.strictObject({ kind: z.literal('trace-disk-full'), bytes: z.int().min(0).default(0), at: when }),
  /** Fast ones for less long: a pod that looks after itself twenty times as often has soon had as many events as a run may (EVENTS_MAX, run.ts). */
  z
    .strictObject({
      ...{ kind: z.literal('clock-skew'), thread, at, for_ms },
      factor: z
        .number()
        .min(LIMITS.clock_factor_min)
        .max(LIMITS.clock_factor_max)
        .refine((factor) => factor !== 1, 'must be less or more than 1: timers that run once as long are not wrong'),
    })
    .refine(({ factor, for_ms }) => for_ms <= LIMITS.for_ms_max * factor || factor > 1, {
      path: ['for_ms'],
      error: `must be at most ${LIMITS.for_ms_max} times factor: so long its timers run meanwhile`,
    }),
  /** When so many chunks have come, 0: as soon as it has asked; or `at` a time, wherever its request is then. */
  z
    .strictObject({ kind: z.literal('client-gone'), call: z.int().min(0), after_chunks: z.int().min(0).optional(), at: moment.optional() })
    .refine((fault) => fault.after_chunks === undefined || fault.at === undefined, {
      path: ['at'],
      error: 'a client leaves after_chunks, or at a time: leave one of them out',
    }),
  z.strictObject({ kind: z.literal('client-slow'), call: z.int().min(0), turns: z.int().min(1).max(64) }),
  /** Of a type that is named those within a thread too: there, too, mail waits for its turn. */
  z.strictObject({ kind: z.literal('message-delayed'), delay_ms: for_ms, ...messages }),
  z.strictObject({ kind: z.literal('message-dropped'), ...crossing }),
  /** `late_ms`: so much later comes the copy. */
  z.strictObject({ kind: z.literal('message-duplicated'), late_ms: z.number().min(0).max(LIMITS.for_ms_max).default(0), ...crossing }),
  z.strictObject({ kind: z.literal('message-reordered'), delay_ms: for_ms, ...crossing }),
  z.strictObject({ kind: z.literal('message-corrupted'), ...crossing }),
  /** Of the `block`-th of those that hold something, counted round. */
  z.strictObject({ kind: z.literal('kv-bit-flip'), npu, block: z.int().min(0).default(0), bit: z.int().min(0).default(0), at }),
  /** Of the `block`-th of those below the NPU that hold what lies nowhere else, counted round. */
  z.strictObject({ kind: z.literal('dram-bit-flip'), npu, block: z.int().min(0).default(0), bit: z.int().min(0).default(0), at }),
  /** Of the next rows of activations on their way from or to the NPU's memory, or the next one's that has any. */
  z.strictObject({ kind: z.literal('row-bit-flip'), npu, bit: z.int().min(0).default(0), at }),
  /** Of the `part`-th of the NPU's weights, its slots' among them, counted round. */
  z.strictObject({ kind: z.literal('weights-bit-flip'), npu, part: z.int().min(0).default(0), bit: z.int().min(0).default(0), at }),
]);
export type Fault = z.output<typeof faultSchema>;
export type FaultInput = z.input<typeof faultSchema>;
export type FaultKind = Fault['kind'];
export type FaultOf<Kind extends FaultKind> = Extract<Fault, { readonly kind: Kind }>;
export const FAULT_KINDS: readonly FaultKind[] = faultSchema.options.map(({ shape }) => shape.kind.value);

const callSchema = z.strictObject({
  /** So many milliseconds after the first call. */
  ms: z.number().min(0).max(LIMITS.at_ms_max).default(0),
  /** Another key is another prompt of the same length. */
  key: z.int().min(0).default(0),
  prompt_tokens: z.int().min(1).max(4096).default(8),
  /** So many of its first tokens are those of all calls. */
  stem_tokens: z.int().min(0).default(0),
  max_tokens: z.int().min(1).max(4096).default(8),
  n: z.int().min(1).max(LIMITS.choices_max).default(1),
  /** Missing: it takes as long as it takes. */
  deadline_ms: z.number().positive().optional(),
  priority: z.int().optional(),
  /** As for `generate`. */
  data_parallel_rank: z.int().min(0).optional(),
  speculative_decoding: z.boolean().optional(),
  top_k: z.int().min(1).optional(),
  frequency_penalty: z.number().min(-2).max(2).optional(),
});
export type ChaosCall = z.output<typeof callSchema>;

/** A change of the pod's shape, asked for so many milliseconds after the first call; it may fail where something is broken, and the shape is the old one then. */
const shapeSchema = z.strictObject({
  ms: z.number().min(0).max(LIMITS.at_ms_max),
  /** Where the pod has several. */
  executor: id.optional(),
  attention: z.int().min(1).optional(),
  experts: z.int().min(1).optional(),
  deadline_ms: z.int().min(1).max(LIMITS.for_ms_max).default(1_000),
});

/** Experts are to be placed anew, whether it pays or not, so many milliseconds after the first call. */
const rebalanceSchema = z.strictObject({ ms: z.number().min(0).max(LIMITS.at_ms_max) });

const NOT_OF_THE_POD = {
  clock: 'a plan runs in virtual time, so leave it out; minipod chaos live strikes real threads',
  seed: "the plan's own seed is the pod's: leave it out, and say seed beside pod",
  record: 'a plan says nothing of files: leave it out, and run the plan with --record FILE',
} as const;

const planSchema = z.strictObject({
  /** Of the interleaving, and of whatever a fault draws. */
  seed: z.int().min(0).default(0),
  /** As for createPod, but for what a plan says itself; `kernels` may be real. */
  pod: z
    .record(z.string(), z.unknown())
    .superRefine((pod, refused) => {
      for (const [name, why] of Object.entries(NOT_OF_THE_POD))
        if (pod[name] !== undefined && !(name === 'clock' && pod[name] === 'virtual')) refused.addIssue({ code: 'custom', path: [name], message: why });
    })
    .default({}),
  /** The model as if its one MTP layer stood there twice: no token depends on it. */
  mtp_layers: z.literal(2).optional(),
  calls: z.array(callSchema).min(1).max(LIMITS.calls_max),
  shapes: z.array(shapeSchema).max(LIMITS.shapes_max).optional(),
  rebalances: z.array(rebalanceSchema).max(LIMITS.rebalances_max).optional(),
  faults: z.array(faultSchema).max(LIMITS.faults_max).default([]),
});
export type ChaosPlan = z.output<typeof planSchema>;
export type ChaosPlanInput = z.input<typeof planSchema>;

/** @throws `invalid_request` naming the field */
export const parsePlan = (input: unknown, where = 'the plan'): ChaosPlan => parseOptions(planSchema, input, where);
