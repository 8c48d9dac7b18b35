/** Changed machines, old traces: a replay names the actor and the message. All of the mutations are run by scripts/mutate-machines.ts. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cases } from '../property-runs.ts';
import { complaintOf, MUTATIONS, MutatedSources } from './machine-mutations.ts';

const CHOSEN = ['request.ts', 'policies/placement.ts', 'policies/step-scheduler.ts', 'npu.ts'];

describe('a machine that was changed', () => {
  let sources: MutatedSources;
  beforeAll(async () => {
    sources = new MutatedSources();
    await sources.record('mixed');
  });
  afterAll(() => sources[Symbol.dispose]());

  it('is of what the sources say', () => {
    expect(MUTATIONS.filter((mutation) => !sources.holds(mutation)).map(({ file, from }) => `${file}: ${from}`)).toEqual([]);
  });

  it.each(cases(CHOSEN))('is found out by an old trace, with the actor and the message that made the difference: %s', async (file) => {
    const mutation = MUTATIONS.find((candidate) => candidate.file === `actors/${file}` && candidate.run === 'mixed');
    if (mutation === undefined) throw new Error(`no mutation of ${file}`);
    const replayed = await sources.replay(mutation);
    expect(replayed.ended.stderr).toBe('');
    expect(complaintOf(mutation, replayed)).toBeNull();
  });
});
