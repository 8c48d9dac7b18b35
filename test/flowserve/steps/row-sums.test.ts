/**
 * Rows on their way to experts and back: any bit that flips where they lie is found before anything comes of it, and the step is to be computed once more; where
 * domains take turns, the round is.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../../src/fabric/address.ts';
import type { PlanOptions } from '../../../src/flowserve/pod-plan.ts';
import { MinipodError } from '../../../src/protocol/errors.ts';
import { parseTopology } from '../../../src/protocol/topology.ts';
import { greedySequence } from '../../golden/greedy.ts';
import { runs } from '../../property-runs.ts';
import { makeHashPod } from '../hash-rig.ts';

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

/** Of the rows that are left in all, whoever leaves them: the number of those of which it flips a bit. */
type Flip = { readonly which: number; readonly bit: number };

/** One step of NPU 0, polled in turn with all who serve; some of the rows that are left have a bit flipped before anybody takes them. */
function compute(options: Partial<PlanOptions>, flips: readonly Flip[]) {
  const { space, programs, services, travel } = makeHashPod(2, { ...options, row_checks: 'each-step' });
  const [program] = programs;
  if (program === undefined) throw new Error('nobody steps');
  const attach = greedySequence(1, PROMPT, 4);
  const entry = { slot: 0, start: 0, tokens: PROMPT, first_block: 0, blocks: [0, 1], shared: 0, generated: 0, samples: true, drafts: 0, foresees: -1 };
  let left = 0;
  travel.add((_, rows) => {
    for (const { address, bytes } of rows) {
      for (const { bit } of flips.filter(({ which }) => which === left)) {
        const words = space.wordsOf(address);
        const at = offsetOf(address) / 4 + (bit % (bytes / 4));
        words[at] = (words[at] as number) ^ (1 << (bit % 32));
      }
      left++;
    }
    return false;
  });
  const damaged = (): number => services.reduce((sum, { exchange }) => sum + exchange.damaged, 0);
  const run = (): string => {
    program.start({ step: 1, after: 0, detach: [], entries: [{ ...entry, attach, output: [] }] });
    try {
      for (;;) {
        const poll = program.poll();
        if (poll.state === 'done') return `done ${poll.digest} ${poll.outcomes[0]?.token}`;
        for (const service of services) service.serve(64);
      }
    } catch (error) {
      if (!(error instanceof MinipodError)) throw error;
      program.reset();
      return error.code;
    }
  };
  return { run, damaged, left: () => left };
}

/** What a step finds that nobody disturbs, and what flips there can be in it. */
function undisturbed(options: Partial<PlanOptions>) {
  const { run, damaged, left } = compute(options, []);
  const expected = run();
  if (damaged() > 0 || left() === 0) throw new Error(`${damaged()} of ${left()} are not what they were`);
  return { expected, flip: fc.record({ which: fc.nat(left() - 1), bit: fc.nat(10_000) }) };
}

describe.each(PODS)('rows that travel: %s', (_, options) => {
  it('should be found where a bit of them has flipped, and be right when they are computed again', () => {
    const { expected, flip } = undisturbed(options);
    fc.assert(
      fc.property(flip, (one) => {
        const { run, damaged } = compute(options, [one]);
        expect([run(), damaged() > 0, run()]).toEqual(['undone', true, expected]);
      }),
      { numRuns: runs(100) },
    );
  });
});

describe.each(TURNS)('rows of domains that take turns, %s', (_, options) => {
  const turns = { ...options, schedule: 'domains' as const };

  it('should be found where a bit of them has flipped, and asked for once more', () => {
    const { expected, flip } = undisturbed(turns);
    const flips = fc.uniqueArray(flip, { selector: ({ which }) => which, minLength: 1, maxLength: 3 });
    fc.assert(
      fc.property(flips, (all) => {
        const { run, damaged } = compute(turns, all);
        expect([run(), damaged() > 0]).toEqual([expected, true]);
      }),
      { numRuns: runs(50) },
    );
  });
});
