/**
 * A cluster manager: knows who serves, tells the frontend, and has the requests of a job executor that is lost taken over. There are several, of which one leads
 * (xDeepServe §5: no single controller).
 *
 *   standby ⇄ leading
 *
 * Who leads holds a lease in shared memory, by a term that counts up, and renews it; whoever finds it run out, or its holder dead, takes it. All of them hear
 * the same news, so a new leader begins with what the old one knew; only the leader acts on it. Orders of an old leader that wakes up late are harmless:
 * the frontend goes by the higher term, and what was taken over once is not there a second time. Nothing here waits but for LEASE_DUE.
 *
 * Who leads asks all executors, and who stands by, whether they live (xDeepServe §6): once with each renewal, and once a beat while requests have come of late, or
 * somebody is silent.
 */
import { assign, setup } from 'xstate';
import type { Address } from '../src/protocol/address.ts';
import { disown, jobExecutors, join, leaseDue, memberLife, members, takeOver } from '../src/protocol/constructors.ts';
import type { ClusterManagerMessage, MemberLife } from '../src/protocol/controllers.ts';
import { pong } from '../src/protocol/heartbeats.ts';
import type { Commands } from '../src/protocol/messages.ts';
import { ClusterMembers } from './policies/cluster-members.ts';
import { askForProgress, Heartbeats, nextBeat, sendsOf } from './policies/heartbeats.ts';

/**
 * What was on its way to a manager that died, nobody else may have heard yet: its successor asks so often more, whenever its lease is due; and as often again when
 * it comes to lead, since then nobody else's knowledge counts any more.
 */
const QUESTIONS = 2;
/** Longer than any pause of a thread that is well; who leads renews it three times as often. */
export const LEASE_MS = 3_000;
export const RENEWAL_MS = LEASE_MS / 3;

/** Beats that follow what the frontend says of requests; while they come it says so again in less time (flowserve/frontend/frontend-process.ts). */
const BEATS_WITH_REQUESTS = 10;

const FRONTEND: Address = 'frontend/0';

/** `others`: the managers beside it that live: a successor does not answer for the time before it began; `peers`: those that began before it, and know what it has to hear. */
type ClusterManager = {
  self: Address;
  life: number;
  others: readonly Address[];
  peers: readonly Address[];
  members: ClusterMembers;
  heartbeats: Heartbeats;
  /** So many beats are to come at least. */
  beats: number;
  term: number;
  questions: number;
  outbox: readonly Commands['send'][];
};

const takeOvers = (losses: ReturnType<ClusterMembers['assign']>): Commands['send'][] =>
  losses.map(({ member, life, taker }) => ({ to: taker, message: takeOver(member, life) }));

const questionsOf = ({ self, life, peers }: ClusterManager): Commands['send'][] => peers.map((to) => ({ to, message: join(self, life) }));

const news = ({ term, members }: ClusterManager): Commands['send'] => ({ to: FRONTEND, message: jobExecutors(term, members.jobExecutors) });

/** Task executors go on with nothing that nobody asks for any more. */
const disowned = ({ members }: ClusterManager, losses: readonly MemberLife[]): Commands['send'][] =>
  members.taskExecutors.flatMap(({ member: to }) => losses.map(({ member, life }) => ({ to, message: disown(member, life) })));

const tell = { type: 'sendEach' as const, params: ({ context }: { context: ClusterManager }) => context.outbox };
const take = { type: 'claim' as const, params: { claim: { kind: 'lease' as const, term: 0, length_ms: LEASE_MS } } };
/** Once, however often it was asked in between. */
const lookAgainIn = (delay_ms: number) => [
  { type: 'cancel' as const, params: { id: 'lease' } },
  { type: 'after' as const, params: { id: 'lease', delay_ms, message: leaseDue() } },
];

