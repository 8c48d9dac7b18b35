/** DP domains that share expert ranks, on one thread: attention ranks with steps of random rows now and then. */
import { segmentOf } from '../../src/fabric/address.ts';
import { Arena } from '../../src/fabric/arena.ts';
import { instantiateKernels } from '../../src/model/kernels/kernels.ts';
import { createAttentionEnd, createExpertEnd } from '../../src/xccl/a2e.ts';
import { type CollectMemory, layoutCollectMemory } from '../../src/xccl/combine.ts';
import { layoutReceiveMemory, type ReceiveMemory } from '../../src/xccl/dispatch.ts';
import { DpDomain, type DpDomainLife } from '../../src/xccl/dp-domain.ts';
import { Endpoint } from '../../src/xccl/endpoint.ts';
import type { ExpertEnd } from '../../src/xccl/ends.ts';
import { Iterations } from '../../src/xccl/iterations.ts';
import { laneOf } from '../../src/xccl/lane.ts';
import { bundleBytesMax, packageBytesMax, repliesBytesMax } from '../../src/xccl/parts.ts';
import { ExpertTurns } from '../../src/xccl/turns.ts';
import type { WireKernels } from '../../src/xccl/wire-format.ts';
import { type Batch, computeReceived, floatsAt, kernelModule, makeBatch, type Shape, wordsAt } from './exchange-rig.ts';
import { type App, type Dies, makeDies } from './rig.ts';

export type DomainsShape = {
  readonly domains: number;
  /** Of each domain. */
  readonly attention: number;
  readonly experts: number;
  readonly micro_batches: number;
  /** Layers of experts. */
  readonly rounds: number;
  /** Of one domain. */
  readonly shape: Shape;
  /** Dies that nobody has at first. */
  readonly spares: number;
};

type Desk = { rows: number; experts: number; weights: number; collects: CollectMemory[]; receives: ReceiveMemory[] };
/** At most one at a time. `done`: by micro-batch, rounds whose answers are here, −1 before the first. */
type Step = { readonly number: number; readonly batches: Batch[]; readonly done: number[]; hasBegun: boolean };
type Failure = { readonly npu: number; readonly code: string; readonly message: string };

const roundUp = (bytes: number): number => Math.ceil(bytes / 64) * 64;

export class Rig {
  readonly dies: Dies;
  readonly shape: DomainsShape;
  readonly failures: Failure[] = [];
  /** By NPU: what its steps have summed, by `step round`. */
  readonly sums: Map<string, Float32Array>[];
  /** Rounds that experts computed, as `domain micro-batch round` of the expert NPU. */
  readonly computed: string[][];
  /** Told before an NPU's experts compute. */
  onCompute: (npu: number, end: ExpertEnd) => void = () => {};
  readonly #seed: number;
  readonly #timeout_ms: number;
  readonly #kernels: readonly WireKernels[];
  readonly #sizes: { readonly dispatch_bytes: number; readonly reply_bytes: number };
  readonly #npus: (Iterations | ExpertTurns | null)[] = [];
  readonly #steps: (Step | null)[];
  /** By NPU: which die each has, as that NPU knows. */
  readonly #seats: number[][];
  /** By NPU: who is lost, as that NPU knows. */
  readonly #lost: Set<number>[];
  /** As it is. */
  readonly #dieOf: number[];
  readonly #gone = new Set<number>();
  #nextSpare: number;

  constructor(shape: DomainsShape, segments: number, seed: number, timeout_ms = 1_000) {
    const { domains, attention, experts, micro_batches, spares } = shape;
    const { hidden, top_k, tokens_max } = shape.shape;
    this.shape = shape;
    this.#seed = seed;
    this.#timeout_ms = timeout_ms;
    const lanes = domains * micro_batches;
    const wide = Math.max(hidden, 4);
    const pairs = attention * tokens_max * top_k;
    this.#sizes = {
      dispatch_bytes: roundUp(packageBytesMax('f32', tokens_max, top_k, experts, wide)),
      reply_bytes: roundUp(repliesBytesMax('f32', pairs, attention, wide) + bundleBytesMax('f32', tokens_max * top_k, experts, wide)),
    };
    const measure = new Arena(0);
    this.#layOut(measure);
    const count = domains * attention + experts;
    this.dies = makeDies(count + spares, {
      segments,
      sizes: { lanes, dispatch_bytes: lanes * this.#sizes.dispatch_bytes, reply_bytes: lanes * this.#sizes.reply_bytes },
      app_bytes: measure.used + 64,
    });
    this.#kernels = this.dies.space.memories.map((memory) => instantiateKernels(kernelModule, memory));
    this.#dieOf = Array.from({ length: count }, (_, npu) => npu);
    this.#nextSpare = count;
    this.#seats = this.#dieOf.map(() => [...this.#dieOf]);
    this.#lost = this.#dieOf.map(() => new Set());
    this.#steps = this.#dieOf.map(() => null);
    this.sums = this.#dieOf.map(() => new Map());
    this.computed = this.#dieOf.map(() => []);
    for (let npu = 0; npu < count; npu++) this.#make(npu);
  }

