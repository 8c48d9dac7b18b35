/**
 * The whole cast on one thread, without threads or kernels: every message waits in the queue of its (sender, receiver), and the test says which queue is
 * next. That is what the design promises about order, and no more.
 */
import { dpGroup } from '../../actors/dp-group.ts';
import { jobExecutor } from '../../actors/job-executor.ts';
import { npu as npuMachine } from '../../actors/npu.ts';
import type { CacheCosts } from '../../actors/policies/cache-costs.ts';
import type { Balancing } from '../../actors/policies/placement.ts';
import type { StepScheduler } from '../../actors/policies/step-scheduler.ts';
import { taskExecutor } from '../../actors/task-executor.ts';
import { birthOf } from '../../src/platform/births.ts';
import { type Address, address, idOf, type Role, roleOf } from '../../src/protocol/address.ts';
import {
  choiceStopped,
  decodeTaskAddress,
  launchDone,
  launchFailed,
  leaseExpired,
  npuLost,
  npuReady,
  resetDone,
  started,
  stopFound,
  taskAddress,
} from '../../src/protocol/constructors.ts';
import type { Claim } from '../../src/protocol/controllers.ts';
import { type Message, type Sequence, type Stage, taskId, type Work } from '../../src/protocol/messages.ts';
import type { OutputMessage } from '../../src/protocol/output.ts';
import { type AttentionPlace, attentionPlaceOf, type Deployment, type DpGroupPlace, deploy, type Topology } from '../../src/protocol/topology.ts';
import { ActorHost } from '../../src/runtime/actor-host.ts';
import type { Witness } from '../../src/runtime/cast.ts';
import { ChoicesInPod } from './choices-in-pod.ts';
import { FakeNpu } from './fake-npu.ts';
import { FakeTransfers } from './fake-transfers.ts';

export const KV_BLOCK_SIZE = 4;
const BATCH_TOKENS_MAX = 16;
/** Any hit in DRAM is worth its fetching. */
const FREE: CacheCosts = {
  dram_fixed_us: 0,
  dram_us_per_block: 0,
  remote_fixed_us: 0,
  remote_us_per_block: 0,
  compute_us_per_token: 1,
  attention_us_per_position: 0,
};
const TIERS = { dram_blocks: 6, cache_costs: FREE };

export type QueuedCastOptions = {
  readonly topology: Topology;
  readonly kv_blocks: number;
  readonly choices_max: number;
  readonly choice?: Balancing;
  readonly kv_transfer?: 'request' | 'layer';
  readonly witness?: Witness;
};
type Mail = { readonly to: Address; readonly from: Address; readonly message: Message };

export class QueuedCast {
  /** One host an actor: so nothing but the queues lies between two of them. */
  readonly #hosts = new Map<Address, ActorHost>();
  /** What reached the frontend, or an output process on its way there. */
  readonly frontend: Message[] = [];
  /** By choice: where its last token was shown. */
  readonly #shown = new Map<number, { readonly output: Address; readonly stage: Stage }>();
  /** `role state` of each actor after each of its messages. */
  readonly visited = new Set<string>();
  readonly unexpected: string[] = [];
  readonly transfers: FakeTransfers;
  readonly #queues = new Map<string, Mail[]>();
  readonly #npus: readonly FakeNpu[];
  readonly #choices = new ChoicesInPod();
  readonly #witness: Witness | undefined;
  /** NPUs whose next step throws. */
  readonly broken = new Set<number>();
  /** Those where one has thrown, until they are reset. */
  readonly #failed = new Set<number>();

  /** Ranks that are lost. */
  readonly #lost = new Set<number>();
  readonly #deployment: Deployment;

