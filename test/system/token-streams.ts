/**
 * A small pod around the real ends of the output shortcut: rings, the caller's side and request records are the shipped ones; workers, which stream tokens and
 * die, and the control plane, which has what they held computed elsewhere, are a few lines. The test decides what happens next.
 */
import { CallerPeers } from '../../src/calls/caller-peers.ts';
import { Calls } from '../../src/calls/calls.ts';
import { AddressSpace } from '../../src/fabric/address-space.ts';
import { ControlPage } from '../../src/fabric/control-page.ts';
import { Links, planRings } from '../../src/fabric/links.ts';
import { allocateSegments, planMemory } from '../../src/fabric/memory-plan.ts';
import { clearRing } from '../../src/fabric/ring-layout.ts';
import { DeliveredRecords } from '../../src/flowserve/records/delivered-records.ts';
import { RecordTable } from '../../src/flowserve/records/record-table.ts';
import { RecordTaking } from '../../src/flowserve/records/record-taking.ts';
import { RequestRecords, recordsBytes } from '../../src/flowserve/records/request-records.ts';
import type { Generation } from '../../src/index.ts';
import { idOf, roleOf } from '../../src/protocol/address.ts';
import type { CallerToPod, ChunkRecord, PodToCaller } from '../../src/protocol/caller.ts';
import { PLAIN_TEXT } from '../../src/protocol/constructors.ts';
import { toErrorRecord } from '../../src/protocol/errors.ts';
import type { Sequence } from '../../src/protocol/messages.ts';
import { requestId } from '../../src/protocol/request-ids.ts';
import { colocated, deploy } from '../../src/protocol/topology.ts';
import { CALLER_THREAD, CONTROL_THREAD, dealtOut } from '../../src/runtime/directory.ts';
import { MessagePort } from '../../src/runtime/message-port.ts';
import { SeededRandom } from '../../src/runtime/seeded-random.ts';

/** Nobody breaks the control thread's ring. */
const raise = (error: unknown): never => {
  throw error;
};

export const WORKERS = 3;
const FIRST_THREAD = 2;
/** Small enough that a few tokens fill it. */
const RING_BYTES = 512;
const OWNER = { job_executor: 1, life: 1 } as const;

/** The same whoever computes it. */
export const tokenOf = (call: number, choice: number, index: number): number => call * 10_000 + choice * 1_000 + index;

type Computing = { readonly sequence: Sequence; worker: number; next: number };
type OpenCall = { id: number; choices: Computing[]; isCancelled: boolean; waits: boolean };

export class TokenStreams {
  readonly calls: Calls;
  /** By call, with how many choices it has. */
  readonly generations = new Map<number, { readonly generation: Generation; readonly choices: number }>();
  readonly #abort = new AbortController();
  readonly #tokens: number;
  readonly #page: ControlPage;
  readonly #memory: WebAssembly.Memory;
  readonly #rings: ReturnType<typeof planRings>['rings'];
  readonly #caller: MessagePort;
  readonly #peers: CallerPeers;
  readonly #ports: (MessagePort | null)[];
  readonly #control: MessagePort;
  readonly #records: RequestRecords;
  readonly #taking: RecordTaking;
  readonly #open = new Map<number, OpenCall>();
  /** Calls that were asked to go on from their records. */
  resumed = 0;

