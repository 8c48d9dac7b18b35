/** The mailbox is ours: bounded work a turn, no actor starves another, and each gets its messages in the order they were sent. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { assign, setup } from 'xstate';
import type { Address } from '../../src/protocol/address.ts';
import type { Message } from '../../src/protocol/messages.ts';
import { ActorHost } from '../../src/runtime/actor-host.ts';

const collector = setup({ types: {} as { context: { got: number[] }; events: { type: 'LOAD'; tokens: number } } }).createMachine({
  context: { got: [] },
  on: { LOAD: { actions: assign({ got: ({ context, event }) => [...context.got, event.tokens] }) } },
});
const load = (tokens: number): Message => ({ type: 'LOAD', tokens }) as Message;

function makeHost(actors: readonly Address[]): ActorHost {
  const host = new ActorHost({
    clock: { now_ms: () => 0 },
    transmit: () => {},
    isLocal: () => true,
    birthOf: () => null,
    hands: new Map(),
    launch: () => {},
    onUnexpected: (to, { type }) => {
      throw new Error(`${to} did not expect ${type}`);
    },
  });
  for (const actor of actors) host.spawn(actor, { machine: collector, input: undefined });
  return host;
}
const gotBy = (host: ActorHost, actor: Address): number[] => (host.contextOf(actor) as { got: number[] }).got;

describe('an actor host', () => {
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
      { numRuns: 100 },
    );
  });
});