  get attention(): number {
    return this.shape.domains * this.shape.attention;
  }

  get count(): number {
    return this.#dieOf.length;
  }

  isBusy(npu: number): boolean {
    return this.#steps[npu] !== null;
  }

  /** How often the NPU was told to look. */
  arrivalsOf(npu: number): number {
    return this.dies.arrivals[this.#dieOf[npu] as number] as number;
  }

  /** Gives an attention rank a step, whose batches depend on its number. */
  start(npu: number, number: number): void {
    const { rounds, micro_batches } = this.shape;
    this.#steps[npu] = {
      number,
      batches: Array.from({ length: rounds * micro_batches }, (_, round) => this.batchOf(npu, number, round)),
      done: Array.from({ length: micro_batches }, () => -1),
      hasBegun: false,
    };
  }

  batchOf(npu: number, step: number, round: number): Batch {
    return makeBatch(this.shape.shape, this.#seed + step, npu, round);
  }

  giveUp(npu: number): void {
    this.#steps[npu] = null;
    (this.#npus[npu] as Iterations).giveUp();
  }

  isLost(npu: number): boolean {
    return this.#gone.has(npu);
  }

  /** An NPU dies in the midst of whatever it does, and has no successor. Who has heard of it, `reseat` says. */
  lose(npu: number): void {
    this.dies.space.control.raiseEpochOfDie(this.#dieOf[npu] as number);
    this.#gone.add(npu);
    this.#steps[npu] = null;
    this.#npus[npu] = null;
  }

  /** One that is lost has a successor after all, on the same die or a spare one. */
  bringBack(npu: number, moves: boolean): void {
    if (moves) this.#dieOf[npu] = this.#nextSpare++;
    this.#gone.delete(npu);
    this.#hear(npu);
    this.#make(npu);
  }

  #hear(npu: number): void {
    this.#seats[npu] = [...this.#dieOf];
    const lost = this.#lost[npu] as Set<number>;
    lost.clear();
    for (const other of this.#gone) lost.add(other);
  }

  /** An NPU dies in the midst of whatever it does; its successor is there at once, on the same die or a spare one. Who has heard of it, `reseat` says. */
  kill(npu: number, moves: boolean): void {
    this.dies.space.control.raiseEpochOfDie(this.#dieOf[npu] as number);
    if (moves) this.#dieOf[npu] = this.#nextSpare++;
    this.#seats[npu] = [...this.#dieOf];
    this.#steps[npu] = null;
    this.#make(npu);
  }

  /** The NPU hears where everybody is, and who is nowhere. */
  reseat(npu: number): void {
    this.#hear(npu);
    this.#guarded(npu, () => this.#npus[npu]?.reseat());
  }

  /** Lets one NPU go on a little. */
  poll(npu: number): void {
    const actor = this.#npus[npu];
    if (actor instanceof Iterations) this.#guarded(npu, () => this.#pollAttention(npu, actor));
    else actor?.takePart();
  }

  /** The same for an NPU without a step. True: it has gone on. */
  takePart(npu: number): boolean {
    const actor = this.#npus[npu];
    return actor instanceof Iterations ? actor.poll() : (actor?.takePart() ?? false);
  }

  #guarded(npu: number, act: () => void): void {
    try {
      act();
    } catch (error) {
      const { code, message } = error as Failure;
      this.failures.push({ npu, code, message });
      this.#steps[npu] = null;
    }
  }

  #pollAttention(npu: number, iterations: Iterations): void {
    const step = this.#steps[npu] ?? null;
    if (step === null || (!step.hasBegun && !iterations.begin())) {
      iterations.poll();
      // What it did in the iteration may have been the last.
      if (step === null || !iterations.begin()) return;
    }
    step.hasBegun = true;
    const { micro_batches, rounds } = this.shape;
    for (let lane = 0; lane < micro_batches; lane++) {
      const done = step.done[lane] as number;
      if (done === rounds) continue;
      if (done >= 0) {
        if (iterations.answer(lane) === 'pending') continue;
        this.#sum(npu, step, done * micro_batches + lane, lane);
      }
      step.done[lane] = done + 1;
      if (done + 1 < rounds) this.#ask(npu, step, lane, (done + 1) * micro_batches + lane);
    }
    if (step.done.every((done) => done === rounds)) this.#steps[npu] = null;
  }

  #ask(npu: number, { batches }: Step, lane: number, index: number): void {
    const desk = this.#deskOf(npu);
    const { tokens, rows, experts, weights } = batches[index] as Batch;
    const { space } = this.dies;
    floatsAt(space, desk.rows, rows.length).set(rows);
    wordsAt(space, desk.experts, experts.length).set(experts);
    floatsAt(space, desk.weights, weights.length).set(weights);
    (this.#npus[npu] as Iterations).ask(lane, { ...desk, tokens });
  }

  /** Sums the answers' rows where they lie, by ascending expert id. */
  #sum(npu: number, { number, batches }: Step, index: number, lane: number): void {
    const { hidden, top_k } = this.shape.shape;
    const { space } = this.dies;
    const { tokens, residual } = batches[index] as Batch;
    const { replies, places, weights } = this.#deskOf(npu).collects[lane] as CollectMemory;
    const rows = floatsAt(space, replies, tokens * top_k * hidden);
    const rowOf = wordsAt(space, places, tokens * top_k);
    const weight = floatsAt(space, weights, tokens * top_k);
    const sum = residual.slice();
    for (let token = 0; token < tokens; token++) {
      for (let i = 0; i < hidden; i++) {
        let total = 0;
        for (let slot = token * top_k; slot < (token + 1) * top_k; slot++)
          total = Math.fround(total + Math.fround((weight[slot] as number) * (rows[(rowOf[slot] as number) * hidden + i] as number)));
        sum[token * hidden + i] = Math.fround((sum[token * hidden + i] as number) + total);
      }
    }
    this.sums[npu]?.set(`${number} ${index}`, sum);
  }

  #layOut(arena: Arena): Desk {
    const { domains, attention, micro_batches } = this.shape;
    const { hidden, top_k, tokens_max } = this.shape.shape;
    const repeat = <Made>(count: number, make: () => Made): Made[] => Array.from({ length: count }, make);
    return {
      rows: arena.allocate(4 * tokens_max * hidden),
      experts: arena.allocate(4 * tokens_max * top_k),
      weights: arena.allocate(4 * tokens_max * top_k),
      collects: repeat(micro_batches, () => layoutCollectMemory(tokens_max, top_k, hidden, arena)),
      receives: repeat(domains * micro_batches, () => layoutReceiveMemory(attention * tokens_max, attention * tokens_max * top_k, hidden, arena)),
    };
  }

