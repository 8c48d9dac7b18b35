/** The lease and the generation in all interleavings: right as they are, and wrong as soon as one step is another. */
import { describe, expect, it } from 'vitest';
import { explore } from '../../fabric/small-model.ts';
import { type GenerationFault, generationModel } from './small-model-generation.ts';
import { type LeaseFault, leaseModel } from './small-model-lease.ts';

describe('a lease of two offers, two pullers, a clock and a death', () => {
  it.each([
    [1, 'nobody'],
    [2, 'nobody'],
    [1, 'A'],
    [2, 'A'],
  ] as const)(
    'is agreed upon by both sides, and never lets a block be written under the copy, in any interleaving; B is told of offer %i, dies: %s',
    (told, dies) => {
      const { states, ends, wrong } = explore(leaseModel({ told, dies, fault: 'none' }));
      expect(wrong).toBeNull();
      expect(ends).toBeGreaterThan(0);
      expect(states).toBeGreaterThan(500);
    },
  );

  const faults: readonly (readonly [LeaseFault, 1 | 2, 'A' | 'nobody', RegExp])[] = [
    ['collect at the fence', 1, 'nobody', /written under the copy/],
    ['collect unfenced', 1, 'nobody', /written under the copy/],
    ['fence by store', 1, 'nobody', /does not know|stuck/],
    ['release by store', 2, 'A', /believes|stuck/],
    ['claim by store', 1, 'nobody', /written under the copy/],
    ['no serial', 1, 'nobody', /delivered what was not offered/],
    ['no acknowledgement', 1, 'nobody', /stuck/],
    ['stop before the read', 1, 'nobody', /written under the copy/],
  ];
  it.each(faults)('is seen to break by: %s', (fault, told, dies, what) => {
    expect(explore(leaseModel({ told, dies, fault })).wrong).toMatch(what);
  });
});

describe('a generation', () => {
  it('shows every copy that saw new content', () => {
    const { ends, wrong } = explore(generationModel('none'));
    expect(wrong).toBeNull();
    expect(ends).toBeGreaterThan(0);
  });

  it.each(['write before the generation', 'generation before the copy'] as const satisfies readonly GenerationFault[])('is seen to break by: %s', (fault) => {
    expect(explore(generationModel(fault)).wrong).toMatch(/new content/);
  });
});
