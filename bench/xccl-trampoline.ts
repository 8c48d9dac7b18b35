/**
 * A2E and E2A in both forms, by the number of ranks: metadata fields written, by whom, and the time of a round (xDeepServe §3.3).
 * @module
 */
import { instantiateKernels, loadKernelModule } from '../src/model/kernels/kernels.ts';
import { A2E_FORMS, type A2EForm, createAttentionEnd, createExpertEnd } from '../src/xccl/a2e.ts';
import type { Endpoint } from '../src/xccl/endpoint.ts';
import type { AttentionEnd, ExpertEnd } from '../src/xccl/ends.ts';
import type { Duo, Side } from './fabric-duo.ts';
import { digits, medianRatio, takeTurns } from './fabric-report.ts';
import { median, printTable } from './harness.ts';
import { type Desk, HIDDEN, rankOfExpert, type Shape, setDesk, sizesOf, TOP_K } from './xccl-desks.ts';
import { type Dies, diesNamed, finish, openBoth, TIMEOUT_MS } from './xccl-dies.ts';

/** Attention ranks and expert ranks; the paper has 160 and 288. */
const SPLITS = [
  { attention: 2, experts: 4 },
  { attention: 5, experts: 9 },
  { attention: 8, experts: 16 },
  { attention: 16, experts: 32 },
  { attention: 32, experts: 64 },
] as const;
const TOKENS = 16;
const FORMAT = 'f32';
/** Rounds of a slice, by attention ranks. */
const roundsOf = (attention: number): number => Math.max(2, Math.floor(64 / attention));
const WARM_ROUNDS = 2;

type Split = { readonly attention: number; readonly experts: number };
type Slice = { readonly dies: string; readonly rounds: number };
/** Fields that one round has written. */
type Writes = { readonly all: number; readonly attention_max: number; readonly expert_max: number };

const shapeOf = ({ attention, experts }: Split): Shape => ({ sources: attention, destinations: experts, tokens_max: TOKENS });

/** The ends of one thread's ranks. */
class Ends {
  readonly #side: Side;
  readonly #attention: { readonly end: AttentionEnd; readonly desk: Desk; readonly endpoint: Endpoint }[] = [];
  readonly #experts: { readonly end: ExpertEnd; readonly endpoint: Endpoint }[] = [];

  private constructor(side: Side) {
    this.#side = side;
  }

  static async open(side: Side, dies: Dies, split: Split, form: A2EForm): Promise<Ends> {
    const { space, start, endpoints } = dies;
    const shape = shapeOf(split);
    const kernels = instantiateKernels(await loadKernelModule(), start.memories[0] as WebAssembly.Memory);
    const ends = new Ends(side);
    for (const [die, endpoint] of endpoints) {
      const desk = setDesk(space, shape, start.data[die] as number, die);
      const options = {
        ...{ form, attention: split.attention, endpoint, domain: start.domain, kernels, hidden: HIDDEN, rank_of_expert: rankOfExpert(shape) },
        dispatch: { offset: 0, bytes: endpoint.areas.dispatch_bytes },
        reply: { offset: 0, bytes: endpoint.areas.reply_bytes },
        ...{ collect: desk.collect, receive: desk.receive },
      };
      if (die < split.attention) ends.#attention.push({ end: createAttentionEnd(options), desk, endpoint });
      else ends.#experts.push({ end: createExpertEnd(options), endpoint });
    }
    return ends;
  }

  /** There and back; the answers lie where they would have been computed. */
  round(): void {
    const wait = { timeout_ms: TIMEOUT_MS };
    finish(this.#side, [
      ...this.#attention.map(({ end, desk: { rows, experts, weights } }) => end.a2e({ tokens: TOKENS, rows, experts, weights, format: FORMAT })),
      ...this.#experts.map(({ end }) => end.a2e(wait)),
    ]);
    finish(this.#side, [
      ...this.#experts.map(({ end }) => end.e2a({ rows: end.reply_rows, format: FORMAT, ...wait })),
      ...this.#attention.map(({ end, desk: { into } }) => end.e2a({ into, shared: 0, ...wait })),
    ]);
  }

  /** Of all rounds so far. */
  get writes(): Writes {
    const attention = this.#attention.map(({ endpoint }) => endpoint.counters.writes);
    const experts = this.#experts.map(({ endpoint }) => endpoint.counters.writes);
    return { all: [...attention, ...experts].reduce((sum, count) => sum + count, 0), attention_max: Math.max(...attention), expert_max: Math.max(...experts) };
  }
}