  #deskOf(npu: number): Desk {
    const app = this.dies.apps[this.#dieOf[npu] as number] as App;
    return this.#layOut(new Arena(app.address, app.bytes));
  }

  #make(npu: number): void {
    const { domains, attention, experts, micro_batches, rounds } = this.shape;
    const { hidden, rank_of_expert } = this.shape.shape;
    const { dispatch_bytes, reply_bytes } = this.#sizes;
    const die = this.#dieOf[npu] as number;
    const endpoint = new Endpoint(die, this.dies.surroundings);
    const kernels = this.#kernels[segmentOf((this.dies.apps[die] as App).address)] as WireKernels;
    const desk = this.#deskOf(npu);
    const numbers = (first: number, count: number): number[] => Array.from({ length: count }, (_, index) => first + index);
    const memberOf = (domain: number): DpDomain =>
      new DpDomain(
        endpoint,
        { id: domain, attention: numbers(domain * attention, attention), experts: numbers(this.attention, experts) },
        (of) => this.#seats[npu]?.[of] as number,
        this.#lost[npu] as Set<number>,
      );
    // What a lost one would compute another does.
    const ranksIn = ({ rankOfExpert, experts: ranks }: DpDomainLife): number[] =>
      Array.from(rank_of_expert, (rank) => (rankOfExpert[rank] === -1 ? rank % ranks : (rankOfExpert[rank] as number)));
    const options = (life: DpDomainLife, lane: number) => ({
      ...{ endpoint, domain: life, kernels, hidden, rank_of_expert: ranksIn(life), attention: life.attention },
      form: life.attention <= life.experts ? ('trampoline' as const) : ('naive' as const),
      dispatch: { offset: lane * dispatch_bytes, bytes: dispatch_bytes },
      reply: { offset: lane * reply_bytes, bytes: reply_bytes },
      lane: laneOf(lane),
    });
    if (npu < this.attention) {
      const domain = Math.floor(npu / attention);
      this.#npus[npu] = new Iterations({
        domain: memberOf(domain),
        rounds,
        makeEnds: desk.collects.map(
          (collect, microBatch) => (life: DpDomainLife) =>
            createAttentionEnd({ ...options(life, domain * micro_batches + microBatch), collect, last: npu % life.experts }),
        ),
        lane: laneOf(domain * micro_batches),
        timeout_ms: this.#timeout_ms,
      });
      return;
    }
    const lanes = numbers(0, domains * micro_batches).map((index) => {
      const [microBatch, domain] = [Math.floor(index / domains), index % domains];
      const receive = desk.receives[index] as ReceiveMemory;
      return { domain: memberOf(domain), makeEnd: (life: DpDomainLife) => createExpertEnd({ ...options(life, domain * micro_batches + microBatch), receive }) };
    });
    this.#npus[npu] = new ExpertTurns(lanes, (end, round) => {
      this.computed[npu]?.push(`${end.membership.domain.id} ${round}`);
      this.onCompute(npu, end);
      computeReceived(this.dies.space, end.received, end.reply_rows);
      return { rows: end.reply_rows };
    });
  }
}
