/**
 * Attention NPUs and expert NPUs of a whole SuperPod on a virtual clock, layer by layer: the engine's own step programs, exchanges and domains, of the hash model. An
 * NPU does one thing at a time, for as long as a cost model says; what it writes to another one's metadata is seen there a hop later. Nothing else is simulated.
 * @module
 */
import type { ExpertMap } from '../actors/policies/expert-placement/expert-map.ts';
import { StepScheduler } from '../actors/policies/step-scheduler.ts';
import { offsetOf } from '../src/fabric/address.ts';
import { AddressSpace } from '../src/fabric/address-space.ts';
import { allocateSegments } from '../src/fabric/memory-plan.ts';
import type { ExpertService } from '../src/flowserve/experts/expert-service.ts';
import type { Span } from '../src/flowserve/forward/arithmetic.ts';
import { HashExperts } from '../src/flowserve/hash-model/hash-experts.ts';
import { HashForward } from '../src/flowserve/hash-model/hash-forward.ts';
import { type HashExpertLayout, type HashLayout, loadHashWeights, planHashPod } from '../src/flowserve/hash-model/hash-layout.ts';
import type { ModelShape } from '../src/flowserve/layouts/step-layout.ts';
import { areasOfDie } from '../src/flowserve/pod-plan.ts';
import { StepProgram } from '../src/flowserve/steps/step-program.ts';
import { newExpertService } from '../src/flowserve/steps/turns.ts';
import { address } from '../src/protocol/address.ts';
import { NO_TERMS } from '../src/protocol/constructors.ts';
import { parseTopology, type Schedule } from '../src/protocol/topology.ts';
import { EventQueue } from '../src/runtime/event-queue.ts';
import type { Areas, Channel } from '../src/xccl/areas.ts';
import { Endpoint } from '../src/xccl/endpoint.ts';
import { Exchange } from '../src/xccl/exchange.ts';
import { GREEDY } from './greedy.ts';

export type TimedOptions = {
  readonly topology: string;
  readonly schedule: Schedule;
  readonly model: ModelShape;
  /** Sequences of each attention NPU, and tokens that each generates at most. */
  readonly batch: number;
  readonly tokens_max: number;
  /** Attention of so many rows in one layer, on an NPU. */
  readonly attention_ns: (npu: number, rows: number) => number;
  /** One expert on so many rows. */
  readonly expert_ns: (rows: number) => number;
  /** From a write to where it is seen. */
  readonly hop_ns: number;
  /** By attention NPU: whether it has any sequences. */
  readonly isAsked: (npu: number) => boolean;
  /** Which experts a row goes to, in place of the gate's choice: so many different ones, ascending. Missing: the hash model's, which are even. */
  readonly choose?: (layer: number) => readonly number[];
  /** So many slots beyond one for each expert, and what all hold; missing: none. */
  readonly placed?: { readonly redundant: number; readonly map: ExpertMap };
};

type Choose = TimedOptions['choose'];

type Event = { readonly time_ns: number; readonly order: number; readonly act: () => void };
type Npu = { readonly program: StepProgram<HashForward> | null; readonly service: ExpertService; readonly scheduler: StepScheduler | null };

/** Of one look at an NPU: what it computes adds up here. */
type Meter = { ns: number };

class TimedEndpoint extends Endpoint {
  later: (act: () => void) => void = (act) => act();

  override write(peer: number, channel: Channel, a: number, b: number, c: number, d: number, e: number): number {
    const event = this.nextEvent(peer, channel);
    this.later(() => super.write(peer, channel, a, b, c, d, e));
    return event;
  }
}

class TimedForward extends HashForward {
  readonly #space: AddressSpace;
  readonly #meter: Meter;
  readonly #cost_ns: (rows: number) => number;
  readonly #choose: Choose;

  constructor(config: ModelShape, layout: HashLayout, space: AddressSpace, meter: Meter, cost_ns: (rows: number) => number, choose: Choose) {
    super(config, layout, space);
    this.#choose = choose;
    this.#space = space;
    this.#meter = meter;
    this.#cost_ns = cost_ns;
  }

  override attention(layer: number, rows: number, spans: readonly Span[]): void {
    this.#meter.ns += this.#cost_ns(rows);
    super.attention(layer, rows, spans);
  }