/** Ends of the other thread, by the name of their dies. */
const opened = new Map<string, Ends>();

export async function openEnds(side: Side, { dies, split, form }: { dies: string; split: Split; form: A2EForm }): Promise<void> {
  opened.set(dies, await Ends.open(side, diesNamed(dies), split, form));
}

/** The other half, where ranks live there. */
export function exchangeEnds(side: Side, { dies, rounds }: Slice): void {
  const ends = opened.get(dies) as Ends;
  side.meet();
  for (let round = 0; round < rounds; round++) ends.round();
  side.meet();
}

/** All ranks of one form. */
class Form {
  readonly #duo: Duo;
  readonly #name: string;
  readonly #threads: 1 | 2;
  readonly #ends: Ends;

  private constructor(duo: Duo, name: string, threads: 1 | 2, ends: Ends) {
    this.#duo = duo;
    this.#name = name;
    this.#threads = threads;
    this.#ends = ends;
  }

  static async open(duo: Duo, split: Split, form: A2EForm, threads: 1 | 2): Promise<Form> {
    const name = `${form} ${split.attention} ${threads}`;
    const dies = await openBoth(duo, name, { dies: split.attention + split.experts, threads, segments: 1, ...sizesOf(shapeOf(split)) });
    if (threads === 2) await duo.there('openEnds', { dies: name, split, form });
    return new Form(duo, name, threads, await Ends.open(duo, dies, split, form));
  }

  /** µs of a round. */
  async round_us(rounds: number): Promise<number> {
    const duo = this.#duo;
    const there = this.#threads === 2 ? duo.there('exchangeEnds', { dies: this.#name, rounds }) : null;
    if (there !== null) duo.meet();
    const start = performance.now();
    for (let round = 0; round < rounds; round++) this.#ends.round();
    if (there !== null) duo.meet();
    const took_ms = performance.now() - start;
    await there;
    return (took_ms / rounds) * 1000;
  }

  /** What one round writes; for ranks that all live here. */
  async writes(): Promise<Writes> {
    const before = this.#ends.writes;
    await this.round_us(1);
    const after = this.#ends.writes;
    return {
      all: after.all - before.all,
      attention_max: after.attention_max - before.attention_max,
      expert_max: after.expert_max - before.expert_max,
    };
  }
}

export async function measureTrampoline(duo: Duo): Promise<unknown> {
  const rows = [];
  for (const split of SPLITS) {
    const open = (form: A2EForm, threads: 1 | 2): Promise<Form> => Form.open(duo, split, form, threads);
    const [naive, trampoline, naive2, trampoline2] = [await open('naive', 1), await open('trampoline', 1), await open('naive', 2), await open('trampoline', 2)];
    const rounds = roundsOf(split.attention);
    const came = await takeTurns(
      {
        naive: () => naive.round_us(rounds),
        trampoline: () => trampoline.round_us(rounds),
        naive2: () => naive2.round_us(rounds),
        trampoline2: () => trampoline2.round_us(rounds),
      },
      WARM_ROUNDS,
    );
    rows.push({
      ...split,
      writes: { naive: await naive.writes(), trampoline: await trampoline.writes() },
      one_thread: { naive_us: median(came.naive), trampoline_us: median(came.trampoline), ratio: medianRatio(came.trampoline, came.naive) },
      two_threads: { naive_us: median(came.naive2), trampoline_us: median(came.trampoline2), ratio: medianRatio(came.trampoline2, came.naive2) },
    });
  }
  printTable(
    'A2E and E2A, metadata fields that a round writes: in all / by an attention rank / by an expert rank',
    ['attention + expert ranks', ...A2E_FORMS],
    rows.map(({ attention, experts, writes }) => [
      `${attention} + ${experts}`,
      ...A2E_FORMS.map((form) => `${writes[form].all} / ${writes[form].attention_max} / ${writes[form].expert_max}`),
    ]),
  );
  printTable(
    `A round there and back, µs; ${TOKENS} tokens an attention rank, rows of ${HIDDEN} ${FORMAT}, ${TOP_K} experts a token`,
    ['attention + expert ranks', 'one thread: naive', 'trampoline', 'of naive', 'two threads: naive', 'trampoline', 'of naive'],
    rows.map(({ attention, experts, one_thread, two_threads }) => [
      `${attention} + ${experts}`,
      ...[one_thread, two_threads].flatMap(({ naive_us, trampoline_us, ratio }) => [naive_us, trampoline_us, ratio].map(digits)),
    ]),
  );
  return { tokens: TOKENS, rows };
}