  /** `records`: so many choices can be recorded. */
  constructor(tokens: number, records = 64) {
    this.#tokens = tokens;
    const plan = planMemory([{ owner: 'pod', kind: 'records', bytes: recordsBytes(64, 8_000) }], 2 ** 28, 2 ** 28);
    const space = new AddressSpace(allocateSegments(plan), plan.regions);
    const table = new RecordTable(space, space.region('pod', 'records'), records);
    this.#records = new RequestRecords(table);
    this.#taking = new RecordTaking(table);
    const threads = [CONTROL_THREAD, ...Array.from({ length: WORKERS }, (_, worker) => FIRST_THREAD + worker)];
    const pairs = threads.flatMap((thread) => [
      { from: CALLER_THREAD, to: thread, capacity: RING_BYTES },
      { from: thread, to: CALLER_THREAD, capacity: thread === CONTROL_THREAD ? 2 ** 16 : RING_BYTES },
    ]);
    const { rings, bytes } = planRings(pairs, 2 ** 17);
    this.#rings = rings;
    const pages = 2 + Math.ceil(bytes / 2 ** 16);
    this.#memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.#page = new ControlPage(this.#memory, 2 ** 16);
    this.#caller = this.#portOf(CALLER_THREAD);
    this.#control = this.#portOf(CONTROL_THREAD);
    this.#ports = threads.slice(1).map((thread) => this.#portOf(thread));
    const worker_of_npu = dealtOut(WORKERS, WORKERS);
    const hosting = { deployment: deploy(colocated(WORKERS)), workers: WORKERS, spare_workers: 0, worker_of_npu, job_executors: 1 };
    const seating = { threads: threads.slice(1), dies: worker_of_npu };
    const receive = ({ from, message }: ReturnType<MessagePort['read']>): void => {
      const said = message as PodToCaller | Parameters<CallerPeers['hear']>[0];
      if (said.type === 'PEER_LOST' || said.type === 'PEER_RESTARTED') this.#peers.hear(said);
      else this.calls.receive(said, roleOf(from) === 'output' ? idOf(from) : -1);
    };
    this.#peers = new CallerPeers(
      this.#caller,
      { plan: { hosting }, seating, lost: [] },
      { receive, losePeer: () => this.calls.losePeer(), loseControl: raise },
    );
    this.#receive = receive;
    const clock = { now_ms: () => 1 };
    this.calls = new Calls({ clock, random: new SeededRandom(1, 1), records: new DeliveredRecords(table), tell: (message) => this.#hear(message) });
  }

  readonly #receive: (mail: ReturnType<MessagePort['read']>) => void;

  get isOver(): boolean {
    return this.calls.open === 0;
  }

  get recordsUsed(): RequestRecords['used'] {
    return this.#records.used;
  }

  ask(choices: number): void {
    const generation = this.calls.generate([7], { n: choices, max_tokens: this.#tokens, ignore_eos: true, signal: this.#abort.signal });
    this.generations.set(idOfCall(generation), { generation, choices });
  }

  /** All callers go away. */
  leave(): void {
    this.#abort.abort();
  }

  /** A worker computes the next tokens of a choice that it has, which lie in its ring, or its outbox, and are not shown yet. */
  compute(at: number, count: number): void {
    const all = [...this.#open.entries()].flatMap(([call, { choices }]) => choices.map((choice) => ({ call, choice })));
    const picked = all[at % Math.max(all.length, 1)];
    if (picked === undefined) return;
    const { call, choice } = picked;
    const port = this.#ports[choice.worker];
    for (let left = count; left > 0 && port && choice.next < this.#tokens; left--, choice.next++) {
      const finish = choice.next === this.#tokens - 1 ? ('length' as const) : null;
      const token = tokenOf(call, choice.sequence.choice, choice.next);
      const chunk: ChunkRecord = {
        ...{ request: choice.sequence.request, choice: choice.sequence.choice, index: choice.next, text: `${token} `, token_ids: [token], logprobs: null },
        ...{ finish, stop_string: null, stop_token: -1, cached: 0, drafted: 0, parsed: null },
      };
      port.send(CALLER_THREAD, 'caller/0', `output/${choice.worker}`, { type: 'CHUNKS', chunks: [chunk] });
    }
    this.#endIfDone(call);
  }

  /** As decode goes on behind prefill: the next tokens come from another worker. */
  move(at: number, worker: number): void {
    const all = [...this.#open.values()].flatMap(({ choices }) => choices);
    const choice = all[at % Math.max(all.length, 1)];
    if (choice !== undefined && this.#ports[worker] !== null) choice.worker = worker;
  }

  flush(worker: number): void {
    this.#ports[worker]?.links.flush();
  }

  /** It has more for the caller than its ring holds. */
  isOwing(worker: number): boolean {
    return (this.#ports[worker]?.links.waiting(CALLER_THREAD, 'data') ?? 0) > 0;
  }

  /** `hasEnded`: of itself; else it was given up, and nobody knows. What it held waits to be computed elsewhere. */
  die(worker: number, hasEnded: boolean): void {
    if (!this.#ports[worker]) return;
    this.#ports[worker] = null;
    this.#page.raiseEpoch(FIRST_THREAD + worker);
    for (const [call, open] of this.#open) if (open.choices.some((choice) => choice.worker === worker && choice.next < this.#tokens)) this.#wait(call, open);
    this.#tell({ type: 'PEER_LOST', worker, has_ended: hasEnded });
  }

  /** A request that waits goes on elsewhere, from its record. */
  goOn(worker: number): void {
    if (!this.#ports[worker]) return;
    for (const [call, open] of this.#open) {
      if (!open.waits) continue;
      const read = this.#taking.read(open.id);
      open.waits = false;
      open.choices = (read?.sequences ?? []).map((sequence) => ({ sequence, worker, next: sequence.output.length }));
      this.#endIfDone(call);
    }
  }

  /** Successors of those whose rings the caller has let go of. */
  restart(): void {
    this.#control.links.receive((_, ring) => {
      const { type, worker } = this.#control.read(ring).message as { readonly type: string; readonly worker: number };
      if (type !== 'PEER_DETACHED') throw new Error(`the control thread heard ${type}`);
      const thread = FIRST_THREAD + worker;
      for (const ring of this.#rings) if (ring.from === thread || ring.to === thread) clearRing(this.#memory, ring);
      this.#ports[worker] = this.#portOf(thread);
      this.#tell({ type: 'PEER_RESTARTED', worker, thread, epoch: this.#page.epochOf(thread), dies: [worker] });
    });
  }

  /** The caller reads a turn's frames. */
  turn(): void {
    this.#caller.links.receive((_, ring) => this.#receive(this.#caller.read(ring)));
    this.#caller.links.flush();
  }

  look(): void {
    if (!this.#caller.links.isOwed()) this.calls.look();
  }

  #portOf(thread: number): MessagePort {
    const links = new Links(thread, this.#memory, this.#ringsOf(thread), this.#page);
    return new MessagePort(links);
  }

  #ringsOf(thread: number): ReturnType<typeof planRings>['rings'] {
    return this.#rings.filter(({ from, to }) => from === thread || to === thread);
  }

  #tell(message: object): void {
    const isNews = 'worker' in message;
    this.#control.send(CALLER_THREAD, 'caller/0', isNews ? 'control/0' : 'frontend/0', message, isNews ? 'control' : 'data');
    this.#control.links.flush();
  }

  #wait(call: number, open: OpenCall): void {
    open.choices = [];
    open.waits = !open.isCancelled;
    if (open.isCancelled) this.#end(call, 'cancelled');
  }

  #endIfDone(call: number): void {
    const open = this.#open.get(call);
    if (open !== undefined && !open.waits && open.choices.every(({ next }) => next === this.#tokens)) this.#end(call, null);
  }

  #end(call: number, code: 'cancelled' | null): void {
    this.#open.delete(call);
    this.#tell({ type: 'ENDED', request: call, error: code && { code, message: 'the caller cancelled the request', param: null } });
  }

  #hear(message: CallerToPod): void {
    const call = message.request;
    if (message.type === 'GENERATE') {
      const sequences = Array.from({ length: message.n }, (_, choice) => sequenceOf(requestId(OWNER.job_executor, 0, call), choice, message));
      const records = this.#records.open(sequences, OWNER.life, -1);
      this.#tell({ type: 'PROMPT', request: call, token_ids: [7], records });
      const choices = sequences.map((sequence, choice) => ({ sequence, worker: (call + choice) % WORKERS, next: 0 }));
      const waits = choices.some(({ worker }) => this.#ports[worker] === null);
      this.#open.set(call, { id: sequences[0]?.request as number, choices: waits ? [] : choices, isCancelled: false, waits });
    } else if (message.type === 'CANCEL_CALL') {
      if (this.#open.has(call)) this.#end(call, 'cancelled');
    } else this.#resume(call);
  }

  #resume(call: number): void {
    this.resumed++;
    try {
      this.#open.set(call, { id: this.#records.reopen(call, OWNER), choices: [], isCancelled: false, waits: true });
    } catch (error) {
      this.#tell({ type: 'ENDED', request: call, error: toErrorRecord(error) });
    }
  }
}

const idOfCall = ({ id }: Generation): number => Number.parseInt(id.slice('cmpl-'.length), 16);

const sequenceOf = (request: number, choice: number, { sampling, cache_salt, priority, max_tokens }: Extract<CallerToPod, { type: 'GENERATE' }>): Sequence => ({
  ...{ request, choice, prompt: [7], max_tokens, sampling, cache_salt, data_parallel_rank: -1, priority, context: '', output: [], held: null, drafts: true },
  text: PLAIN_TEXT,
});
