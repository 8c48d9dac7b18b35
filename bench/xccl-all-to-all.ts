/**
 * Dispatch and combine of colocated ranks, in the shape of xDeepServe's figure 6: tokens a rank → µs; against memory.copy of the bytes that cross.
 * @module
 */
import { instantiateKernels, loadKernelModule } from '../src/model/kernels/kernels.ts';
import { AllToAll } from '../src/xccl/all-to-all.ts';
import type { Areas } from '../src/xccl/areas.ts';
import { partBytes } from '../src/xccl/parts.ts';
import { blockBytes, WIRE_FORMATS, type WireFormat } from '../src/xccl/wire-format.ts';
import type { Duo, Side } from './fabric-duo.ts';
import { digits, medianRatio, type Turn, takeTurns } from './fabric-report.ts';
import { median, printTable } from './harness.ts';
import { choiceOf, type Desk, deskAt, HIDDEN, rankOfExpert, type Shape, setDesk, sizesOf, TOP_K } from './xccl-desks.ts';
import { type Dies, diesNamed, finish, openBoth, TIMEOUT_MS } from './xccl-dies.ts';

const RANKS = [8, 64] as const;
const TOKENS = [4, 16, 32, 64, 128] as const;
const TOKENS_MAX = 128;
/** Tokens of all ranks in a slice, at least one round of them. */
const SLICE_TOKENS = 2_048;
const ROUNDS_MAX = 16;
const WARM_ROUNDS = 2;

type Slice = { readonly dies: string; readonly ranks: number; readonly tokens: number; readonly format: WireFormat; readonly rounds: number };
type Times = { readonly dispatch: number; readonly combine: number };

const shapeOf = (ranks: number): Shape => ({ sources: ranks, destinations: ranks, tokens_max: TOKENS_MAX });

/** The ranks of one thread, each with its tokens on its desk. */
class Ranks {
  readonly #side: Side;
  readonly #ranks: readonly { readonly exchange: AllToAll; readonly desk: Desk }[];

  private constructor(side: Side, ranks: readonly { readonly exchange: AllToAll; readonly desk: Desk }[]) {
    this.#side = side;
    this.#ranks = ranks;
  }

  static async open(side: Side, dies: Dies, shape: Shape): Promise<Ranks> {
    const { space, start, endpoints } = dies;
    const kernels = instantiateKernels(await loadKernelModule(), start.memories[0] as WebAssembly.Memory);
    const ranks = [...endpoints].map(([die, endpoint]) => {
      const desk = setDesk(space, shape, start.data[die] as number, die);
      const exchange = new AllToAll({
        ...{ endpoint, domain: start.domain, kernels, hidden: HIDDEN, rank_of_expert: rankOfExpert(shape) },
        dispatch: { offset: 0, bytes: endpoint.areas.dispatch_bytes },
        reply: { offset: 0, bytes: endpoint.areas.reply_bytes },
        ...{ collect: desk.collect, receive: desk.receive },
      });
      return { exchange, desk };
    });
    return new Ranks(side, ranks);
  }

  dispatch(tokens: number, format: WireFormat): void {
    finish(
      this.#side,
      this.#ranks.map(({ exchange, desk: { rows, experts, weights } }) =>
        exchange.dispatch({ tokens, rows, experts, weights, format, timeout_ms: TIMEOUT_MS }),
      ),
    );
  }

  /** Answers that travel as f32 are where they were computed; others are encoded from the desk. */
  combine(format: WireFormat): void {
    finish(
      this.#side,
      this.#ranks.map(({ exchange, desk: { answers, into } }) =>
        exchange.combine({ rows: format === 'f32' ? exchange.reply_rows : answers, format, into, shared: 0, timeout_ms: TIMEOUT_MS }),
      ),
    );
  }

  get pairs(): number {
    return this.#ranks.reduce((sum, { exchange }) => sum + exchange.received.pairs, 0);
  }
}

/** Ranks of the other thread, by the name of their dies. */
const opened = new Map<string, Ranks>();

export async function openRanks(side: Side, { dies, ranks }: { dies: string; ranks: number }): Promise<void> {
  opened.set(dies, await Ranks.open(side, diesNamed(dies), shapeOf(ranks)));
}

/** The other half, where ranks live there. */
export function exchangeTokens(side: Side, { dies, tokens, format, rounds }: Slice): void {
  const ranks = opened.get(dies) as Ranks;
  for (let round = 0; round < rounds; round++) {
    side.meet();
    ranks.dispatch(tokens, format);
    side.meet();
    ranks.combine(format);
  }
  side.meet();
}

