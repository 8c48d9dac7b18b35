/**
 * What a caller may say of contexts: prompts that are kept under an id.
 * @module
 */
import * as z from 'zod';
import { cacheSaltSchema, LIMITS } from './options.ts';

/** How to keep a prompt under an id (`createContext`). */
export const contextOptionsSchema = z.strictObject({
  /** Default: drawn. */
  id: z
    .string()
    .regex(/^[A-Za-z0-9_.:-]+$/, 'must be made of letters, digits, and _ . : -')
    // Nobody could ask for it, or delete it, over HTTP.
    .refine((id) => id !== '.' && id !== '..', 'must not be . or .., which are steps in the path of a URL')
    .max(LIMITS.context_id_length_max)
    .optional(),
  /** It is forgotten so many seconds after its creation. Default: never. */
  expires_s: z.number().positive().optional(),
  /** Only requests of the same salt find it. */
  cache_salt: cacheSaltSchema,
  /** Put bos before a text prompt, if the model has one. */
  add_special_tokens: z.boolean().default(true),
});
export type ContextOptions = z.input<typeof contextOptionsSchema> & {
  /** Until it is there: it is given up, and nothing is kept. */
  readonly signal?: AbortSignal | undefined;
};

/** Whose contexts are meant. */
export const contextsOfSchema = z.strictObject({ cache_salt: cacheSaltSchema });
export type ContextsOf = z.input<typeof contextsOfSchema>;
