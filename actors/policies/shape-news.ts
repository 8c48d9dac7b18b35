/**
 * What whoever changes the shape is told, where it is news: by the task executor which of its groups are lost, and that all is as it was to be; by the expert map
 * which NPUs have experts, and which are lost for good.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import { expertsLeft, groupsGone, serving } from '../../src/protocol/constructors.ts';
import type { Commands } from '../../src/protocol/messages.ts';
import type { TaskPlacement } from './placement.ts';

/** `scaling`: null: nobody changes it. `serve_query`: of who waits for an answer; −1: nobody does. `gone`: as far as is told. */
export function groupNews(
  scaling: Address | null,
  { goneGroups, isAsAsked }: TaskPlacement,
  serve_query: number,
  gone: readonly number[],
): { readonly serve_query: number; readonly gone: readonly number[]; readonly sends: readonly Commands['send'][] } {
  if (scaling === null) return { serve_query, gone, sends: [] };
  const isDone = serve_query >= 0 && isAsAsked;
  const news = `${goneGroups}` === `${gone}` ? [] : [{ to: scaling, message: groupsGone(goneGroups) }];
  const done = isDone ? [{ to: scaling, message: serving(serve_query) }] : [];
  return { serve_query: isDone ? -1 : serve_query, gone: goneGroups, sends: [...news, ...done] };
}

type Shape = { readonly holders: readonly number[]; readonly rehoming: { readonly gone: ReadonlySet<number> } };

export class ShapeNews {
  /** Null: nobody changes it. */
  readonly #scaling: Address | null;
  #told: string;

  constructor(scaling: Address | null, first: Shape) {
    this.#scaling = scaling;
    this.#told = textOf(first);
  }

  take(now: Shape): Commands['send'][] {
    const text = textOf(now);
    if (this.#scaling === null || text === this.#told) return [];
    this.#told = text;
    return [{ to: this.#scaling, message: expertsLeft(now.holders, goneOf(now)) }];
  }
}

const goneOf = ({ rehoming: { gone } }: Shape): number[] => [...gone].sort((a, b) => a - b);
const textOf = (shape: Shape): string => `${shape.holders} without ${goneOf(shape)}`;
