/** What is done where a worker is lost, by the names of the field (xDeepServe §6). @module */

/** `restart`: all workers end and begin anew, those that decode before those that only prefill. `fine-grained`: the lost one alone has a successor. */
export const RECOVERIES = ['fine-grained', 'restart'] as const;
export type Recovery = (typeof RECOVERIES)[number];
