/** Two cluster managers over all orders of delivery: one leads, the frontend learns who serves, and no lost job executor's requests are forgotten. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { clusterManager } from '../../actors/cluster-manager.ts';
import { peersOf } from '../../src/platform/births.ts';
import { type Address, address } from '../../src/protocol/address.ts';
import { join, leaseLost, leaseRefused, leaseTaken, memberLost, memberReady, takenOver } from '../../src/protocol/constructors.ts';
import type { Claim } from '../../src/protocol/controllers.ts';
import { beatDue, pong, progress, requestsCome } from '../../src/protocol/heartbeats.ts';
import type { Message } from '../../src/protocol/messages.ts';
import { Cast } from '../../src/runtime/cast.ts';
import { runs } from '../property-runs.ts';

const MANAGERS = [0, 1].map((id) => address('cluster-manager', id));
const EXECUTORS = [0, 1, 2].map((id) => address('job-executor', id));
type Mail = { readonly to: Address; readonly from: Address; readonly message: Message };

/** Job executors that take over at once, a lease without a clock, and a queue for each (sender, receiver). */
class ControlPlane {
  readonly unexpected: string[] = [];
  readonly lives = new Map<Address, number>([...MANAGERS, ...EXECUTORS].map((member) => [member, 1]));
  /** By job executor: the lives that were taken over. */
  readonly #taken = new Map<Address, number[]>();
  news: { term: number; serving: readonly { member: Address; life: number }[] } = { term: 0, serving: [] };
  /** Managers whose lease may run out now. */
  readonly hanging = new Set<Address>();
  holder: { readonly manager: Address; readonly life: number; readonly term: number } | null = null;
  readonly #queues = new Map<string, Mail[]>();
  readonly #timers = new Map<Address, Message>();
  #casts = new Map<Address, Cast>();

  constructor() {
    for (const manager of MANAGERS) this.begin(manager);
    for (const executor of EXECUTORS) this.#announce(executor);
    for (const manager of MANAGERS) this.send(manager, 'task-executor/0', memberReady('task-executor/0', 1));
  }

