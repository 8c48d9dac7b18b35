/** What a link loses, doubles, reorders or damages arrives once, whole and in order, or the link is said to be broken. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { setup } from 'xstate';
import { load } from '../../src/protocol/constructors.ts';
import type { Message } from '../../src/protocol/messages.ts';
import type { Act, Mail } from '../../src/runtime/cast.ts';
import type { Copy } from '../../src/runtime/disturbance.ts';
import { SeededRandom } from '../../src/runtime/seeded-random.ts';
import { VirtualHost } from '../../src/runtime/virtual-host.ts';

const collector = setup({}).createMachine({ id: 'collector', initial: 'on', states: { on: { on: { LOAD: { actions: [] } } } } });
const tokensOf = (message: Message | null): number => (message?.type === 'LOAD' ? message.tokens : -1);

/** Tokens in the order in which they come, and of broken links. */
function arrivals(count: number, disturb: (mail: Mail, delay_ns: number) => readonly Copy[] | null): { readonly got: number[]; readonly broken: number[] } {
  const acts: Act[] = [];
  const broken: number[] = [];
  const host = new VirtualHost({
    ...{ birthOf: () => null, hands: new Map(), onUnexpected: () => {}, transfer: () => {}, launch: () => {} },
    costs: { message_ns: () => 1_000, jitter: 0.5 },
    random: new SeededRandom(1),
    witness: (act) => acts.push(act),
    links: { crosses: () => true, sumOf: tokensOf, onBroken: ({ message }) => broken.push(tokensOf(message)) },
  });
  host.spawn('npu/0', { machine: collector, input: undefined });
  host.disturbance = { meet: () => {}, transmit: disturb, timer_ms: (_, delay_ms) => delay_ms, step_ns: (_, duration_ns) => duration_ns };
  for (let tokens = 0; tokens < count; tokens++) host.send('npu/0', 'dp-group/0', load(tokens));
  while (host.step());
  return { got: acts.flatMap(({ message }) => (message === null ? [] : [tokensOf(message)])), broken };
}

it('should hand out each frame once and in order, whatever happens on the way', () => {
  const act = fc.constantFrom('as ever', 'as ever', 'lost', 'doubled', 'late', 'damaged');
  fc.assert(
    fc.property(fc.array(act, { minLength: 1, maxLength: 40 }), (fates) => {
      let next = 0;
      const { got, broken } = arrivals(20, (mail, delay_ns) => {
        const fate = fates[next++] ?? 'as ever';
        const copy = { mail, delay_ns, keepsOrder: true };
        if (fate === 'lost') return [];
        if (fate === 'doubled') return [copy, { ...copy, delay_ns: delay_ns * 3 }];
        if (fate === 'late') return [{ ...copy, delay_ns: delay_ns * 20, keepsOrder: false }];
        return fate === 'damaged' ? [{ ...copy, mail: { ...mail, message: load(99) } }] : null;
      });
      expect([got, broken]).toEqual([[...Array(20).keys()], []]);
    }),
  );
});

it('should say that a link is broken which lets nothing through', () => {
  const { got, broken } = arrivals(3, ({ message }) => (tokensOf(message) === 1 ? [] : null));
  expect([got, broken]).toEqual([[0], [1]]);
});