/** All ranks, on one thread or on two. */
class World {
  readonly #duo: Duo;
  readonly #name: string;
  readonly #dies: Dies;
  readonly #ranks: Ranks;

  private constructor(duo: Duo, name: string, dies: Dies, ranks: Ranks) {
    this.#duo = duo;
    this.#name = name;
    this.#dies = dies;
    this.#ranks = ranks;
  }

  static async open(duo: Duo, ranks: number, threads: 1 | 2): Promise<World> {
    const name = `${ranks} ranks ${threads}`;
    const dies = await openBoth(duo, name, { dies: ranks, threads, segments: 1, ...sizesOf(shapeOf(ranks)) });
    if (threads === 2) await duo.there('openRanks', { dies: name, ranks });
    return new World(duo, name, dies, await Ranks.open(duo, dies, shapeOf(ranks)));
  }

  get size(): number {
    return this.#dies.start.options.dies;
  }

  get threads(): number {
    return this.#dies.start.options.threads;
  }

  /** µs of a round of all ranks. */
  async exchange_us(tokens: number, format: WireFormat): Promise<Times> {
    const duo = this.#duo;
    const rounds = Math.min(ROUNDS_MAX, Math.max(1, Math.floor(SLICE_TOKENS / (tokens * this.size))));
    const slice: Slice = { dies: this.#name, ranks: this.size, tokens, format, rounds };
    const there = this.threads === 2 ? duo.there('exchangeTokens', slice) : null;
    const meet = (): void => {
      if (there !== null) duo.meet();
    };
    let [dispatch, combine] = [0, 0];
    meet();
    for (let round = 0; round < rounds; round++) {
      const start = performance.now();
      this.#ranks.dispatch(tokens, format);
      meet();
      const middle = performance.now();
      this.#ranks.combine(format);
      meet();
      dispatch += middle - start;
      combine += performance.now() - middle;
    }
    await there;
    if (there === null && this.#ranks.pairs !== this.size * tokens * TOP_K) throw new Error(`${this.#ranks.pairs} pairs of ${this.size * tokens * TOP_K} came`);
    return { dispatch: (dispatch / rounds) * 1000, combine: (combine / rounds) * 1000 };
  }

  /** µs of memory.copy for the bytes that cross in a round, part by part, shared by the threads. */
  copy_us(parts: readonly Part[], format: WireFormat): Times {
    const { space, start: world } = this.#dies;
    const shape = shapeOf(this.size);
    const desks = world.data.map((base) => deskAt(shape, base));
    const taken = new Float64Array(this.size * 2);
    const copyParts = (bytesOf: (part: Part) => number, from: (part: Part) => number, to: (part: Part) => number): number => {
      taken.fill(0);
      const start = performance.now();
      for (const part of parts) {
        const bytes = bytesOf(part);
        space.copy(to(part) + (taken[part.destination] as number), from(part) + (taken[this.size + part.source] as number), bytes);
        taken[part.destination] = (taken[part.destination] as number) + bytes;
        taken[this.size + part.source] = (taken[this.size + part.source] as number) + bytes;
      }
      return ((performance.now() - start) * 1000) / this.threads;
    };
    const areas = (rank: number): Areas => world.areas[rank] as Areas;
    return {
      dispatch: copyParts(
        ({ rows, pairs }) => partBytes(format, rows, pairs, HIDDEN),
        ({ source }) => areas(source).dispatch,
        ({ destination }) => (desks[destination] as Desk).receive.rows,
      ),
      combine: copyParts(
        ({ pairs }) => blockBytes(format, pairs, HIDDEN),
        ({ source }) => areas(source).reply,
        ({ destination }) => (desks[destination] as Desk).collect.replies,
      ),
    };
  }
}

/** What goes from one rank to another in a round; on the way back they have changed places, and as many pairs. */
type Part = { readonly source: number; readonly destination: number; readonly rows: number; readonly pairs: number };

function partsOf(ranks: number, tokens: number): Part[] {
  const places = rankOfExpert(shapeOf(ranks));
  return Array.from({ length: ranks }, (_, source) => {
    const chosen = choiceOf(source, tokens);
    const pairs = new Uint32Array(ranks);
    const rows = new Uint32Array(ranks);
    for (let token = 0; token < tokens; token++) {
      const there = Array.from(chosen.subarray(token * TOP_K, (token + 1) * TOP_K), (expert) => places[expert] as number);
      for (const destination of there) pairs[destination] = (pairs[destination] as number) + 1;
      for (const destination of new Set(there)) rows[destination] = (rows[destination] as number) + 1;
    }
    return Array.from(rows, (count, destination) => ({ source, destination, rows: count, pairs: pairs[destination] as number }));
  }).flat();
}

// ---------------------------------------------------------------- figure 6

type Step = keyof Times;
const STEPS = ['dispatch', 'combine'] as const;
type Row = {
  readonly tokens: number;
  /** µs that a rank's part takes its thread, and in how many times memory.copy of its bytes. */
  readonly cells: Readonly<Record<WireFormat, Readonly<Record<Step, { readonly us: number; readonly ofCopy: number }>>>>;
};

async function measureBatch(world: World, tokens: number): Promise<Row> {
  const parts = partsOf(world.size, tokens);
  const turns: Record<string, Turn> = {};
  for (const format of WIRE_FORMATS) {
    let came: Times;
    let copied: Times;
    turns[`${format} dispatch`] = async () => {
      came = await world.exchange_us(tokens, format);
      return came.dispatch;
    };
    turns[`${format} combine`] = () => came.combine;
    turns[`${format} dispatch copy`] = () => {
      copied = world.copy_us(parts, format);
      return copied.dispatch;
    };
    turns[`${format} combine copy`] = () => copied.combine;
  }
  const came = await takeTurns(turns, WARM_ROUNDS);
  const cell = (format: WireFormat, step: Step): { us: number; ofCopy: number } => {
    const times = came[`${format} ${step}`] as number[];
    return { us: (median(times) * world.threads) / world.size, ofCopy: medianRatio(times, came[`${format} ${step} copy`] as number[]) };
  };
  const cells = Object.fromEntries(
    WIRE_FORMATS.map((format) => [format, { dispatch: cell(format, 'dispatch'), combine: cell(format, 'combine') }]),
  ) as Row['cells'];
  return { tokens, cells };
}

/** The batch from which on an INT8 dispatch is faster than another step, at all that were tried; null: at none. */
function crossover(rows: readonly Row[], format: WireFormat, step: Step): number | null {
  let from: number | null = null;
  for (const { tokens, cells } of rows) {
    if (cells.int8.dispatch.us > cells[format][step].us) from = null;
    else from ??= tokens;
  }
  return from;
}

/** Figure 6 of the paper crosses an INT8 dispatch with a BF16 combine, at 32 tokens. */
type Crossovers = Readonly<Record<'f32_dispatch' | 'bf16_dispatch' | 'bf16_combine', number | null>>;

export async function measureAllToAll(duo: Duo): Promise<unknown> {
  const worlds = [];
  for (const ranks of RANKS) {
    for (const threads of [1, 2] as const) {
      const world = await World.open(duo, ranks, threads);
      const rows: Row[] = [];
      for (const tokens of TOKENS) rows.push(await measureBatch(world, tokens));
      const crossovers: Crossovers = {
        f32_dispatch: crossover(rows, 'f32', 'dispatch'),
        bf16_dispatch: crossover(rows, 'bf16', 'dispatch'),
        bf16_combine: crossover(rows, 'bf16', 'combine'),
      };
      worlds.push({ ranks, threads, rows, int8_dispatch_faster_from_tokens: crossovers });
      printWorld(ranks, threads, rows, crossovers);
    }
  }
  return { hidden: HIDDEN, top_k: TOP_K, worlds };
}

function printWorld(ranks: number, threads: 1 | 2, rows: readonly Row[], crossovers: Crossovers): void {
  const header = WIRE_FORMATS.flatMap((format) => STEPS.map((step) => `${format} ${step}`));
  const where = `${ranks} ranks on ${threads === 1 ? 'one thread' : 'two threads'}`;
  const table = (title: string, show: (row: Row, format: WireFormat, step: Step) => string): void =>
    printTable(
      title,
      ['tokens a rank', ...header],
      rows.map((row) => [String(row.tokens), ...WIRE_FORMATS.flatMap((format) => STEPS.map((step) => show(row, format, step)))]),
    );
  table(`Figure 6: µs of a rank's thread; ${where}, rows of ${HIDDEN}, ${TOP_K} of 256 experts`, ({ cells }, format, step) => digits(cells[format][step].us));
  table(`The same for a token, µs (times memory.copy of the bytes that cross); ${where}`, ({ cells, tokens }, format, step) => {
    const { us, ofCopy } = cells[format][step];
    return `${digits(us / tokens)} (${digits(ofCopy)})`;
  });
  const said = (from: number | null): string => (from === null ? `at no batch up to ${TOKENS.at(-1)}` : `from ${from} tokens on`);
  const { f32_dispatch, bf16_dispatch, bf16_combine } = crossovers;
  console.log(`An INT8 dispatch is faster than one of f32 ${said(f32_dispatch)}, of BF16 ${said(bf16_dispatch)}; than a BF16 combine ${said(bf16_combine)}`);
}