  override gate(layer: number, rows: number, first = 0): void {
    super.gate(layer, rows, first);
    const counts = this.layout.counts[layer] ?? null;
    if (this.#choose === undefined || counts === null) return;
    const words = this.#space.wordsOf(this.layout.base);
    const [chosen, count] = [this.at.experts >>> 2, offsetOf(counts) >>> 2];
    const { topK } = this.config.moe;
    const add = (expert: number, tokens: number): void => {
      words[count + expert] = (words[count + expert] as number) + tokens;
    };
    for (let row = 0; row < rows; row++)
      for (const [slot, expert] of this.#choose(layer).entries()) {
        const at = chosen + row * topK + slot;
        add(words[at] as number, -1);
        add(expert, 1);
        words[at] = expert;
      }
  }

  override second(): TimedForward {
    const { config, layout } = this;
    if (layout.turns === null) throw new Error(`NPU ${layout.npu} has one micro-batch`);
    const { scratch, routing } = layout.turns;
    return new TimedForward(config, { ...layout, scratch, routing }, this.#space, this.#meter, this.#cost_ns, this.#choose);
  }
}

class TimedExperts extends HashExperts<HashExpertLayout> {
  readonly #meter: Meter;
  readonly #cost_ns: (rows: number) => number;

  constructor(config: ModelShape, layout: HashExpertLayout, space: AddressSpace, meter: Meter, cost_ns: (rows: number) => number) {
    super(config, layout, space);
    this.#meter = meter;
    this.#cost_ns = cost_ns;
  }

  override expert(layer: number, expert: number, y: number, x: number, count: number): void {
    this.#meter.ns += this.#cost_ns(count);
    super.expert(layer, expert, y, x, count);
  }
}

/** [layer with experts][slot]. */
const layersOf = ({ shape: { layers, slots }, expertOfSlot }: ExpertMap): number[][] =>
  Array.from({ length: layers }, (_, layer) => [...expertOfSlot.subarray(layer * slots, (layer + 1) * slots)]);

const BLOCK_SIZE = 16;
/** Dispatches that an expert NPU takes at one look. */
const ARRIVED_MAX = 1_024;

export class TimedPod {
  /** Tokens that each attention NPU has generated. */
  readonly tokens: Float64Array;
  readonly bytes: number;
  /** By all NPUs. */
  tokens_all = 0;
  events = 0;
  readonly #options: TimedOptions;
  readonly #npus: Npu[] = [];
  readonly #queue = new EventQueue<Event>();
  readonly #meter: Meter = { ns: 0 };
  /** By NPU: until when it computes; and whether a look at it is in the queue. */
  readonly #busy_ns: Float64Array;
  readonly #isExpected: Uint8Array;
  #now_ns = 0;
  #order = 0;

  constructor(options: TimedOptions) {
    const { topology, schedule, model, batch, tokens_max, placed } = options;
    this.#options = options;
    const plan = planHashPod(model, {
      ...{ topology: parseTopology(topology), schedule, workers: 1, spare_workers: 0, job_executors: 1, max_queued: 1, records_routing: false },
      ...{ kv_blocks: batch * Math.ceil((1 + tokens_max) / BLOCK_SIZE), kv_block_size: BLOCK_SIZE, max_batch_tokens: batch, max_batch_requests: batch },
      ...{ segment_bytes: 2 ** 32 - 65_536, memory_bytes: undefined, prefix_caching: false, async_scheduling: false, scheduling_policy: 'fcfs' },
      ...{
        load_balancing: 'auto',
        long_prompt_groups: 0,
        long_prompt_tokens: 1,
        kv_transfer: 'request',
        enforce_eager: false,
        has_rings: false,
      },
      ...(placed !== undefined && { redundant_experts: placed.redundant, expert_maps: [layersOf(placed.map)] }),
    });
    this.bytes = plan.memory.bytes;
    const space = new AddressSpace(allocateSegments(plan.memory), plan.memory.regions);
    const areas = plan.dies.map((_, die) => areasOfDie(plan, die));
    const surroundings = {
      space,
      areasOf: (die: number) => areas[die] as Areas,
      arrive: (die: number) => this.#expect(die, this.#now_ns),
      now_ms: () => this.#now_ns / 1e6,
    };
    const dieOf = (npu: number): number => npu;
    for (const layout of plan.layouts) {
      loadHashWeights(plan, layout, space, 1);
      const { npu } = layout;
      const endpoint = new TimedEndpoint(npu, surroundings);
      endpoint.later = (act) => this.#push(this.#now_ns + this.#meter.ns + options.hop_ns, act);
      const exchange = new Exchange(endpoint, layout.row_bytes);
      if (layout.kind === 'experts') {
        const experts = new TimedExperts(model, layout, space, this.#meter, options.expert_ns);
        this.#npus.push({ program: null, service: newExpertService(experts, space, exchange, dieOf), scheduler: null });
        continue;
      }
      const forward = new TimedForward(model, layout, space, this.#meter, (rows) => options.attention_ns(npu, rows), options.choose);
      const program = new StepProgram<HashForward>(forward, space, exchange, dieOf, placed === undefined ? {} : { map: placed.map });
      this.#npus.push({ program, service: program.service, scheduler: options.isAsked(npu) ? this.#newScheduler(npu) : null });
    }
    this.tokens = new Float64Array(this.#npus.length);
    this.#busy_ns = new Float64Array(this.#npus.length);
    this.#isExpected = new Uint8Array(this.#npus.length);
    for (let npu = 0; npu < this.#npus.length; npu++) this.#expect(npu, 0);
  }

  /** Lets all happen that happens until then, or until `isEnough`. */
  run(until_ns: number, isEnough: () => boolean = () => false): void {
    while (this.#queue.size > 0 && !isEnough()) {
      const event = this.#queue.pop() as Event;
      if (event.time_ns > until_ns) return;
      this.events++;
      this.#now_ns = event.time_ns;
      this.#meter.ns = 0;
      event.act();
    }
  }

  get now_ns(): number {
    return this.#now_ns;
  }

  #push(time_ns: number, act: () => void): void {
    this.#queue.push({ time_ns, order: this.#order++, act });
  }

  /** Somebody looks at what has come, once the NPU has time. */
  #expect(npu: number, time_ns: number): void {
    if (this.#isExpected[npu] === 1) return;
    this.#isExpected[npu] = 1;
    this.#push(Math.max(time_ns, this.#busy_ns[npu] as number), () => this.#look(npu));
  }

  #look(npu: number): void {
    this.#isExpected[npu] = 0;
    const isMoving = this.#goOn(npu, this.#npus[npu] as Npu);
    this.#busy_ns[npu] = this.#now_ns + this.#meter.ns;
    if (isMoving) this.#expect(npu, this.#busy_ns[npu] as number);
  }

  /** One thing. True: there may be another. */
  #goOn(npu: number, { program, service, scheduler }: Npu): boolean {
    if (program === null || scheduler === null) return service.serve(ARRIVED_MAX) > 0;
    if (!program.isRunning) {
      const next = scheduler.plan();
      if (next === null) return service.serve(ARRIVED_MAX) > 0;
      program.start(next.plan);
    }
    const poll = program.poll();
    if (poll.state === 'pending') return service.serve(ARRIVED_MAX) > 0;
    if (poll.state === 'done') {
      this.tokens[npu] = (this.tokens[npu] as number) + poll.outcomes.length;
      this.tokens_all += poll.outcomes.length;
      scheduler.retire(poll.outcomes);
      program.release(scheduler.takeDetached());
    }
    return true;
  }

  #newScheduler(npu: number): StepScheduler {
    const { batch, tokens_max } = this.#options;
    const scheduler = new StepScheduler(
      {
        ...{ kv_blocks: batch * Math.ceil((1 + tokens_max) / BLOCK_SIZE), kv_block_size: BLOCK_SIZE, batch_tokens_max: batch, batch_requests_max: batch },
        ...{ has_prefix_cache: false, is_asynchronous: false, has_priorities: false, dram_blocks: 0, cache_costs: null, lends_by_layer: false },
        ...{ offers_max: 0, shares_prefixes: false },
      },
      address('dp-group', npu),
    );
    for (let index = 0; index < batch; index++) {
      const request = npu * batch + index;
      scheduler.enqueue(address('task', request), {
        request,
        choice: 0,
        prompt: [3 + (request % 1_000)],
        max_tokens: tokens_max,
        sampling: GREEDY,
        ...NO_TERMS,
      });
    }
    return scheduler;
  }
}
