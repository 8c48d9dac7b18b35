/**
 * Which roles a chat template knows: one that it does not know it leaves out without a word, as those with a chain of `if role == …` do. Found out by rendering
 * small conversations, once for each role.
 * @module
 */

import { MinipodError } from '../protocol/errors.ts';
import type { ChatMessage } from '../protocol/prompt.ts';
import type { ChatTemplate } from './chat-template.ts';

const COMMON = ['system', 'developer', 'user', 'assistant', 'tool'] as const;
/** Nothing that a template writes by itself. */
const MARK = 'kqzvxjw';
/** Roles that are remembered: a caller's may be any text. */
const ROLES_MAX = 64;

const CALL = { id: 'call_1', type: 'function', function: { name: 'f', arguments: '{}' } } as const;
const USER: ChatMessage = { role: 'user', content: 'a' };
/** What may have to come before a message: templates want turns, and results after their calls. */
const BEFORE: readonly (readonly ChatMessage[])[] = [
  [],
  [USER],
  [USER, { role: 'assistant', content: 'b' }],
  [USER, { role: 'assistant', content: '', tool_calls: [CALL] }],
];

export class ChatRoles {
  readonly #template: ChatTemplate;
  readonly #known = new Map<string, boolean>();

  constructor(template: ChatTemplate) {
    this.#template = template;
  }

  /** @throws `invalid_request` for a message that the template would leave out because of its role */
  check(messages: readonly ChatMessage[]): void {
    for (const [index, { role }] of messages.entries()) {
      if (this.#isKnown(role)) continue;
      const known = COMMON.filter((common) => this.#isKnown(common)).map((common) => JSON.stringify(common));
      const message = `messages.${index}.role: the model's chat template leaves messages of role ${JSON.stringify(role.slice(0, 100))} out; it knows ${known.join(', ')}`;
      throw new MinipodError('invalid_request', message, { param: `messages.${index}.role` });
    }
  }

  #isKnown(role: string): boolean {
    let isKnown = this.#known.get(role);
    if (isKnown === undefined) {
      isKnown = !this.#isLeftOut(role);
      if (this.#known.size < ROLES_MAX) this.#known.set(role, isKnown);
    }
    return isKnown;
  }

  /** A template that refuses it somewhere says so itself. */
  #isLeftOut(role: string): boolean {
    const message: ChatMessage = { role, content: MARK, ...(role === 'tool' && { tool_call_id: CALL.id, name: CALL.function.name }) };
    return BEFORE.every((before) => {
      try {
        return !this.#template([...before, message], { addGenerationPrompt: false }).includes(MARK);
      } catch {
        return false;
      }
    });
  }
}
