/** A message of which one number came across as another. @module */
import type { Message } from '../protocol/messages.ts';

/** Null: it has no number that could. */
export function corrupted(message: Message): Message | null {
  for (const [field, value] of Object.entries(message)) {
    if (typeof value === 'number') return { ...message, [field]: value ^ 1 } as Message;
    if (Array.isArray(value) && typeof value[0] === 'number') return { ...message, [field]: [value[0] ^ 1, ...value.slice(1)] } as unknown as Message;
  }
  return null;
}
