/** The mailbox is ours: bounded work a turn, no actor starves another, and each gets its messages in the order they were sent. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { assign, setup } from 'xstate';
import type { Address } from '../../src/protocol/address.ts';
import type { Commands, Message } from '../../src/protocol/messages.ts';
import { ActorHost, type HostPorts, MAILBOX_MAX } from '../../src/runtime/actor-host.ts';
import type { Mail } from '../../src/runtime/cast.ts';
import { runs } from '../property-runs.ts';

const collector = setup({ types: {} as { context: { got: number[] }; events: { type: 'LOAD'; tokens: number } | { type: 'STARTED' } } }).createMachine({
  context: { got: [] },
  initial: 'idle',
  states: { idle: {} },
  on: { LOAD: { actions: assign({ got: ({ context, event }) => [...context.got, event.tokens] }) } },
});
const ping = { type: 'STARTED' } as Message;
const load = (tokens: number): Message => ({ type: 'LOAD', tokens }) as Message;

/** Ends with the first message after the one that brought it to life. */
const mortal = setup({}).createMachine({ initial: 'alive', states: { alive: { on: { STARTED: 'dead' } }, dead: { type: 'final' } } });
const doubler = setup({
  types: {} as { input: { peer: Address }; context: { peer: Address }; events: { type: 'STARTED' } },
  actions: { sendEach: (_, _commands: Commands['sendEach']) => {} },
}).createMachine({
  context: ({ input }) => input,
  initial: 'doubling',
  states: {
    doubling: {
      on: {
        STARTED: {
          actions: { type: 'sendEach', params: ({ context: { peer } }) => ['npu/0', peer].map((to) => ({ to: to as Address, message: ping })) },
        },
      },
    },
  },
});

const ports: HostPorts = {
  clock: { now_ms: () => 0 },
  transmit: () => {},
  isLocal: () => true,
  birthOf: () => null,
  hands: new Map(),
  transfer: () => {},
  launch: () => {},
  onUnexpected: (to, { type }) => {
    throw new Error(`${to} did not expect ${type}`);
  },
};

function makeHost(actors: readonly Address[]): ActorHost {
  const host = new ActorHost(ports);
  for (const actor of actors) host.spawn(actor, { machine: collector, input: undefined });
  return host;
}
const gotBy = (host: ActorHost, actor: Address): number[] => (host.cast.contextOf(actor) as { got: number[] }).got;

