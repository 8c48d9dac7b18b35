/**
 * Rows on their way to experts and back: any bit that flips where they lie is found before anything comes of it, and the step is to be computed once more; where domains take
 * turns, the round is.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../src/fabric/address.ts';
import type { PlanOptions } from '../../src/flowserve/pod-plan.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import { parseTopology } from '../../src/protocol/topology.ts';
import { greedySequence } from '../golden/greedy.ts';
import { runs } from '../property-runs.ts';
import { makeHashPod } from './hash-rig.ts';

const PODS: readonly (readonly [string, Partial<PlanOptions>])[] = [
  ['experts beside attention', { topology: parseTopology('colocated:dp=2') }],
  ['experts apart, two micro-batches', { topology: parseTopology('moe-attention:domains=1x1,experts=2'), micro_batches: 2 }],
  ['a split output projection', { topology: parseTopology('colocated:dp=2,oproj=2') }],
];
const TURNS: readonly (readonly [string, Partial<PlanOptions>])[] = [
  ['by trampolines', { topology: parseTopology('moe-attention:domains=1x2,experts=2') }],
  ['to each expert NPU', { topology: parseTopology('moe-attention:domains=1x2,experts=1') }],
  ['two domains', { topology: parseTopology('moe-attention:domains=2x1,experts=2') }],
];
const PROMPT = Array.from({ length: 12 }, (_, at) => 3 + at);

type Moment = { readonly turn: number; readonly way: 'there' | 'back' };
type Flip = Moment & { readonly which: number; readonly bit: number };

/** One step of NPU 0, polled in turn with all who serve; before some of the turns a bit flips of what travels. */
function compute(options: Partial<PlanOptions>, flips: readonly Flip[]) {
  const { space, programs, services } = makeHashPod(2, { ...options, row_checks: 'each-step' });
  const [program] = programs;
  if (program === undefined) throw new Error('nobody steps');
  const attach = greedySequence(1, PROMPT, 4);
  const entry = { slot: 0, start: 0, tokens: PROMPT, first_block: 0, blocks: [0, 1], shared: 0, generated: 0, samples: true, drafts: 0, foresees: -1 };
  const moments: Moment[] = [];
  let flipped = 0;
  let left = flips;
  const flip = (turn: number, way: Flip['way']): void => {
    if (services.some((service) => [...service.rowsOnTheirWay()].length > 0)) moments.push({ turn, way });
    for (const one of left.filter((each) => each.turn === turn && each.way === way)) {
      const blocks = services.flatMap((service) => [...service.rowsOnTheirWay()]);
      const block = blocks[one.which % Math.max(1, blocks.length)];
      if (block === undefined) continue;
      left = left.filter((each) => each !== one);
      const words = space.wordsOf(block.address);
      const at = offsetOf(block.address) / 4 + (one.bit % (block.bytes / 4));
      words[at] = (words[at] as number) ^ (1 << (one.bit % 32));
      flipped++;
    }
  };
  const damaged = (): number => services.reduce((sum, { exchange }) => sum + exchange.damaged, 0);
  const run = (): string => {
    program.start({ step: 1, after: 0, detach: [], entries: [{ ...entry, attach, output: [] }] });
    try {
      for (let turn = 0; ; turn++) {
        const poll = program.poll();
        if (poll.state === 'done') return `done ${poll.digest} ${poll.outcomes[0]?.token}`;
        flip(turn, 'there');
        for (const service of services) service.serve(64);
        flip(turn, 'back');
      }
    } catch (error) {
      if (!(error instanceof MinipodError)) throw error;
      program.reset();
      return error.code;
    }
  };
  return { run, damaged, flipped: () => flipped, moments };
}

/** Any bit of what travels, at any moment at which something does while nothing has flipped yet. */
const flipAt = (moments: readonly Moment[]): fc.Arbitrary<Flip> =>
  fc.record({ moment: fc.constantFrom(...moments), which: fc.nat(), bit: fc.nat(10_000) }).map(({ moment, ...rest }) => ({ ...moment, ...rest }));

describe.each(PODS)('rows that travel: %s', (_, options) => {
  const undisturbed = compute(options, []);
  const expected = undisturbed.run();

  it('should be found where a bit of them has flipped, and be right when they are computed again', () => {
    expect(undisturbed.damaged()).toBe(0);
    fc.assert(
      fc.property(flipAt(undisturbed.moments), (one) => {
        const { run, damaged, flipped } = compute(options, [one]);
        expect([run(), damaged() > 0, flipped()]).toEqual(['undone', true, 1]);
        expect(run()).toBe(expected);
      }),
      { numRuns: runs(50) },
    );
  });
});

describe.each(TURNS)('rows of domains that take turns, %s', (_, options) => {
  const turns = { ...options, schedule: 'domains' as const };
  const undisturbed = compute(turns, []);
  const expected = undisturbed.run();

  it('should be found where a bit of them has flipped, and asked for once more', () => {
    expect(undisturbed.damaged()).toBe(0);
    fc.assert(
      fc.property(fc.array(flipAt(undisturbed.moments), { minLength: 1, maxLength: 3 }), (flips) => {
        const { run, damaged, flipped } = compute(turns, flips);
        expect([run(), damaged() > 0]).toEqual([expected, true]);
        expect(flipped()).toBeGreaterThan(0);
      }),
      { numRuns: runs(35) },
    );
  });
});
