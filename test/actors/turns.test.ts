/** Whose turn it is at an NPU: better priorities go first, and nobody waits for ever. */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { SchedulerLimits } from '../../actors/policies/scheduler-limits.ts';
import { PATIENCE_STEPS } from '../../actors/policies/scheduler-limits.ts';
import { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { type Address, address, idOf } from '../../src/protocol/address.ts';
import { PLAIN_TEXT } from '../../src/protocol/constructors.ts';
import type { Sequence } from '../../src/protocol/messages.ts';
import { GREEDY } from '../golden/greedy.ts';
import { runs } from '../property-runs.ts';
import { FakeNpu } from './fake-npu.ts';

const BLOCK = 4;
const LIMITS: SchedulerLimits = {
  kv_blocks: 40,
  kv_block_size: BLOCK,
  batch_tokens_max: 16,
  batch_requests_max: 4,
  has_prefix_cache: true,
  is_asynchronous: true,
  has_priorities: true,
  dram_blocks: 0,
  cache_costs: null,
  lends_by_layer: false,
  offers_max: 8,
  shares_prefixes: false,
};

class Rig {
  readonly scheduler: StepScheduler;
  readonly #npu = new FakeNpu(BLOCK, LIMITS.batch_tokens_max);
  /** In this order, so often as it happened. */
  readonly scheduled: number[] = [];
  readonly preempted: number[] = [];
  readonly ended = new Set<number>();
  /** By request: its step. */
  readonly arrivals: number[] = [];
  step = 0;

  constructor(limits: Partial<SchedulerLimits> = {}) {
    this.scheduler = new StepScheduler({ ...LIMITS, ...limits }, 'dp-group/0');
  }

  arrive(priority: number, { prompt = 6, max_tokens = 4 } = {}): number {
    const request = this.arrivals.length;
    const sequence: Sequence = {
      request,
      choice: 0,
      prompt: Array.from({ length: prompt }, (_, at) => 1_000 * request + at),
      max_tokens,
      sampling: GREEDY,
      cache_salt: '',
      data_parallel_rank: -1,
      priority,
      context: '',
      output: [],
      held: null,
      drafts: true,
      text: PLAIN_TEXT,
    };
    this.arrivals.push(this.step);
    this.scheduler.enqueue(address('task', request), sequence);
    return request;
  }

  /** Who still runs of those who came, the first first. */
  get oldestRunning(): number | undefined {
    return [...this.arrivals.keys()].find((request) => this.#running.has(request) && !this.ended.has(request));
  }

  readonly #running = new Set<number>();

  run(): void {
    const planned = this.scheduler.plan();
    if (planned === null) return;
    const oldest = this.oldestRunning;
    for (const { to, message } of [...planned.messages, ...this.scheduler.retire(this.#npu.run(planned.plan))]) this.#hear(to, message.type, oldest);
    this.step++;
  }

  #hear(to: Address, type: string, oldest: number | undefined): void {
    if (!to.startsWith('task/')) return;
    const request = idOf(to);
    if (type === 'SCHEDULED') {
      this.scheduled.push(request);
      this.#running.add(request);
    } else if (type === 'PREEMPTED') {
      expect(request).not.toBe(oldest);
      this.preempted.push(request);
      this.#running.delete(request);
    } else if (type === 'GENERATED') this.ended.add(request);
  }
}

describe('the turns of an NPU', () => {
  it('go by priority, and by arrival among those alike; first come, first served is the baseline', () => {
    for (const has_priorities of [true, false]) {
      const rig = new Rig({ batch_requests_max: 1, has_priorities });
      const requests = [0, 3, -2, 0, -2].map((priority) => rig.arrive(priority));
      while (rig.scheduler.hasWork) rig.run();
      expect(rig.scheduled).toEqual(has_priorities ? [2, 4, 0, 3, 1] : requests);
    }
  });

  it('come for everyone, whoever arrives: nobody is overtaken by what came later than its patience', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 2 }),
        fc.integer({ min: -3, max: 3 }),
        fc.integer({ min: 1, max: 3 }),
        fc.boolean(),
        (worse, best, each, isShort) => {
          const rig = new Rig({ kv_blocks: isShort ? 6 : 40 });
          for (let count = 0; count < 6; count++) rig.arrive(best);
          rig.run();
          const patient = rig.arrive(best + worse);
          const came = rig.step;
          for (let steps = 0; !rig.ended.has(patient); steps++) {
            // It could be served at once, and there is always more than the NPU can do that would go before it.
            for (let count = 0; count < each + 1; count++) rig.arrive(best);
            rig.run();
            expect(steps).toBeLessThan(40 * PATIENCE_STEPS);
          }
          const before = rig.scheduled.slice(0, rig.scheduled.indexOf(patient));
          const latest = Math.max(...before.map((request) => rig.arrivals[request] as number));
          expect(latest).toBeLessThanOrEqual(came + PATIENCE_STEPS * worse);
          expect(latest).toBeGreaterThan(came + PATIENCE_STEPS * worse - 8);
        },
      ),
      { numRuns: runs(12) },
    );
  });

  it('never make the oldest give way, whatever its priority', () => {
    let preempted = 0;
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.integer({ min: -3, max: 3 }), fc.integer({ min: 1, max: 30 })), { minLength: 2, maxLength: 12 }), (calls) => {
        const rig = new Rig({ kv_blocks: 10, is_asynchronous: false });
        for (const [priority, max_tokens] of calls) {
          rig.arrive(priority, { max_tokens });
          rig.run();
        }
        for (let steps = 0; rig.scheduler.hasWork; steps++) {
          rig.run();
          expect(steps).toBeLessThan(20_000);
        }
        expect(rig.ended.size).toBe(calls.length);
        preempted += rig.preempted.length;
      }),
      { numRuns: runs(60) },
    );
    expect(preempted).toBeGreaterThan(50);
  });
});
