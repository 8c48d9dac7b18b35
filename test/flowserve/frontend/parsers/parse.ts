/** Parses whole replies, or pieces of them, for tests. @module */
import { ReplyParser, type ReplyParserOptions } from '../../../../src/flowserve/frontend/parsers/reply-parser.ts';
import type { ReplyPart } from '../../../../src/flowserve/frontend/parsers/reply-part.ts';

export type Parsed = {
  readonly reasoning: string;
  readonly content: string;
  readonly calls: readonly { name: string; id: string | null; arguments: string }[];
};

export function joined(parts: readonly ReplyPart[]): Parsed {
  const calls: { name: string; id: string | null; arguments: string }[] = [];
  const texts = { reasoning: '', content: '' };
  for (const part of parts) {
    if (part.kind === 'call') {
      if (part.index !== calls.length) throw new Error(`call ${part.index} after ${calls.length}`);
      calls.push({ name: part.name, id: part.id, arguments: '' });
    } else if (part.kind === 'arguments') {
      const call = calls[part.index];
      if (call === undefined || part.index !== calls.length - 1) throw new Error(`arguments of call ${part.index}, which is not the last`);
      call.arguments += part.text;
    } else texts[part.kind] += part.text;
  }
  return { ...texts, calls };
}

/** Everything that came, in pieces of any size joined where they continue each other. */
export function inOrder(parts: readonly ReplyPart[]): ReplyPart[] {
  const order: ReplyPart[] = [];
  for (const part of parts) {
    const last = order.at(-1);
    if (last !== undefined && 'text' in last && 'text' in part && last.kind === part.kind) order[order.length - 1] = { ...last, text: last.text + part.text };
    else order.push(part);
  }
  return order;
}

export function parse(options: ReplyParserOptions, ...pieces: readonly string[]): ReplyPart[] {
  const parser = new ReplyParser(options);
  return [...pieces.flatMap((piece) => parser.push(piece)), ...parser.end()];
}
