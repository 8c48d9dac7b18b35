/** What crosses threads comes out as it went in, or is refused at the sender. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Address, address, expertAddress, idOf, ROLES, roleIndexOf, roleOf, toAddress } from '../../src/protocol/address.ts';
import type { ChunkRecord, PodToCaller } from '../../src/protocol/caller.ts';
import * as constructors from '../../src/protocol/constructors.ts';
import { fromErrorRecord, MinipodError, toErrorRecord } from '../../src/protocol/errors.ts';
import { CHOICES_MAX, choiceOfTask, decodeTaskId, REQUEST_IDS, type Sequence, taskId } from '../../src/protocol/messages.ts';
import type { ReplyPart } from '../../src/protocol/output.ts';
import { expertsNowhere } from '../../src/protocol/role-switch.ts';
import * as threads from '../../src/protocol/threads.ts';
import { Codec, PROTOCOL_HASH } from '../../src/protocol/wire.ts';

const sequence: Sequence = {
  request: 7,
  choice: 1,
  prompt: [1, 2, 2_047],
  max_tokens: 9,
  sampling: {
    temperature: 0.7,
    top_p: 0.9,
    top_k: -1,
    min_p: 0.1,
    seed: -(2 ** 50),
    min_tokens: 0,
    stop_token_ids: [6, 2],
    logprobs: -1,
    prompt_logprobs: 2,
    bias_ids: [5],
    bias_values: [-100],
    presence_penalty: 0.1,
    frequency_penalty: -0.2,
    repetition_penalty: 1.1,
  },
  ...constructors.NO_TERMS,
  cache_salt: 'tenant',
};
const error = { code: 'worker_failed', message: 'it failed', param: null } as const;
const logprobs = { logprob: -1.5, top_ids: [3], top_logprobs: [-0.1] };
const tokenLogprob = { token_id: 5, token: 'é', bytes: [0xc3, 0xa9], logprob: -1.5 };
const position = { chosen: tokenLogprob, top: [tokenLogprob] };
const chunk: ChunkRecord = {
  ...{ request: 2 ** 20 + 7, choice: 1, index: 3, text: 'é', token_ids: [5], logprobs: [position], finish: 'stop' },
  ...{ stop_string: 'é', stop_token: -1, cached: 2, drafted: -1, parsed: null },
};
const parts: readonly ReplyPart[] = [
  { kind: 'reasoning', text: 'é' },
  { kind: 'call', index: 0, name: 'f', id: null },
  { kind: 'arguments', index: 0, text: '{}' },
];
const parsed = { parts, reasoning_tokens: 1 };
const told: readonly PodToCaller[] = [
  { type: 'PROMPT', request: 7, token_ids: [1, 2], records: [0, 4] },
  { type: 'PROMPT_LOGPROBS', request: 2 ** 20 + 7, start: 1, logprobs: [position] },
  { type: 'SCHEDULED_CALL', request: 7 },
  { type: 'CHUNKS', chunks: [chunk, { ...chunk, logprobs: null, finish: null, stop_string: null, parsed }] },
  { type: 'TEXT_FAILED', request: 2 ** 20 + 7, error },
  { type: 'ENDED', request: 7, error },
];

/** Messages that cross a ring. */
const crossing: readonly object[] = [
  constructors.enqueueSequence('task/1', sequence),
  constructors.enqueueSequence('task/2147483649', sequence, 'decode', {
    output: [5],
    offer: { npu: 1, die: 1, epoch: 1, slot: 2, serial: 3, blocks: [4, 0] },
    ahead: true,
  }),
  constructors.lent({ output: [], offer: { npu: 1, die: 1, epoch: 1, slot: 2, serial: 3, blocks: [4, 0] }, ahead: true }),
  constructors.prefilled({ output: [5], offer: { npu: 1, die: 1, epoch: 1, slot: 2, serial: 3, blocks: [4, 0] }, ahead: false }),
  constructors.handOver('task/2147483649', [5]),
  constructors.handOver('task/2147483649', [5], [6, 7]),
  constructors.handedOver([5], [6, 7]),
  constructors.transferred(),
  constructors.receiving(),
  constructors.abandon('task/1'),
  constructors.scheduled(),
  constructors.decoding(),
  constructors.preempted(),
  constructors.generated(),
  constructors.generationFailed(error),
  constructors.generationFailed({ ...error, code: 'overloaded', retry_after_ms: 700 }),
  constructors.abandoned(),
  constructors.step({
    step: 4,
    after: 3,
    entries: [
      {
        ...{ slot: 0, start: 8, tokens: [-1], first_block: 1, blocks: [7], shared: 0 },
        ...{ generated: 2, samples: true, drafts: 0, foresees: -1, attach: sequence, output: [5] },
      },
    ],
    detach: [2],
  }),
  constructors.releaseSlots([2]),
  constructors.letGo(7),
  constructors.stepDone(
    1,
    4,
    [{ token: 5, logprobs, more: [{ token: 6, logprobs: null }], drafts: [6, 7], prompt_logprobs: [logprobs], error: null }],
    2 ** 32 - 1,
    950,
    120,
  ),
  constructors.stepFailed(1, 4, error),
  constructors.reset(2),
  constructors.rankReset(1, 2),
  constructors.rankLost(1, error),
  constructors.rankBack(1),
  constructors.npuReady(3, [{ tokens: 8, attended: 36, us: 0.5 }]),
  constructors.lead('task-executor/0', 3, [0, 2], { base_us: 1.5, token_us: 2, attended_us: 0 }, { tokens: 9, groups: 1 }),
  constructors.groupWanted({ task: 'task/1', prompt_tokens: 70, marks: [1, 2 ** 32 - 1], priority: -2 }),
  constructors.groupUnwanted('task/1'),
  constructors.statusWanted('dp-group/0', 3),
  constructors.groupStatus({ group: 2, backlog_tokens: 9, longest_tokens: 7, decodes: 3 }, null),
  constructors.groupChosen('task/1', 2),
  constructors.npuLost(3, error),
  constructors.npuGone(3, error),
  constructors.expertsLost(error),
  expertsNowhere(error, [2], [3]),
  expertsNowhere(null, [], []),
  constructors.maskExperts([2]),
  constructors.executorGone('task-executor/1', error),
  constructors.rankBack(3),
  constructors.rankLost(3, error),
  ...told,
  constructors.promptComputed('request/1'),
  constructors.submit([sequence]),
  constructors.choiceStopped(1),
  constructors.place('task/1', sequence, [7]),
  constructors.withdraw('task/1'),
  constructors.release('task/1'),
  constructors.placed('dp-group/1'),
  constructors.executorLost(error),
  constructors.executorReady('task-executor/0'),
  constructors.requestRunning('request/1'),
  constructors.requestMoved('request/1'),
  constructors.requestEnded('request/1', null),
  constructors.jobExecutors(2, [constructors.memberLife('job-executor/0', 1)]),
  constructors.members([constructors.memberLife('job-executor/0', 1)], []),
  constructors.memberReady('job-executor/1', 2),
  constructors.memberLost('job-executor/1', 1),
  constructors.join('job-executor/1', 2),
  constructors.disown('job-executor/1', 1),
  constructors.takeOver('job-executor/1', 1),
  constructors.takenOver('job-executor/1', 1),
  threads.threadStarted(1),
  threads.threadPeerLost(1, true),
  threads.threadPeerDetached(1),
  threads.threadPeerRestarted(1, 4, 3, [8, 9]),
  threads.threadReport(4, 'measure'),
  threads.threadReported(
    4,
    1,
    [
      {
        npu: 0,
        state: 'idle',
        kv_blocks: 9,
        kv_blocks_used: 0,
        kv_blocks_cached: 2,
        kv_blocks_mapped_out: 0,
        requests_running: 0,
        requests_waiting: 0,
        steps: 1,
        tokens_prefilled: 2,
        tokens_decoded: 3,
        preemptions: 4,
        drafting: { drafts: 2, draft_tokens: 5, accepted_tokens: 3, accepted_at: [2, 1] },
        prefix_queries: 40,
        prefix_hits: 16,
        kv_lent: 2,
        kv_expected: 1,
        kv_leases_expired: 3,
        kv_transfers_open: 2,
        dram_blocks_used: 0,
        dram_blocks_mapped_out: 0,
        blocks_swapped_out: 0,
        blocks_swapped_in: 0,
        hits_refused: 0,
        blocks_populated: 0,
        blocks_lent: 0,
        remote_hits: 0,
        remote_hits_refused: 0,
        remote_hits_missed: 0,
        die: 0,
        kv_blocks_held: 1,
        kv_blocks_held_max: 5,
        fields_written: 6,
        fields_stale: 0,
        dispatches_written: 11,
        dispatches_served: 12,
        dispatches_refused: 0,
        rows_damaged: 1,
        pulled_bytes: 2 ** 33,
        reply_bytes: 256,
        reply_bytes_max: 768,
        decode_steps_us: [0, 0, 3, 1],
        decode_steps_us_sum: 17,
        step_gaps_us: [2, 1],
        step_gaps_us_sum: 2.5,
      },
    ],
    [
      {
        peer: 0,
        lane: 'data',
        frames: 2,
        bytes: 3,
        full: 4,
        wakes: 5,
        waiting: 6,
        waiting_bytes: 7,
        stalled_ms: 8,
        ring_free_bytes: 9,
        slab_free_bytes: 10,
        slab_bytes: 11,
        slab_bytes_max: 12,
        received_frames: 13,
        received_bytes: 14,
        stale: 15,
        latencies_us: [0, 1, 0],
        latency_us_sum: 1,
      },
    ],
    [
      {
        source: 0,
        target: 2,
        fabric: 'memory',
        started: 9,
        done: 4,
        bytes: 2 ** 33,
        wasted_bytes: 100,
        failed: { cancelled: 1, refused: 2, expired: 0, stale: 1, corrupt: 0, source_lost: 0, fault: 0, link_broken: 0, given_up: 1 },
        ...{ probes_passed: 3, probes_broken: 1, probe_us_max: 250 },
      },
    ],
    [{ npu: 1, layer: 3, expert: 9, queued: 4, batches: 2, tokens: 6, us_sum: 10.5, counts: [0, 2, 0] }],
    { collections: 7, collections_chosen: 5, collections_us_sum: 9_000.5, collections_us_max: 4_000.25 },
    ['task X gone'],
  ),
];

