/**
 * Checks of a checkpoint's config files, whose errors name file, field, expected and found.
 * @module
 */
import * as z from 'zod';
import { MinipodError } from '../protocol/errors.ts';

/** Named limits: a corrupt config must not make a list of a thousand million tensors. */
export const CONFIG_LIMITS = { layers_max: 1_024, experts_max: 4_096, dimension_max: 1 << 24, positions_max: 1 << 28 } as const;

export const count = z.int().min(1);
export const dimension = z.int().min(1).max(CONFIG_LIMITS.dimension_max);
export const positive = z.number().positive();

/** Checks of one config file, whose errors name the file and the field. */
export class ConfigFields {
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  parse<Schema extends z.ZodType>(schema: Schema, value: unknown): z.output<Schema> {
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    const issue = result.error.issues[0];
    const path = issue?.path ?? [];
    let found: unknown = value;
    for (const key of path) found = (found as Record<PropertyKey, unknown> | null | undefined)?.[key];
    return this.fail(
      path.join('.') || 'the whole file',
      issue === undefined ? 'a valid value' : expectation(issue),
      found === undefined ? 'nothing' : JSON.stringify(found).slice(0, 200),
    );
  }

  fail(field: string, expected: string, found: string): never {
    throw new MinipodError('invalid_checkpoint', `${this.#file}: ${field}: expected ${expected}, found ${found}`);
  }

  /** Kernels read rows as vectors of four float32. */
  multipleOf4(dimensions: { readonly [field: string]: number }): void {
    for (const [field, size] of Object.entries(dimensions)) if (size % 4 !== 0) this.fail(field, 'a multiple of 4', String(size));
  }
}

/** What zod's issue asks for, as it reads after "expected". */
function expectation(issue: z.core.$ZodIssue): string {
  if (issue.code === 'too_small') return `a number ${issue.inclusive ? '>=' : '>'} ${issue.minimum}`;
  if (issue.code === 'too_big') return `a number ${issue.inclusive ? '<=' : '<'} ${issue.maximum}`;
  return issue.message.replace(/^Invalid input: expected (.*?)(?:, received .*)?$/, '$1');
}
