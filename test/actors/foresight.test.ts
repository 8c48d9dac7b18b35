/** Computed drafts: what room they ask for, from where a sequence goes on, and that none is computed which nobody can want. */
import { describe, expect, it } from 'vitest';
import { Drafting } from '../../actors/policies/drafting.ts';
import { foreseen, keepable, reachOf, startFrom } from '../../actors/policies/foresight.ts';
import { RelationalTensorCache } from '../../actors/policies/relational-tensor-cache.ts';
import { draftsLeft, newRunningSequence, type RunningSequence } from '../../actors/policies/running-sequence.ts';
import { draftsFor } from '../../actors/policies/step-drafts.ts';
import { greedySequence } from '../golden/greedy.ts';
import { HBM_ALONE } from './cache-memory.ts';

/** A prompt of four tokens, `output` of `max_tokens` drawn, the last of them not computed. */
function running(output: number, max_tokens: number, foresight: number, foreseers = 1): RunningSequence {
  const sequence = { ...greedySequence(1, [1, 2, 3, 4], max_tokens), drafts: true };
  const drawn = Array.from({ length: output }, (_, at) => 10 + at);
  const one = newRunningSequence('task/1', sequence, 'whole', drawn, { rank: 0, arrival: 0, foresight, foreseers });
  const computed = one.tokens.length - 1;
  return Object.assign(one, { computed, launched: computed });
}

describe('who computes drafts', () => {
  it('should compute again as many of the last positions as it has layers for drafts', () => {
    expect([startFrom(running(1, 9, 0), 3), startFrom(running(1, 9, 2), 3), startFrom(running(1, 9, 2, 2), 3), startFrom(running(1, 9, 2, 2), 1)]).toEqual([
      3, 2, 1, 0,
    ]);
  });

  it('should have room for what it drafts, up to the last token that it may have', () => {
    expect([reachOf(running(1, 9, 0), 5), reachOf(running(1, 9, 2), 5), reachOf(running(1, 9, 2), 12), reachOf(running(1, 9, 2), 14)]).toEqual([5, 7, 13, 14]);
  });

  it('should lend what is whole: neither behind a hole nor behind damage', () => {
    const sound = running(5, 9, 2);
    expect(keepable(sound)).toBe(8);
    expect(keepable({ ...sound, hole: 6 })).toBe(6);
    expect(keepable({ ...sound, hole: 6, damage: [{ from: 3 }] } as unknown as RunningSequence)).toBe(3);
  });

  it('should draft no more than is left when the next step has drawn its own token', () => {
    const drafting = new Drafting({ drafts_max: 4, drafts_as_pays: false });
    const draftsAfter = (output: number, max_tokens: number): number => foreseen(running(output, max_tokens, 3), 1, drafting, 1);
    // This step draws one more, the next one again: of ten, five and two are gone.
    expect([draftsAfter(5, 20), draftsAfter(5, 10), draftsAfter(5, 9), draftsAfter(5, 8), draftsAfter(5, 7)]).toEqual([3, 3, 2, 1, 0]);
  });

  it('should leave out drafts of steps that run, where those are looked up: they may be right, and then fewer tokens are left', () => {
    const left = (foresight: number): number => draftsLeft(Object.assign(running(5, 10, foresight), { slack: 2 }));
    expect([left(0), left(3)]).toEqual([2, 4]);
  });

  it('should try one where drafts are looked up, and only then: a try is one step’s', () => {
    const drafting = new Drafting({ drafts_max: 4 });
    const cache = new RelationalTensorCache({ ...HBM_ALONE, blocks: 100 });
    const [looked, computed] = [running(5, 20, 0), Object.assign(running(5, 20, 3), { coming: 2 })];
    expect(draftsFor(looked, 1, 8, drafting, cache)).toBeGreaterThan(0);
    expect(draftsFor(computed, 1, 8, drafting, cache)).toBe(2);
    expect([looked.drafting.isTrying, computed.drafting.isTrying]).toEqual([false, true]);
  });

  it('should have a hole from where it goes on without drafts', () => {
    const drafting = new Drafting({ drafts_max: 4, drafts_as_pays: false });
    const unwanted = running(5, 20, 3);
    const without = { ...unwanted, sequence: { ...unwanted.sequence, drafts: false } };
    expect([foreseen(without, 1, drafting, 1), without.hole, without.coming]).toEqual([-1, 8, 0]);
    // A part of its prompt draws nothing, and is followed by none.
    const prefill = { ...running(0, 20, 3), launched: 0 };
    expect([foreseen(prefill, 2, drafting, 1), prefill.hole]).toEqual([0, -1]);
  });
});
