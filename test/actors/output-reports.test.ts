/** What a DP group tells its output process of a sequence, and what it takes of a step that went wrong in part. */
import { describe, expect, it } from 'vitest';
import { GOES_ON, OutputReports } from '../../actors/policies/output-reports.ts';
import { newRunningSequence, outputTokens, type RunningSequence } from '../../actors/policies/running-sequence.ts';
import { landed } from '../../actors/policies/step-results.ts';
import { forget } from '../../src/protocol/constructors.ts';
import type { TokenOut } from '../../src/protocol/output.ts';
import type { StepOutcome } from '../../src/protocol/steps.ts';
import { greedySequence } from '../golden/greedy.ts';

/** Of a prompt of three tokens, the third choice of request 7. */
const sequence = (): RunningSequence => newRunningSequence('task/1', greedySequence(7, [1, 2, 3], 9, 2), 'whole', [], { rank: 0, arrival: 0 });
const taken = (reports: OutputReports): readonly TokenOut[] => reports.take().flatMap(({ message }) => (message.type === 'TOKENS' ? message.tokens : []));
const LOGPROBS = [{ logprob: -1, top_ids: [], top_logprobs: [] }];

describe('a report of a step', () => {
  it('should be of no token where a chunk of the prompt has log-probabilities alone, and of the first one behind', () => {
    const reports = new OutputReports('dp-group/3');
    const running = sequence();
    reports.add(running, { token: -1, logprobs: null }, GOES_ON, 1, LOGPROBS, 0);
    running.tokens.push(40);
    reports.add(running, { token: 40, logprobs: null }, GOES_ON, 3, null, 0);
    const told = taken(reports);
    expect(told.map(({ request, choice, index, token }) => ({ request, choice, index, token }))).toEqual([
      { request: 7, choice: 2, index: -1, token: -1 },
      { request: 7, choice: 2, index: 0, token: 40 },
    ]);
    // All experts were there.
    for (const one of told) expect(one).not.toHaveProperty('degraded');
  });

  it('should say of a choice that nothing follows, once, where its output process knows of it', () => {
    const reports = new OutputReports('dp-group/3');
    const running = sequence();
    reports.forget(running);
    expect(reports.take()).toEqual([]);
    running.tokens.push(40);
    reports.add(running, { token: 40, logprobs: null }, GOES_ON, 3, null, 0);
    reports.take();
    reports.forget(running);
    reports.forget(running);
    expect(reports.take()).toEqual([{ to: 'output/3', message: forget(7, 2) }]);
  });

  it.each([
    ['of the sequence itself gives no token', [], 0],
    ['of its draft leaves the token before it', [50], 1],
    ['of one of its drafts leaves the token before them', [50, 51], 1],
  ] as const)('a row that failed: one %s', (_, drafts, drawn) => {
    const reports = new OutputReports('dp-group/3');
    const running = Object.assign(sequence(), { computed: 2, launched: 3, flights: 1, sampling: 1, slack: drafts.length });
    const error = { code: 'worker_failed', message: 'logits are not finite', param: null } as const;
    const outcome: StepOutcome = { token: 40, logprobs: null, prompt_logprobs: null, error, more: [], drafts };
    const entry = { running, count: 1, samples: true, drafts: drafts.length, foresees: -1 };
    landed(entry, outcome, reports);
    expect(outputTokens(running)).toHaveLength(drawn);
    expect(taken(reports).map(({ token }) => token)).toEqual(drawn === 0 ? [] : [40]);
  });
});
