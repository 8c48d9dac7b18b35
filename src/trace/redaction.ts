/**
 * What a trace keeps of a run whose prompts are not to be in it: of each prompt its length, and nothing of what stands in it.
 *
 *   as it was:   prompt [1, 86, 1461]   tokens of a step [1, 86, 1461], then [912]   prompt_logprobs [{…}, {…}]
 *   redacted:    prompt [0, 0, 0]       tokens of a step [0, 0, 0], then [0]         prompt_logprobs []
 *
 * Without prefix caching, which such a run goes without, no actor looks at a prompt's tokens, only at how many there are: so it decides on the redacted message what it decided on the whole one, and its commands,
 * redacted, are the same. That is why the tokens of all steps go, generated ones too: a replay cannot tell them apart. Checksums are of redacted commands;
 * those of whole ones could be searched for a short prompt. What was generated stays, and the digest of what it came from: whoever has the model can hold a
 * guess of a whole prompt against them, as against the answer itself.
 * @module
 */
import { PLAIN_TEXT } from '../protocol/constructors.ts';
import type { Message, Sequence, Work } from '../protocol/messages.ts';
import type { TokenOut } from '../protocol/output.ts';
import type { StepOutcome, StepPlan } from '../protocol/steps.ts';
import type { Command } from '../runtime/cast.ts';

export type Prompts = 'recorded' | 'redacted';

const zeros = (tokens: readonly number[]): number[] => tokens.map(() => 0);

const sequenceOf = (sequence: Sequence): Sequence => ({
  ...sequence,
  prompt: zeros(sequence.prompt),
  cache_salt: '',
  context: '',
  // Who reads them is no actor.
  text: PLAIN_TEXT,
});

const planOf = (plan: StepPlan): StepPlan => ({
  ...plan,
  entries: plan.entries.map((entry) => ({ ...entry, tokens: zeros(entry.tokens), attach: entry.attach === null ? null : sequenceOf(entry.attach) })),
});

/** That there are any decides where they go, so that stays. */
const withoutPromptLogprobs = <Outcome extends StepOutcome | TokenOut>(outcome: Outcome): Outcome =>
  outcome.prompt_logprobs === null ? outcome : { ...outcome, prompt_logprobs: [] };

const workOf = (work: Work): Work => (work.kind === 'step' ? { ...work, plan: planOf(work.plan) } : work);

/** What is redacted already stays as it is. */
export function redactMessage(message: Message): Message {
  switch (message.type) {
    case 'SUBMIT':
    case 'RESUME':
    case 'RECORD_TAKEN':
    case 'RECORD_REOPENED':
    case 'RECORD_READ':
    case 'REPLACED':
    case 'PLAN':
      return { ...message, sequences: message.sequences.map(sequenceOf) };
    case 'ASSIGN':
    case 'ENQUEUE':
      return { ...message, sequence: sequenceOf(message.sequence) };
    case 'KEEP_CONTEXT':
      return { ...message, context: '', cache_salt: '', tokens: zeros(message.tokens) };
    case 'FORGET_CONTEXT':
      return { ...message, context: '' };
    // Marks of a short prompt can be searched; where prompts are left out nobody looks at them (prefill-leader.ts).
    case 'PLACE':
    case 'GROUP_WANTED':
      return { ...message, wanted: { ...message.wanted, marks: zeros(message.wanted.marks) } };
    case 'STEP':
      return { ...message, plan: planOf(message.plan) };
    case 'LAUNCH_DONE':
    case 'STEP_DONE':
      return { ...message, outcomes: message.outcomes.map(withoutPromptLogprobs) };
    case 'TOKENS':
      return {
        ...message,
        tokens: message.tokens.map(withoutPromptLogprobs),
        begun: message.begun.map((begun) => ({ ...begun, sequence: sequenceOf(begun.sequence) })),
      };
    default:
      return message;
  }
}

export function redactCommand(command: Command): Command {
  if (command.name === 'launch') return { ...command, work: workOf(command.work) };
  return 'message' in command ? { ...command, message: redactMessage(command.message) } : command;
}
