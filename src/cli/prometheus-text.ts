/** Reads Prometheus' text format, as /metrics answers in. @module */

export type Labels = Readonly<Record<string, string>>;
export type Sample = { readonly name: string; readonly labels: Labels; readonly value: number };

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+([+-]?(?:Inf|NaN|[\d.]+(?:e[+-]?\d+)?))(?:\s|$)/i;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED: Readonly<Record<string, string>> = { '\\n': '\n', '\\"': '"', '\\\\': '\\' };

const unescaped = (text: string): string => text.replace(/\\[n"\\]/g, (pair) => ESCAPED[pair] ?? pair);
const numberOf = (text: string): number => (text === '+Inf' ? Number.POSITIVE_INFINITY : text === '-Inf' ? Number.NEGATIVE_INFINITY : Number(text));

/** All samples; comments, and lines that are none, are left out. */
export const readMetrics = (text: string): Sample[] =>
  text.split('\n').flatMap((line) => {
    const [, name, labels = '', value = ''] = SAMPLE.exec(line) ?? [];
    if (name === undefined) return [];
    return [{ name, labels: Object.fromEntries([...labels.matchAll(LABEL)].map(([, key = '', text = '']) => [key, unescaped(text)])), value: numberOf(value) }];
  });
