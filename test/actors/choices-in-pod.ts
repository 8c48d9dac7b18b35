/** Room for choices, as shared memory counts it: what a job executor is answered. */
import { choicesGranted, choicesRefused, recordRead } from '../../src/protocol/constructors.ts';
import type { Claim } from '../../src/protocol/controllers.ts';
import type { Message } from '../../src/protocol/messages.ts';

export class ChoicesInPod {
  #held = 0;

  claim(claim: Claim): Message | null {
    if (claim.kind === 'release-choices') this.#held -= claim.choices;
    // Nothing is recorded here.
    if (claim.kind === 'record') return recordRead(claim.request, [], { code: 'worker_failed', message: 'not recorded', param: null });
    if (claim.kind !== 'choices') return null;
    const { request, choices, data_parallel_rank, choices_max } = claim;
    if (this.#held + choices > choices_max) return choicesRefused(request, choices, this.#held);
    this.#held += choices;
    return choicesGranted(request, choices, data_parallel_rank);
  }
}