describe('an actor host', () => {
  it('takes as many messages for one actor as a mailbox holds, and fails at the next, naming the actor, its state and what floods it', () => {
    const host = makeHost(['npu/0', 'npu/1']);
    host.send('npu/1', 'npu/9', load(1));
    for (let index = 0; index < 1_000; index++) host.send('npu/0', 'npu/9', ping);
    for (let index = 1_000; index < MAILBOX_MAX; index++) host.send('npu/0', 'npu/9', load(index));
    expect(() => host.send('npu/0', 'npu/9', ping)).toThrow(
      expect.objectContaining({ code: 'internal', message: expect.stringMatching(/65536 messages.* npu\/0, which is idle: most of them are LOAD.* STARTED$/) }),
    );
    // Nobody else's mailbox is full.
    host.send('npu/1', 'npu/9', load(2));
    host.send('npu/7', 'npu/9', load(2));
  });

  it('counts what waits, not what came: a mailbox that is emptied takes as many again, and so does a successor of the same name', () => {
    const births: Address[] = [];
    const host = new ActorHost({
      ...ports,
      birthOf: (to) => {
        births.push(to);
        return { machine: mortal, input: undefined };
      },
    });
    for (let round = 0; round < 2; round++) {
      // The first brings it to life, the second ends it, and so on.
      for (let index = 0; index < MAILBOX_MAX; index++) host.send('request/1', 'npu/9', ping);
      while (host.hasMail) host.turn();
    }
    expect(births.length).toBe(MAILBOX_MAX);
  });

  it('fails as loudly at a flood from within: actors that answer one message with two', () => {
    const host = new ActorHost(ports);
    for (const actor of ['npu/0', 'npu/1'] as const) host.spawn(actor, { machine: doubler, input: { peer: actor === 'npu/0' ? 'npu/1' : 'npu/0' } });
    host.send('npu/0', 'npu/9', ping);
    expect(() => {
      while (host.hasMail) host.turn();
    }).toThrow(/npu\/[01], which is doubling: most of them are STARTED/);
  });

  it('fails at a flood of one who is no actor', () => {
    const host = new ActorHost({ ...ports, hands: new Map([['frontend', () => {}]]) });
    for (let index = 0; index < MAILBOX_MAX; index++) host.send('frontend/0', 'npu/9', load(index));
    expect(() => host.send('frontend/0', 'npu/9', load(0))).toThrow(/65536 messages .*frontend\/0, which is no actor here: most of them are LOAD/);
    while (host.hasMail) host.turn();
    host.send('frontend/0', 'npu/9', load(0));
  });

  it('lets no flood of one actor keep another waiting beyond the turn', () => {
    const host = makeHost(['npu/0', 'npu/1', 'npu/2']);
    for (let index = 0; index < 5_000; index++) host.send('npu/0', 'npu/9', load(index));
    host.send('npu/1', 'npu/9', load(7));
    host.send('npu/2', 'npu/9', load(8));
    host.turn();
    expect([gotBy(host, 'npu/1'), gotBy(host, 'npu/2')]).toEqual([[7], [8]]);
    expect(gotBy(host, 'npu/0').length).toBeLessThan(1_000);
    while (host.hasMail) host.turn();
    expect(gotBy(host, 'npu/0')).toEqual(Array.from({ length: 5_000 }, (_, index) => index));
  });

  it('delivers each message once and in order, also where a delivery leads to other turns', () => {
    const actors: readonly Address[] = ['npu/0', 'npu/1', 'npu/2'];
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 90 })), { maxLength: 12 }), fc.integer({ min: 1, max: 7 }), (bursts, every) => {
        const handed: number[] = [];
        // As the control thread does, when it gives a worker up of whom it was told: what that leads to happens now.
        const hand = (mail: Mail): void => {
          const { tokens } = mail.message as Message & { readonly tokens: number };
          handed.push(tokens);
          if (tokens % every !== 0) return;
          host.send('npu/2', 'npu/9', load(tokens));
          while (host.hasMail) host.turn();
          expect(gotBy(host, 'npu/2').at(-1)).toBe(tokens);
        };
        const host = new ActorHost({ ...ports, hands: new Map([['frontend', hand]]) });
        for (const actor of actors) host.spawn(actor, { machine: collector, input: undefined });
        const sent: number[][] = [[], [], [], []];
        let number = 0;
        for (const [who, count] of bursts) {
          for (let index = 0; index < count; index++) {
            host.send([...actors, 'frontend/0' as const][who] as Address, 'npu/9', load(number));
            sent[who]?.push(number++);
          }
        }
        while (host.hasMail) host.turn();
        const [first, second, third, ofHand] = sent as [number[], number[], number[], number[]];
        expect([gotBy(host, 'npu/0'), gotBy(host, 'npu/1'), handed]).toEqual([first, second, ofHand]);
        const byNumber = (a: number, b: number): number => a - b;
        expect(gotBy(host, 'npu/2').sort(byNumber)).toEqual([...third, ...ofHand.filter((token) => token % every === 0)].sort(byNumber));
      }),
      { numRuns: runs(100) },
    );
  });

  it('gives each actor all of its messages in the order they were sent, however they are mixed', () => {
    const actors: readonly Address[] = ['npu/0', 'npu/1', 'npu/2', 'npu/3'];
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 1, max: 90 })), { maxLength: 20 }), fc.integer(), (bursts, seed) => {
        const host = makeHost(actors);
        const sent: number[][] = actors.map(() => []);
        let number = 0;
        for (const [who, count] of bursts) {
          for (let index = 0; index < count; index++) {
            host.send(actors[who] as Address, 'npu/9', load(number));
            sent[who]?.push(number++);
          }
          if ((seed + number) % 3 === 0) host.turn();
        }
        while (host.hasMail) host.turn();
        expect(actors.map((actor) => gotBy(host, actor))).toEqual(sent);
      }),
      { numRuns: runs(100) },
    );
  });
});
