/**
 * A copy that no lease protects, such as a populate by raw addresses: the generation alone shows whether its source is still what was meant.
 *
 *   owner    add generation   BlockPool hold, atomic, before anything is written
 *            store words      plain
 *   copier   load words       memory.copy, plain
 *            load generation  readWords, a read-modify-write first: it ends after the copies before it
 */
import { type Model, Places, type State, to } from '../../fabric/small-model.ts';

export type GenerationFault = 'none' | 'write before the generation' | 'generation before the copy';

export function generationModel(fault: GenerationFault): Model {
  const places = new Places();
  const [generation, first, second, owner, copier, a, b, seen] = Array.from({ length: 8 }, () => places.one()) as [number, ...number[]] as number[];
  const at = (place: number | undefined): number => place as number;
  const of = (state: State, place: number | undefined): number => state[at(place)] as number;
  const [raise, writeFirst, writeSecond] = ['raise', 'first', 'second'] as const;
  const writes = fault === 'write before the generation' ? [writeFirst, raise, writeSecond] : [raise, writeFirst, writeSecond];
  const [look, copyFirst, copySecond] = ['look', 'first', 'second'] as const;
  const reads = fault === 'generation before the copy' ? [look, copyFirst, copySecond] : [copyFirst, copySecond, look];
  return {
    initial: Array.from({ length: places.size }, () => 0),
    steps(state) {
      const write = writes[of(state, owner)];
      const read = reads[of(state, copier)];
      const written = { raise: generation, first, second };
      const [target, source] = { look: [seen, generation], first: [a, first], second: [b, second] }[read ?? 'look'] as [number, number];
      return [
        ...(write === undefined ? [] : to(state, [at(written[write]), 1], [at(owner), of(state, owner) + 1])),
        ...(read === undefined ? [] : to(state, [target, of(state, source)], [at(copier), of(state, copier) + 1])),
      ];
    },
    wrong: (state) =>
      of(state, copier) === reads.length && of(state, seen) === 0 && of(state, a) + of(state, b) > 0 ? 'new content delivered as the old' : null,
    wrongAtEnd: () => null,
  };
}