export const clusterManager = setup({
  types: {} as { input: Pick<ClusterManager, 'self' | 'life' | 'others' | 'peers'>; context: ClusterManager; events: ClusterManagerMessage },
  actions: {
    send: (_, _command: Commands['send']) => {},
    sendEach: (_, _commands: Commands['sendEach']) => {},
    after: (_, _command: Commands['after']) => {},
    cancel: (_, _command: Commands['cancel']) => {},
    claim: (_, _command: Commands['claim']) => {},
    keepTerm: assign({ term: ({ context, event }) => (event.type === 'LEASE_TAKEN' ? event.term : context.term) }),
    noteMembers: assign({
      members: ({ context, event }) => {
        switch (event.type) {
          case 'MEMBERS':
            for (const member of event.lost) context.members.lost(member);
            for (const member of event.serving) context.members.ready(member);
            break;
          case 'MEMBER_READY':
            context.members.ready(memberLife(event.member, event.life));
            break;
          case 'MEMBER_LOST':
            // Its successor is not to answer for its silence.
            if (context.members.lost(memberLife(event.member, event.life))) context.heartbeats.forget(event.member);
            break;
          case 'TAKEN_OVER':
            context.members.takenOver(memberLife(event.lost, event.life));
            break;
        }
        return context.members;
      },
      others: ({ context: { others }, event }) => (event.type === 'MEMBER_LOST' ? others.filter((other) => other !== event.member) : others),
    }),
    noteJoined: assign({
      others: ({ context: { others }, event }) => (event.type === 'JOIN' && !others.includes(event.member) ? [...others, event.member] : others),
    }),
    actOnNews: assign({
      outbox: ({ context }) => {
        const losses = context.members.assign();
        return [news(context), ...disowned(context, losses), ...takeOvers(losses)];
      },
    }),
    askPeers: assign({
      questions: ({ context }) => Math.max(0, context.questions - 1),
      outbox: ({ context }) => (context.questions === 0 ? [] : questionsOf(context)),
    }),
    watchMembers: assign(({ context: { heartbeats, members, others } }) => {
      heartbeats.watchOnly([...members.serving.map(({ member }) => member), ...others]);
      heartbeats.isBeating = true;
      return {};
    }),
    expectMoreBeats: assign({ beats: BEATS_WITH_REQUESTS }),
    noteAnswer: assign(({ context, event }) => {
      if (event.type === 'PONG') context.heartbeats.heard(event.member);
      return {};
    }),
    endBeating: assign(({ context }) => {
      context.heartbeats.rest();
      return {};
    }),
    beat: assign(({ context: { self, heartbeats, beats }, event }) => {
      if (event.type !== 'PROGRESS') return {};
      return { beats: heartbeats.isBetween ? beats : Math.max(0, beats - 1), outbox: sendsOf(self, heartbeats.beat(event)) };
    }),
    beginToLead: assign({
      heartbeats: () => new Heartbeats(),
      beats: 0,
      questions: QUESTIONS,
      outbox: ({ context }) => {
        const losses = context.members.assignAnew();
        return [...questionsOf(context), news(context), ...disowned(context, losses), ...takeOvers(losses)];
      },
    }),
  },
  guards: {
    isBeating: ({ context }) => context.heartbeats.isBeating,
    mustBeat: ({ context }) => context.beats > 0 || context.heartbeats.silent.length > 0,
    isOfLaterTerm: ({ context, event }) => event.type === 'LEASE_TAKEN' && event.term > context.term,
  },
}).createMachine({
  id: 'cluster-manager',
  context: ({ input }) => ({ ...input, members: new ClusterMembers(), heartbeats: new Heartbeats(), beats: 0, term: 0, questions: QUESTIONS, outbox: [] }),
  initial: 'standby',
  entry: { type: 'sendEach', params: ({ context }) => questionsOf(context) },
  on: {
    JOIN: {
      actions: [
        'noteJoined',
        {
          type: 'sendEach',
          params: ({ context, event }) => [{ to: event.member, message: members(context.members.serving, context.members.losses) }],
        },
      ],
    },
    TAKEN_OVER: { actions: 'noteMembers' },
    PING: { actions: { type: 'send', params: ({ context, event }) => ({ to: event.from, message: pong(context.self) }) } },
  },
  states: {
    standby: {
      entry: take,
      on: {
        MEMBERS: { actions: 'noteMembers' },
        MEMBER_READY: { actions: 'noteMembers' },
        // Perhaps it was the leader's thread: then its lease counts no more.
        MEMBER_LOST: { actions: ['noteMembers', take] },
        LEASE_DUE: { actions: ['askPeers', tell, take] },
        LEASE_REFUSED: { actions: lookAgainIn(LEASE_MS) },
        LEASE_TAKEN: { target: 'leading', actions: 'keepTerm' },
        // It led before, or somebody believes that it does.
        BEAT_DUE: {},
        PROGRESS: {},
        PONG: {},
        REQUESTS_COME: {},
      },
    },
    leading: {
      entry: ['beginToLead', { type: 'cancel', params: { id: 'beat' } }, tell, ...lookAgainIn(RENEWAL_MS)],
      on: {
        MEMBERS: { actions: ['noteMembers', 'actOnNews', tell] },
        MEMBER_READY: { actions: ['noteMembers', 'actOnNews', tell] },
        MEMBER_LOST: { actions: ['noteMembers', 'actOnNews', tell] },
        LEASE_DUE: {
          actions: ['askPeers', tell, { type: 'claim', params: ({ context }) => ({ claim: { kind: 'lease', term: context.term, length_ms: LEASE_MS } }) }],
        },
        // It asked twice before it led, and in between somebody else was given it: perhaps it has it again, perhaps not.
        LEASE_TAKEN: [
          { guard: 'isOfLaterTerm', target: 'leading', reenter: true, actions: 'keepTerm' },
          { guard: 'isBeating', actions: lookAgainIn(RENEWAL_MS) },
          { actions: [...lookAgainIn(RENEWAL_MS), 'watchMembers', askForProgress] },
        ],
        REQUESTS_COME: [{ guard: 'isBeating', actions: 'expectMoreBeats' }, { actions: ['expectMoreBeats', 'watchMembers', askForProgress] }],
        BEAT_DUE: [{ guard: 'mustBeat', actions: ['watchMembers', askForProgress] }, { actions: 'endBeating' }],
        PROGRESS: { actions: ['beat', tell, nextBeat] },
        PONG: { actions: 'noteAnswer' },
        LEASE_REFUSED: 'standby',
        LEASE_LOST: 'standby',
      },
    },
  },
});
