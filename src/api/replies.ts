/**
 * The replies to one chat request, one a choice, as they come.
 * @module
 */
import type { Generations, Piece } from './generations.ts';
import { Reply, type ReplyFormat } from './reply.ts';
import type { Service } from './service.ts';
import { usageOf } from './usage.ts';

/** Those of one request, by choice. */
export class Replies {
  readonly #service: Service;
  readonly #generations: Generations;
  readonly #parsing: Omit<ReplyFormat, 'newId'>;
  readonly #replies = new Map<number, Reply>();

  constructor(service: Service, generations: Generations, parsing: Omit<ReplyFormat, 'newId'>) {
    this.#service = service;
    this.#generations = generations;
    this.#parsing = parsing;
  }

  of(choice: number): Reply {
    let reply = this.#replies.get(choice);
    if (reply === undefined) {
      reply = new Reply({ ...this.#parsing, newId: () => this.#service.clock.newId() });
      this.#replies.set(choice, reply);
    }
    return reply;
  }

  /** Passes pieces on once their replies have read them. */
  async *follow(pieces: AsyncIterable<Piece>): AsyncGenerator<Piece> {
    for await (const piece of pieces) {
      this.of(piece.choice).push(piece.chunk);
      yield piece;
    }
  }

  usage() {
    const { prompt_tokens, completion_tokens, cached_tokens, drafted } = this.#generations.usage();
    const reasoning = [...this.#replies.values()].reduce((sum, { reasoning_tokens }) => sum + reasoning_tokens, 0);
    return usageOf(prompt_tokens, completion_tokens, cached_tokens, this.#parsing.reasoning_parser === null ? undefined : reasoning, drafted);
  }
}