  constructor({ topology, kv_blocks, choices_max, choice = 'packed', kv_transfer = 'request', witness }: QueuedCastOptions) {
    this.#deployment = deploy(topology);
    const { executors, groups, npus } = this.#deployment;
    this.#witness = witness;
    this.#npus = npus.map(() => new FakeNpu(KV_BLOCK_SIZE, BATCH_TOKENS_MAX));
    const ranks = groups.map((group) => group.npus.map((npu) => this.#npus[npu] as FakeNpu));
    this.transfers = new FakeTransfers(ranks, (group, message) => this.send(group, group, message));
    const seats = executors.map(({ id, role, experts, groups }) => ({ address: address('task-executor', id), role, npus: experts.npus, groups }));
    this.#hostOf('job-executor/0').spawn('job-executor/0', {
      machine: jobExecutor,
      input: { self: 'job-executor/0', life: 1, choices_max, managers: [], executors: seats },
    });
    for (const { id, groups: own } of executors) {
      const self = address('task-executor', id);
      const groupSeats = own.map((group) => ({ group, worker: group, npus: (groups[group] as DpGroupPlace).npus }));
      this.#hostOf(self).spawn(self, {
        machine: taskExecutor,
        input: {
          self,
          managers: [],
          groups: groupSeats,
          batch_max: 4,
          choice,
          long: { tokens: 9, groups: 1 },
          expert_map: null,
          scaling: null,
          respawns: true,
          role_switch: null,
        },
      });
    }
    const limits = {
      kv_blocks,
      kv_block_size: KV_BLOCK_SIZE,
      batch_tokens_max: BATCH_TOKENS_MAX,
      batch_requests_max: 3,
      has_prefix_cache: true,
      is_asynchronous: true,
      has_priorities: true,
      lends_by_layer: kv_transfer === 'layer',
      offers_max: 2,
      shares_prefixes: false,
      drafts_max: 2,
      ...TIERS,
    };
    for (const { id, npus: ranks } of groups) {
      for (const npu of ranks) this.#bringUp(npu);
      const self = address('dp-group', id);
      this.#hostOf(self).spawn(self, { machine: dpGroup, input: { self, npus: ranks.map((npu) => address('npu', npu)), limits, lease_ms: 30_000 } });
    }
    this.run(() => 0);
  }

  #placeOf(npu: number): AttentionPlace {
    return attentionPlaceOf(this.#deployment, npu);
  }

  #bringUp(npu: number): void {
    const self = address('npu', npu);
    const { group, executor } = this.#placeOf(npu);
    this.#hostOf(self).spawn(self, { machine: npuMachine, input: { self, dp_group: address('dp-group', group) } });
    this.send(self, self, started());
    this.send(address('task-executor', executor), self, npuReady(npu, []));
  }

  /** A rank but the first is lost with its thread: what was on its way to it, and what it had said to itself. What it said to others may still arrive. */
  lose(npu: number): void {
    const self = address('npu', npu);
    if (this.#lost.has(npu) || this.#placeOf(npu).rank === 0) return;
    const executor = address('task-executor', this.#placeOf(npu).executor);
    this.#lost.add(npu);
    this.#hosts.delete(self);
    for (const key of [...this.#queues.keys()]) if (key.endsWith(`>${self}`) || key === `${self}>${executor}`) this.#queues.delete(key);
    this.#npus[npu]?.reset();
    this.#failed.delete(npu);
    // The host tells of it before anything else happens.
    const host = this.#hostOf(executor);
    host.send(executor, 'control/0', npuLost(npu, { code: 'worker_failed', message: 'lost', param: null }));
    host.turn();
  }

  /** Its successor comes to life. */
  restore(npu: number): void {
    if (this.#lost.delete(npu)) this.#bringUp(npu);
  }

  /** The time is over for which the first KV was lent: the clock of its group says so. */
  expireOne(): void {
    const lent = this.transfers.first;
    if (lent !== null) this.send(lent.group, lent.group, leaseExpired(lent.id));
  }

  /** A stop string ended the choice with its last token: as its output process tells of it. */
  stop(sequence: Sequence): void {
    const shown = this.#shown.get(taskId(sequence));
    if (shown === undefined) return;
    const { output, stage } = shown;
    if (stage === 'prefill') this.send(address('job', sequence.request), output, choiceStopped(sequence.choice));
    else this.send(address('dp-group', idOf(output)), output, stopFound(stage === 'decode' ? decodeTaskAddress(sequence) : taskAddress(sequence)));
  }

  #show(output: Address, message: OutputMessage): void {
    this.frontend.push(message);
    if (message.type === 'TOKENS') for (const { sequence, stage } of message.begun) this.#shown.set(taskId(sequence), { output, stage });
  }

  /** All of them do. */
  restoreAll(): void {
    for (const npu of [...this.#lost]) this.restore(npu);
  }

  send(to: Address, from: Address, message: Message): void {
    if (roleOf(to) === 'npu' && (this.#lost.has(idOf(to)) || this.#isUntold(from, idOf(to)))) return;
    const key = `${from}>${to}`;
    const queue = this.#queues.get(key) ?? [];
    queue.push({ to, from, message });
    this.#queues.set(key, queue);
  }

  /** What tells `sender` of the NPU's loss is still under way: until then it sends to the one that is dead (links carry epochs), though the next one lives. */
  #isUntold(sender: Address, npu: number): boolean {
    const news = this.#queues.get(`${address('task-executor', this.#placeOf(npu).executor)}>${sender}`) ?? [];
    return news.some(({ message }) => message.type === 'RANK_LOST' && message.npu === npu);
  }

  /** Delivers one message of the queue that `choose` picks; false if there is none. */
  step(choose: (queues: number) => number): boolean {
    const keys = [...this.#queues.keys()];
    const { pulls } = this.transfers;
    const chosen = choose(keys.length + pulls.length) % (keys.length + pulls.length);
    const pull = pulls[chosen - keys.length];
    if (pull !== undefined) {
      this.transfers.end(pull, true);
      return true;
    }
    const key = keys[chosen];
    const queue = key === undefined ? undefined : this.#queues.get(key);
    const mail = queue?.shift();
    if (key === undefined || queue === undefined || mail === undefined) return false;
    if (queue.length === 0) this.#queues.delete(key);
    const host = this.#hostOf(mail.to);
    host.send(mail.to, mail.from, mail.message);
    host.turn();
    if (host.cast.actors === 0) this.#hosts.delete(mail.to);
    const state = this.stateOf(mail.to);
    if (state !== null) this.visited.add(`${roleOf(mail.to)} ${state}`);
    return true;
  }

  run(choose: (queues: number) => number): void {
    for (let count = 0; this.step(choose); count++) if (count > 200_000) throw new Error('the cast never comes to rest');
  }

  get actors(): number {
    return this.#hosts.size;
  }

  stateOf(actor: Address): string | null {
    return this.#hosts.get(actor)?.cast.stateOf(actor) ?? null;
  }

  contextOf(actor: Address): unknown {
    return this.#hosts.get(actor)?.cast.contextOf(actor) ?? null;
  }

  #hostOf(actor: Address): ActorHost {
    const known = this.#hosts.get(actor);
    if (known !== undefined) return known;
    const host = new ActorHost({
      clock: { now_ms: () => 0 },
      isLocal: (to) => to === actor,
      transmit: (to, from, message) => this.send(to, from, message),
      birthOf,
      hands: new Map<Role, (mail: Mail) => void>([
        ['frontend', ({ message }) => this.frontend.push(message)],
        ['output', ({ to, message }) => this.#show(to, message as OutputMessage)],
      ]),
      launch: (npu, work) => this.#launch(npu, work),
      transfer: (group, work) => this.transfers.perform(group, work),
      claim: (executor, claim) => this.#claim(executor, claim),
      witness: this.#witness,
      onUnexpected: (to, message, state) => this.unexpected.push(`${roleOf(to)} ${message.type} ${state}`),
    });
    this.#hosts.set(actor, host);
    return host;
  }

  schedulerOf(group: number): StepScheduler {
    return (this.contextOf(address('dp-group', group)) as { scheduler: StepScheduler }).scheduler;
  }

  #claim(executor: Address, claim: Claim): void {
    const answer = this.#choices.claim(claim);
    if (answer !== null) this.send(executor, executor, answer);
  }

  #launch(npu: Address, work: Work): void {
    const fake = this.#npus[idOf(npu)] as FakeNpu;
    if (work.kind !== 'step' && work.kind !== 'release-slots' && work.kind !== 'reset') return;
    if (work.kind === 'release-slots') fake.release(work.slots);
    else if (work.kind === 'reset') {
      fake.reset();
      this.#failed.delete(idOf(npu));
      this.send(npu, npu, resetDone());
    } else if (this.#failed.has(idOf(npu))) {
      // It was launched behind the step that failed.
    } else if (this.broken.delete(idOf(npu))) {
      this.#failed.add(idOf(npu));
      this.#beginLending(npu, work.plan.step, false);
      this.send(npu, npu, launchFailed(work.plan.step, { code: 'worker_failed', message: 'broken', param: null }));
    } else {
      const outcomes = fake.run(work.plan);
      this.#beginLending(npu, work.plan.step, true);
      this.send(npu, npu, launchDone(work.plan.step, outcomes, 0, 0, 0));
    }
  }

  #beginLending(npu: Address, step: number, isSound: boolean): void {
    const { group, rank } = this.#placeOf(idOf(npu));
    if (rank === 0) this.transfers.begin(address('dp-group', group), step, isSound);
  }
}
