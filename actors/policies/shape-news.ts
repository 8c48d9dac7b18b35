/**
 * What whoever changes the shape is told, where it is news: by the task executor which of its groups are lost, and that all is as it was to be; by the expert map
 * which NPUs have experts, and which are lost for good.
 * @module
 */
import type { Address } from '../../src/protocol/address.ts';
import { expertsLeft, groupsGone, serving } from '../../src/protocol/constructors.ts';
import type { Commands, Message } from '../../src/protocol/messages.ts';
import type { TaskPlacement } from './placement.ts';

/** `scaling`: null: nobody changes how many there are. `asker`: waits for an answer; null: nobody does. `gone`: as far as is told. */
type Groups = {
  readonly scaling: Address | null;
  readonly placement: TaskPlacement;
  readonly asker: { readonly by: Address; readonly query: number } | null;
  readonly gone: readonly number[];
};

export function groupNews({
  scaling,
  placement: { goneGroups, isAsAsked },
  asker,
  gone,
}: Groups): Pick<Groups, 'asker' | 'gone'> & { readonly sends: readonly Commands['send'][] } {
  const news = scaling === null || `${goneGroups}` === `${gone}` ? [] : [{ to: scaling, message: groupsGone(goneGroups) }];
  const done = asker !== null && isAsAsked ? [{ to: asker.by, message: serving(asker.query) }] : [];
  return { asker: done.length > 0 ? null : asker, gone: goneGroups, sends: [...news, ...done] };
}

/** Of an NPU's loss and return hears whoever brings back what it held. */
export const npuNews = (hearers: readonly (Address | null)[], message: Message): Commands['send'][] =>
  hearers.flatMap((to) => (to === null ? [] : [{ to, message }]));

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
