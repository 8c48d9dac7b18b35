import { readFileSync } from 'node:fs';

/** The README's embedding example: its first TypeScript block. */
export function readmeExample(): string {
  const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');
  const example = /```ts\n([\s\S]*?)```/.exec(readme)?.[1];
  if (example === undefined) throw new Error('README.md has no block of TypeScript');
  return example;
}
