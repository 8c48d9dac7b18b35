/**
 * How each request of a trace ended: with which tokens, and with which error.
 * @module
 */
import { crc32 } from 'node:zlib';
import { type Address, address, roleOf } from '../protocol/address.ts';
import type { ActRecord } from './act-record.ts';
import { HANDS } from './hands.ts';

/** `tokens`: the CRC-32 of each choice's tokens, and how many there were. */
export type RequestEnd = { readonly outcome: string; readonly tokens: readonly { readonly count: number; readonly checksum: number }[] };

type Choice = { count: number; checksum: number };

export class RequestEnds {
  readonly #open = new Map<Address, Choice[]>();

  /** Called for each act in order; gives the end that this one tells of. */
  add({ to, message }: ActRecord): { readonly request: Address; readonly end: RequestEnd } | null {
    if (message === null || !HANDS.has(roleOf(to))) return null;
    if (message.type === 'TOKENS')
      for (const { request, choice, token } of message.tokens) if (token >= 0) this.#addToken(address('request', request), choice, token);
    if (message.type !== 'REQUEST_ENDED') return null;
    const { request, error } = message;
    const choices = this.#open.get(request) ?? [];
    this.#open.delete(request);
    return {
      request,
      end: { outcome: error === null ? 'finished' : error.code, tokens: Array.from(choices, (choice) => choice ?? { count: 0, checksum: 0 }) },
    };
  }

  #addToken(request: Address, choice: number, token: number): void {
    let choices = this.#open.get(request);
    if (choices === undefined) {
      choices = [];
      this.#open.set(request, choices);
    }
    const { count, checksum } = choices[choice] ?? { count: 0, checksum: 0 };
    choices[choice] = { count: count + 1, checksum: crc32(`${token},`, checksum) };
  }
}

export const isSameEnd = (a: RequestEnd, b: RequestEnd): boolean => JSON.stringify(a) === JSON.stringify(b);

/** `finished with 64 tokens`, `cancelled after 3 + 5 tokens`. */
export function endText({ outcome, tokens }: RequestEnd): string {
  const counts = tokens.length === 0 ? '0' : tokens.map(({ count }) => count).join(' + ');
  return `${outcome} ${outcome === 'finished' ? 'with' : 'after'} ${counts} ${counts === '1' ? 'token' : 'tokens'}`;
}
