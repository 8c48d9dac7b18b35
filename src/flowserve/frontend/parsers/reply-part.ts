/**
 * What a reply is made of, and what the parsers of both kinds have in common: text goes in, parts come out.
 * @module
 */

import type { ReplyPart } from '../../../protocol/output.ts';

export type { ReplyPart };

export type Emit = (part: ReplyPart) => void;

/**
 * A machine over single characters (UTF-16 units): its state and all that it has emitted are a function of the text so far, however that text was cut. So one
 * made from a choice's ids so far goes on where a lost one stopped.
 */
export interface Parser {
  step(character: string): void;
  /** The text has ended: what was held back comes out. */
  end(): void;
}

/** Joins neighbours that continue each other, so that a piece of text gives few parts. */
export class PartCollector {
  #parts: ReplyPart[] = [];

  readonly emit: Emit = (part) => {
    if ('text' in part && part.text === '') return;
    const last = this.#parts.at(-1);
    const goesOn = last !== undefined && 'text' in last && 'text' in part && last.kind === part.kind && indexOf(last) === indexOf(part);
    if (goesOn) this.#parts[this.#parts.length - 1] = { ...last, text: last.text + part.text };
    else this.#parts.push(part);
  };

  take(): readonly ReplyPart[] {
    const parts = this.#parts;
    this.#parts = [];
    return parts;
  }
}

const indexOf = (part: ReplyPart): number => ('index' in part ? part.index : -1);
