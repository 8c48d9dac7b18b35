/** Whom a kind can strike in a live pod, by what its NPUs do for one another. @module */
import { MinipodError } from '../protocol/errors.ts';
import { deploy, type NpuPlace, parseTopology } from '../protocol/topology.ts';
import { dealtOutByKind } from '../runtime/directory.ts';
import { LIVE_KINDS, type LiveKind } from './live-kinds.ts';

/** By kind, who is asked for what it takes; others strike any worker. `why`: said where there is nobody. */
type Place = { readonly why: string; readonly has: (npu: NpuPlace, pod: LivePlaces) => boolean };
const PLACES: Readonly<Partial<Record<LiveKind, Place>>> = {
  'kv-bit-flip': { why: 'none of its NPUs holds KV', has: ({ kind }) => kind === 'attention' },
  'row-bit-flip': {
    why: 'none of its NPUs leaves rows for another one',
    has: (npu, pod) => npu.kind === 'attention' && pod.peersOf(npu).length > 0,
  },
  'field-stale': {
    why: 'none of its NPUs asks one of another worker',
    has: (npu, pod) => pod.peersOf(npu).some((peer) => pod.workerOf(peer) !== pod.workerOf(npu)),
  },
};

/** Where nothing is said of them, as far as there are NPUs: one goes on while another is lost. */
const WORKERS = 2;

export class LivePlaces {
  readonly #topology: string;
  readonly #npus: readonly NpuPlace[];
  readonly #workers: readonly number[];
  readonly workers: number;

  /** @throws `invalid_request` for a topology that is none, or more workers than it has NPUs */
  constructor(topology: string, workers?: number) {
    this.#topology = topology;
    this.#npus = deploy(parseTopology(topology)).npus;
    const most = this.#npus.length;
    this.workers = workers ?? Math.min(WORKERS, most);
    if (this.workers > most)
      throw new MinipodError(
        'invalid_request',
        `workers: ${workers} threads for the ${most} NPUs of ${topology}; an NPU lives on one worker, so use at most ${most}`,
        {
          param: 'workers',
        },
      );
    this.#workers = dealtOutByKind(this.#npus, this.workers);
  }

  /** Those that it asks and answers: of its own executor. */
  peersOf({ id, executor }: NpuPlace): readonly NpuPlace[] {
    return this.#npus.filter((other) => other.executor === executor && other.id !== id);
  }

  workerOf({ id }: NpuPlace): number {
    return this.#workers[id] as number;
  }

  /** Ascending. */
  workersFor(kind: LiveKind): readonly number[] {
    const { has } = PLACES[kind] ?? { has: () => true };
    return [...new Set(this.#npus.filter((npu) => has(npu, this)).map((npu) => this.workerOf(npu)))].toSorted((a, b) => a - b);
  }

  /** All that can strike it. */
  get kinds(): readonly LiveKind[] {
    return LIVE_KINDS.filter((kind) => this.workersFor(kind).length > 0);
  }

  /** @throws `invalid_request` for one that would never have an effect */
  check(kinds: readonly LiveKind[]): void {
    const impossible = kinds.find((kind) => this.workersFor(kind).length === 0);
    if (impossible === undefined) return;
    const on = `${this.#topology} on ${this.workers === 1 ? 'one worker' : `${this.workers} workers`}`;
    throw new MinipodError('invalid_request', `kinds: ${impossible} can strike nothing in ${on}, since ${PLACES[impossible]?.why}; leave it out, or say all`, {
      param: 'kinds',
    });
  }
}