describe('the codec', () => {
  it.each(crossing.map((message) => ({ message, type: (message as { type: string }).type })))('carries $type', ({ message }) => {
    expect(new Codec().decode(new Codec().encode(message))).toEqual(message);
  });

  it('carries numbers bit for bit, safe integers of any size and any float', () => {
    const codec = new Codec();
    fc.assert(
      fc.property(
        fc.oneof(
          fc.maxSafeInteger(),
          fc.double({ noDefaultInfinity: true, noNaN: true }).filter((value) => !Object.is(value, -0)),
        ),
        (seed) => {
          const message = constructors.enqueueSequence('task/1', { ...sequence, sampling: { ...sequence.sampling, seed } });
          expect(codec.decode(codec.encode(message))).toEqual(message);
        },
      ),
    );
  });

  it('refuses a shape that is not declared, and the same keys in another order; and goes on', () => {
    const codec = new Codec();
    for (const message of [
      { type: 'X', unheard: 1 },
      { task: 'task/1', type: 'ABANDON' },
      { type: 'ABANDON', task: { nested: 1 } },
    ]) {
      expect(() => codec.encode(message)).toThrow(/does not declare the shape/);
      expect(() => codec.encode(message)).toThrow(/does not declare the shape/);
      expect(codec.decode(codec.encode(constructors.abandon('task/2')))).toEqual(constructors.abandon('task/2'));
    }
  });

  it('has a hash for the handshake', () => {
    expect(PROTOCOL_HASH).toBeGreaterThan(0);
    expect(Number.isInteger(PROTOCOL_HASH)).toBe(true);
  });
});

