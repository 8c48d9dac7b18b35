/**
 * The replies to one chat request, one a choice: each is parsed as its text comes.
 * @module
 */
import type { Generations, Piece } from './generations.ts';
import { Reply, type ReplyFormat } from './reply.ts';
import type { Service } from './service.ts';
import { usageOf } from './usage.ts';

/** The last tokens of a prompt: what a template writes to open or close the reasoning is no longer. */
const PROMPT_TAIL_TOKENS = 32;

/** Those of one request, by choice. */
export class Replies {
  readonly #service: Service;
  readonly #generations: Generations;
  readonly #parsing: Omit<ReplyFormat, 'prompt_tail' | 'newId'>;
  readonly #replies = new Map<number, Reply>();
  #prompt_tail: string | null = null;

  constructor(service: Service, generations: Generations, parsing: Omit<ReplyFormat, 'prompt_tail' | 'newId'>) {
    this.#service = service;
    this.#generations = generations;
    this.#parsing = parsing;
  }

  async of(choice: number): Promise<Reply> {
    let reply = this.#replies.get(choice);
    if (reply === undefined) {
      this.#prompt_tail ??= await this.#promptTail();
      reply = new Reply({ ...this.#parsing, prompt_tail: this.#prompt_tail, newId: () => this.#service.clock.newId() });
      this.#replies.set(choice, reply);
    }
    return reply;
  }

  /** Passes pieces on once their replies have read them. */
  async *follow(pieces: AsyncIterable<Piece>): AsyncGenerator<Piece> {
    for await (const piece of pieces) {
      (await this.of(piece.choice)).push(piece.chunk);
      yield piece;
    }
  }

  usage() {
    const { prompt_tokens, completion_tokens, cached_tokens } = this.#generations.usage();
    const reasoning = [...this.#replies.values()].reduce((sum, { reasoning_tokens }) => sum + reasoning_tokens, 0);
    return usageOf(prompt_tokens, completion_tokens, cached_tokens, this.#parsing.reasoning_parser === null ? undefined : reasoning);
  }

  async #promptTail(): Promise<string> {
    if (this.#parsing.reasoning_parser === null) return '';
    const { token_ids } = await this.#generations.prompt(0);
    return this.#service.pod.detokenize(token_ids.slice(-PROMPT_TAIL_TOKENS), { skip_special_tokens: false });
  }
}