  begin(manager: Address): void {
    const cast = new Cast({
      birthOf: () => null,
      hands: new Map(),
      send: ({ to, from, message }) => this.send(to, from, message),
      // Nobody is asked whether he lives.
      startTimer: (owner, { id, message }) => id === 'lease' && this.#timers.set(owner, message),
      cancelTimer: (owner, id) => id === 'lease' && this.#timers.delete(owner),
      ...{ cancelTimers: () => {}, launch: () => {}, transfer: () => {} },
      claim: (actor, claim) => claim.kind === 'lease' && this.send(actor, actor, this.#lease(actor, claim)),
      onUnexpected: (to, { type }, state) => this.unexpected.push(`${to} ${type} ${state}`),
    });
    this.#casts.set(manager, cast);
    cast.spawn(manager, {
      machine: clusterManager,
      input: { self: manager, life: this.#life(manager), others: MANAGERS.filter((other) => other !== manager), peers: peersOf(manager, this.#life(manager)) },
    });
  }

  send(to: Address, from: Address, message: Message): void {
    const key = `${from}>${to}`;
    this.#queues.set(key, [...(this.#queues.get(key) ?? []), { to, from, message }]);
  }

  /** It dies with all that is on its way from and to it, its supervisor says so, and its successor begins. */
  lose(member: Address): void {
    const life = this.#life(member);
    this.lives.set(member, life + 1);
    for (const [key, [first]] of [...this.#queues]) if (first?.to === member || first?.from === member) this.#queues.delete(key);
    this.#timers.delete(member);
    for (const manager of MANAGERS) if (manager !== member) this.send(manager, 'control/0', memberLost(member, life));
    if (MANAGERS.includes(member)) this.begin(member);
    else this.#announce(member);
  }

  /** One message, or, where none is left, one timer. False: only what goes on for ever is left. */
  step(choose: () => number): boolean {
    const keys = [...this.#queues.keys()];
    const key = keys[choose() % Math.max(1, keys.length)];
    if (key === undefined) {
      // Who has lost the lease finds out when it renews it; who stands by looks at it.
      const isAsking = (owner: Address): boolean => ((this.#casts.get(owner) as Cast).contextOf(owner) as { questions: number }).questions > 0;
      const timers = [...this.#timers.keys()].filter(
        (owner) => isAsking(owner) || (owner !== this.holder?.manager && (this.stateOf(owner) === 'leading' || this.hanging.size > 0)),
      );
      const owner = timers[choose() % Math.max(1, timers.length)];
      if (owner === undefined) return false;
      const message = this.#timers.get(owner) as Message;
      this.#timers.delete(owner);
      this.send(owner, owner, message);
      return true;
    }
    const [mail, ...rest] = this.#queues.get(key) as [Mail, ...Mail[]];
    if (rest.length > 0) this.#queues.set(key, rest);
    else this.#queues.delete(key);
    this.#deliver(mail);
    return true;
  }

  livesTaken(member: Address): readonly number[] {
    return this.#taken.get(member) ?? [];
  }

  stateOf(manager: Address): string | null {
    return this.#casts.get(manager)?.stateOf(manager) ?? null;
  }

  #deliver({ to, from, message }: Mail): void {
    const cast = this.#casts.get(to);
    if (cast !== undefined) cast.deliver({ to, from, message, cause: 0 });
    else if (message.type === 'JOB_EXECUTORS') {
      if (message.term >= this.news.term) this.news = message;
    } else if (message.type === 'TAKE_OVER') {
      this.#taken.set(message.lost, [...this.livesTaken(message.lost), message.life]);
      for (const manager of MANAGERS) this.send(manager, to, takenOver(message.lost, message.life));
    }
  }

  #announce(executor: Address): void {
    for (const manager of MANAGERS) this.send(manager, executor, memberReady(executor, this.#life(executor)));
  }

  #lease(manager: Address, claim: Claim): Message {
    if (claim.kind !== 'lease') throw new Error(`a manager claims ${claim.kind}`);
    const isOver = this.holder === null || this.#life(this.holder.manager) !== this.holder.life || this.hanging.delete(this.holder.manager);
    if (this.holder?.manager !== manager && !isOver && this.holder !== null)
      return claim.term === 0 ? leaseRefused(this.holder.manager, this.holder.term) : leaseLost(this.holder.manager, this.holder.term);
    const isMine = this.holder?.manager === manager && this.holder.life === this.#life(manager);
    this.holder = { manager, life: this.#life(manager), term: isMine ? (this.holder?.term ?? 0) : (this.holder?.term ?? 0) + 1 };
    // It did not hold it all the time: it begins to lead anew.
    return claim.term === 0 || claim.term === this.holder.term ? leaseTaken(this.holder.term) : leaseLost(manager, this.holder.term);
  }

  #life(member: Address): number {
    return this.lives.get(member) as number;
  }
}

type Event = { readonly member: Address | 'hang'; readonly after: number };

/** The second manager's successor asks the first three times, before that one has heard of a job executor, and then comes to lead. Found after 8,000 runs. */
const ASKED_TOO_EARLY: [Event[], number[]] = [
  [
    { member: 'cluster-manager/1', after: 1 },
    { member: 'job-executor/2', after: 3 },
    { member: 'hang', after: 39 },
  ],
  [43, 14, 35, 26, 50, 7, 36, 4, 33, 15, 40, 11, 19, 5, 23, 41, 46, 46, 27, 20, 43, 29, 6, 35, 36, 33, 48, 46, 31, 16, 10],
];

it('one leads; what serves is known, and each loss is taken over by somebody who lived then, whichever manager dies or hangs meanwhile', () => {
  const losses: fc.Arbitrary<Event[]> = fc.array(fc.record({ member: fc.constantFrom(...EXECUTORS, ...MANAGERS, 'hang' as const), after: fc.nat(60) }), {
    maxLength: 7,
  });
  fc.assert(
    fc.property(losses, fc.array(fc.nat(50), { minLength: 30, maxLength: 120 }), (events, order) => {
      const plane = new ControlPlane();
      const queue = [...events].sort((a, b) => a.after - b.after);
      const lost: { readonly member: Address; readonly life: number }[] = [];
      let at = 0;
      const choose = (): number => order[at++ % order.length] as number;
      for (let count = 0; ; count++) {
        while (queue[0] !== undefined && queue[0].after <= count) {
          const { member } = queue.shift() as Event;
          if (member === 'hang') {
            if (plane.holder !== null) plane.hanging.add(plane.holder.manager);
            continue;
          }
          // What both of them forget at the same time, nobody knows.
          if (MANAGERS.some((other) => member !== other && MANAGERS.includes(member) && plane.lives.get(other) !== 1)) continue;
          if (EXECUTORS.includes(member)) lost.push({ member, life: plane.lives.get(member) as number });
          plane.lose(member);
        }
        if (!plane.step(choose) && queue.length === 0) break;
        expect(count).toBeLessThan(20_000);
      }
      expect(plane.unexpected).toEqual([]);
      expect(MANAGERS.map((manager) => plane.stateOf(manager)).sort()).toEqual(['leading', 'standby']);
      expect(plane.stateOf(plane.holder?.manager as Address)).toBe('leading');
      expect(plane.news.serving).toEqual(EXECUTORS.map((member) => ({ member, life: plane.lives.get(member) })));
      // Whoever takes over from a life takes what earlier ones have left, too.
      for (const { member, life } of lost) expect([member, life, plane.livesTaken(member).some((of) => of >= life)]).toEqual([member, life, true]);
    }),
    { numRuns: runs(200), examples: [ASKED_TOO_EARLY] },
  );
});

it('who leads asks the manager beside it no more once that is lost, and its successor from when it has joined: nobody answers for the time before he began', () => {
  const [leader, other] = MANAGERS as [Address, Address];
  let asked: Address[] = [];
  const suspected: Address[] = [];
  const cast = new Cast({
    birthOf: () => null,
    hands: new Map(),
    send: ({ to, message }) => {
      if (message.type === 'PING') asked.push(to);
      if (message.type === 'SUSPECTED') suspected.push(message.member);
    },
    ...{ startTimer: () => {}, cancelTimer: () => {}, cancelTimers: () => {}, launch: () => {}, transfer: () => {}, claim: () => {} },
    onUnexpected: (to, { type }, state) => {
      throw new Error(`${to} does not expect ${type} when ${state}`);
    },
  });
  cast.spawn(leader, { machine: clusterManager, input: { self: leader, life: 1, others: [other], peers: [] } });
  const tell = (...messages: readonly Message[]): void => {
    for (const message of messages) cast.deliver({ to: leader, from: leader, message, cause: 0 });
  };
  let now_ms = 0;
  /** Nothing goes on, and all threads had all of their time. */
  const beat = (): readonly Address[] => {
    asked = [];
    now_ms += 50;
    const { heartbeats } = cast.contextOf(leader) as { heartbeats: { silent: readonly Address[] } };
    const all = (value: number): number[] => heartbeats.silent.map(() => value);
    tell(progress(heartbeats.silent, all(7), all(100), all(1), now_ms), requestsCome(), beatDue());
    return asked;
  };
  tell(leaseTaken(1), requestsCome());
  expect(beat()).toEqual([other]);
  tell(memberLost(other, 1));
  // More than are borne, until the successor runs.
  for (let beats = 0; beats < 12; beats++) expect(beat()).toEqual([]);
  tell(join(other, 2));
  beat();
  expect(beat()).toEqual([other]);
  expect(suspected).toEqual([]);
});

it.each([
  ['ends when nothing has been asked for a while, and everybody has answered: an idle pod sleeps', true, 30],
  ['goes on while somebody has not answered', false, Number.POSITIVE_INFINITY],
])('the heartbeat %s', (_, answers, beats_max) => {
  const [leader, other] = MANAGERS as [Address, Address];
  let claims = 0;
  const cast = new Cast({
    birthOf: () => null,
    hands: new Map(),
    ...{ send: () => {}, startTimer: () => {}, cancelTimer: () => {}, cancelTimers: () => {}, launch: () => {}, transfer: () => {} },
    claim: (_, { kind }) => {
      if (kind === 'progress') claims++;
    },
    onUnexpected: (to, { type }, state) => expect.fail(`${to} does not expect ${type} when ${state}`),
  });
  cast.spawn(leader, { machine: clusterManager, input: { self: leader, life: 1, others: [other], peers: [] } });
  const tell = (...messages: readonly Message[]): void => {
    for (const message of messages) cast.deliver({ to: leader, from: leader, message, cause: 0 });
  };
  tell(leaseTaken(1), requestsCome());
  const beats = Math.min(100, beats_max);
  for (let beat = 1; beat <= beats && claims === beat; beat++) {
    const { heartbeats } = cast.contextOf(leader) as { heartbeats: { silent: readonly Address[] } };
    const all = (value: number): number[] => heartbeats.silent.map(() => value);
    tell(progress(heartbeats.silent, all(beat), all(100), all(1), beat * 50), ...(answers ? [pong(other)] : []), beatDue());
  }
  expect(claims).toBeGreaterThan(1);
  if (answers) expect(claims).toBeLessThanOrEqual(beats_max);
  else expect(claims).toBe(beats + 1);
});