describe('addresses', () => {
  it('survive the wire as role and 32-bit id', () => {
    const plain = fc
      .tuple(fc.constantFrom(...ROLES.filter((role) => role !== 'expert')), fc.integer({ min: 0, max: 2 ** 32 - 1 }))
      .map(([role, id]) => address(role, id));
    const expert = fc
      .tuple(fc.integer({ min: 0, max: 63 }), fc.integer({ min: 0, max: 1_023 }), fc.integer({ min: 0, max: 65_535 }))
      .map(([executor, layer, id]) => expertAddress(executor, layer, id));
    fc.assert(
      fc.property(fc.oneof(plain, expert), (to) => {
        const id = idOf(to);
        expect(id >>> 0).toBe(id);
        expect(toAddress(roleIndexOf(to), id)).toBe(to);
      }),
    );
    expect(roleOf('expert/4.12')).toBe('expert');
    expect(() => roleIndexOf('nobody/1' as Address)).toThrow(/no role/);
    expect(() => toAddress(99, 0)).toThrow(/not in the protocol/);
    expect(expertAddress(0, 4, 12)).toBe('expert/4.12');
    expect(() => expertAddress(0, 0, 65_536)).toThrow(/range/);
    expect(() => expertAddress(0, 1_024, 0)).toThrow(/range/);
    expect(() => expertAddress(64, 0, 0)).toThrow(/range/);
  });

  it('of tasks tell request and choice, and fit 32 bits', () => {
    expect(taskId({ request: REQUEST_IDS - 1, choice: CHOICES_MAX - 1 })).toBe(2 ** 31 - 1);
    expect(decodeTaskId({ request: REQUEST_IDS - 1, choice: CHOICES_MAX - 1 })).toBe(2 ** 32 - 1);
    for (const id of [taskId, decodeTaskId]) expect(choiceOfTask(id({ request: 77, choice: 5 }))).toEqual({ request: 77, choice: 5 });
    expect(taskId({ request: 1, choice: 0 })).not.toBe(taskId({ request: 0, choice: CHOICES_MAX - 1 }));
  });
});

describe('errors', () => {
  it('cross threads as plain records with code, message and parameter', () => {
    const thrown = new MinipodError('invalid_request', 'top_p: too large', { param: 'top_p' });
    expect(fromErrorRecord(toErrorRecord(thrown))).toMatchObject({
      code: 'invalid_request',
      message: 'top_p: too large',
      param: 'top_p',
      name: 'MinipodError',
    });
    expect(toErrorRecord(new TypeError('x'))).toEqual({ code: 'internal', message: 'x', param: null });
  });
});
