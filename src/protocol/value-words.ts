/**
 * What is wrong with a value from outside, in words of this project's own: what it should be, and what it is. Given to zod at each check, never to all of it:
 * a program that embeds this one may use zod too.
 * @module
 */

/** What of zod's issues is read here: as they are found, and as they are told. */
type RawIssue = {
  readonly code?: string | undefined;
  readonly input?: unknown;
  readonly inst?: unknown;
  readonly expected?: string;
  readonly origin?: string;
  readonly minimum?: number | bigint;
  readonly maximum?: number | bigint;
  readonly inclusive?: boolean | undefined;
  readonly divisor?: number | bigint;
  readonly format?: string;
  readonly pattern?: string | undefined;
  readonly values?: readonly unknown[];
  readonly keys?: readonly string[];
  /** Of what is told apart by one field: its name, and what it may be. */
  readonly discriminator?: string | undefined;
  readonly options?: readonly unknown[] | undefined;
};
type Issue = { readonly path: readonly PropertyKey[]; readonly message: string };
type ToldIssue = Issue & {
  readonly code?: string | undefined;
  readonly keys?: readonly string[];
  readonly issues?: readonly ToldIssue[];
  readonly errors?: readonly (readonly ToldIssue[])[];
};

const SHOWN_MAX = 60;
/** Of what nobody has words for: zod's own. */
const NO_WORDS = 'Invalid input';
const TYPES: Readonly<Record<string, string>> = {
  ...{ number: 'a number', int: 'an integer', string: 'a string', boolean: 'true or false', array: 'an array', tuple: 'an array' },
  ...{ object: 'an object', record: 'an object' },
};

/** To be passed with each value that is checked. */
export const inWords = { error: (issue: RawIssue): string | undefined => wordsOf(issue) } as const;

function wordsOf(issue: RawIssue): string | undefined {
  const { input, origin = '' } = issue;
  switch (issue.code) {
    case 'invalid_type': {
      const { expected, inst } = issue;
      const type = expected === 'number' && definitionOf(inst).format === 'safeint' ? 'an integer' : (TYPES[expected ?? ''] ?? `of type ${expected}`);
      return input === undefined ? `is required, ${type}` : `must be ${type}, not ${shown(input)}`;
    }
    case 'too_small':
      return `must ${bound(origin, Number(issue.minimum), issue.inclusive === false ? 'more than' : 'at least')}, not ${sizeOf(input)}`;
    case 'too_big':
      return `must ${bound(origin, Number(issue.maximum), issue.inclusive === false ? 'less than' : 'at most')}, not ${sizeOf(input)}`;
    case 'not_multiple_of':
      return `must be a multiple of ${issue.divisor}, not ${shown(input)}`;
    case 'invalid_value':
      return oneOf(issue.values, input);
    case 'invalid_union':
      return issue.discriminator === undefined ? undefined : oneOf(issue.options, (input as Readonly<Record<string, unknown>>)[issue.discriminator]);
    case 'invalid_format':
      return `must be ${issue.format === 'url' ? 'a URL' : `of the form ${issue.pattern ?? issue.format}`}, not ${shown(input)}`;
    case 'unrecognized_keys':
      return unknownKey(String(issue.keys?.[0]), Object.keys(definitionOf(issue.inst).shape ?? {}));
    default:
      return undefined;
  }
}

function oneOf(known: readonly unknown[] = [], input: unknown): string {
  const values = known.map((value) => (typeof value === 'string' ? JSON.stringify(value) : String(value)));
  const right = values.length === 1 ? values[0] : `one of ${values.join(', ')}`;
  return input === undefined ? `is required, ${right}` : `must be ${right}, not ${shown(input)}`;
}

type Definition = { readonly shape?: object; readonly format?: string };
const definitionOf = (schema: unknown): Definition => (schema as { readonly _zod?: { readonly def?: Definition } } | undefined)?._zod?.def ?? {};

/** The first that is at fault; of a union, the branch that got furthest tells most, and of several the one with the least at fault. */
export function firstIssue(issues: readonly ToldIssue[]): Issue {
  const issue = issues[0];
  if (issue === undefined) return { path: [], message: 'is wrong' };
  if (issue.code === 'unrecognized_keys') return { path: [...issue.path, issue.keys?.[0] ?? ''], message: issue.message };
  if (issue.code === 'invalid_key') return { path: issue.path, message: firstIssue(issue.issues ?? []).message };
  // A union may have words of its own.
  if (issue.code !== 'invalid_union' || issue.errors?.length === 0 || issue.message !== NO_WORDS) return issue;
  const branches = (issue.errors ?? []).toSorted((a, b) => a.length - b.length).map(firstIssue);
  const best = branches.toSorted((a, b) => b.path.length - a.path.length)[0];
  if (best === undefined || best.path.length === 0) return { path: issue.path, message: either([...new Set(branches.map(({ message }) => message))]) };
  return { path: [...issue.path, ...best.path], message: best.message };
}

/** "must be a string, not 5", "must be an array, not 5": said once. */
function either(messages: readonly string[]): string {
  const parts = messages.map((message) => /^(must be |is required, )(.*?)(, not .*)?$/s.exec(message));
  const [first] = parts;
  const alike = parts.every((part) => part?.[1] === first?.[1] && part?.[3] === first?.[3]);
  if (!first || !alike) return messages.join(', or ');
  return `${first[1]}${parts.map((part) => part?.[2]).join(' or ')}${first[3] ?? ''}`;
}

function bound(origin: string, limit: number, than: string): string {
  if (origin === 'string') return `have ${than} ${counted(limit, 'character')}`;
  if (origin === 'array') return `have ${than} ${counted(limit, 'element')}`;
  return `be ${than} ${limit}`;
}

const counted = (count: number, thing: string): string => `${count} ${thing}${count === 1 ? '' : 's'}`;

const sizeOf = (value: unknown): string => (typeof value === 'string' || Array.isArray(value) ? String(value.length) : shown(value));

function unknownKey(key: string, known: readonly string[]): string {
  const plain = (name: string): string => name.replaceAll(/[_-]/g, '').toLowerCase();
  const meant = known.find((name) => plain(name) === plain(key));
  if (meant !== undefined) return `there is no such field; ${meant} is meant`;
  return known.length === 0 ? 'there is no such field' : `there is no such field; there are ${known.join(', ')}`;
}

/** As JSON, cut. */
function shown(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? 'an empty array' : 'an array';
  if (typeof value === 'object' && value !== null) return 'an object';
  if (typeof value === 'function') return 'a function';
  if (value === undefined) return 'nothing';
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}…` : text;
}
