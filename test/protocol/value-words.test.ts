/** What is said of values from outside that are wrong: what they should be, and what they are, in no library's words. */
import { describe, expect, it } from 'vitest';
import * as z from 'zod';
import { chatSchema, completionSchema, contextSchema, detokenizeSchema, parseRequest, tokenizeSchema } from '../../src/api/schemas.ts';
import { contextOptionsSchema } from '../../src/options/context-options.ts';
import { generateOptionsSchema, parseOptions, podOptionsSchema } from '../../src/options/options.ts';
import { firstIssue, inWords } from '../../src/protocol/value-words.ts';

const WRONG = ['x', '', -1, 0, 1.5, 1e300, Number.NaN, true, [], {}, [{}], ['a'], [[-1]], { a: 1 }, { type: 5 }, () => 1];
const messageOf = (act: () => unknown): string | null => {
  try {
    act();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
};

describe('a wrong value', () => {
  it.each([
    ['createPod', podOptionsSchema],
    ['generate', generateOptionsSchema],
    ['createContext', contextOptionsSchema],
  ] as const)('should be refused by name, with what would be right, in each option of %s', (what, schema) => {
    const messages = Object.keys(schema.shape).flatMap((name) => WRONG.map((value) => messageOf(() => parseOptions(schema, { [name]: value }, what))));
    const said = messages.filter((message) => message !== null);
    expect(said.length).toBeGreaterThan(30);
    const right = new RegExp(`^${what}: [\\w.]+: (must|is required,|is made of|is not a token id|is for pods|needs|there is no such field; there are)`);
    expect(said.filter((message) => !right.test(message))).toEqual([]);
  });

  it.each([
    ['completions', completionSchema],
    ['chat', chatSchema],
    ['contexts', contextSchema],
    ['tokenize', tokenizeSchema],
    ['detokenize', detokenizeSchema],
  ] as const)('should be refused so in each field of a request for %s', (_, schema) => {
    const known = Object.keys(schema.shape);
    const whole = Object.fromEntries(
      Object.entries({ messages: [{ role: 'user', content: 'a' }], prompt: 'a', tokens: [1] }).filter(([name]) => known.includes(name)),
    );
    const fields = [...known, 'messages', 'tools'].flatMap((name) => WRONG.map((value) => ({ [name]: value })));
    const deep = [
      { role: 5 },
      { role: 'user', content: 5 },
      { role: 'user', content: [{ type: 'image' }] },
      { role: 'user', content: [{ type: 'text', text: 5 }] },
    ];
    const bodies = [...fields, ...deep.map((message) => ({ messages: [message] })), { tools: [{ type: 'function', function: { name: 5 } }] }];
    const said = bodies.flatMap((body) => messageOf(() => parseRequest<z.ZodType>(schema, { ...whole, ...body })) ?? []);
    expect(said.length).toBeGreaterThan(5);
    const right = /^[\w.[\]]+: (must|is required,|is made of|is not a token id|either prompt or messages|there is no such field; there are|a|an|"none")/;
    expect(said.filter((message) => !right.test(message) || /invalid|received|too (small|big)|undefined/i.test(message))).toEqual([]);
  });

  it('should be told by its place, and a name by the one that is meant', () => {
    const wordsFor = (schema: z.ZodType, value: unknown): unknown => {
      const result = schema.safeParse(value, inWords);
      return result.success ? null : Object.values(firstIssue(result.error.issues)).slice(-2);
    };
    expect(messageOf(() => parseOptions(podOptionsSchema, { kvBlocks: 1 }, 'createPod'))).toBe(
      'createPod: kvBlocks: there is no such field; kv_blocks is meant',
    );
    expect(messageOf(() => parseOptions(contextOptionsSchema, { ttl: 1 }, 'createContext'))).toBe(
      'createContext: ttl: there is no such field; there are id, expires_s, cache_salt, add_special_tokens',
    );
    expect(messageOf(() => parseOptions(podOptionsSchema, 5, 'createPod'))).toBe('createPod: the options must be an object, not 5');
    expect(messageOf(() => parseOptions(podOptionsSchema, undefined, 'createPod'))).toBe('createPod: the options are required, an object');
    expect(messageOf(() => parseOptions(podOptionsSchema, { topology: [{ role: 'decode' }] }, 'createPod'))).toMatch(
      /topology\.0\.dp: is required, an integer$/,
    );
    expect(wordsFor(z.union([z.string(), z.array(z.string())]), 5)).toContain('must be a string or an array, not 5');
    expect(wordsFor(z.union([z.string(), z.array(z.string())], { error: () => 'must be read aloud' }), 5)).toContain('must be read aloud');
    expect(wordsFor(z.array(z.int().min(1)).max(2), [1, 2, 3])).toContain('must have at most 2 elements, not 3');
    expect(wordsFor(z.string().min(1), '')).toContain('must have at least 1 character, not 0');
    expect(wordsFor(z.int().multipleOf(16), 17)).toContain('must be a multiple of 16, not 17');
  });
});
