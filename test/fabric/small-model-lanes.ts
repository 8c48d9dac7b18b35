/**
 * How control overtakes data, and is not overtaken: one writer, its control ring and its data ring, and their reader.
 *
 * Why the model's steps are the code's steps. What matters of a ring here is how many frames are published in it; the writer tells of data only what it has said as
 * control before, so frame n of data belongs behind frame n of control.
 *
 *   writer    store control's head   Links flush, RingProducer publish
 *             store data's head      the same
 *   reader    load control's head    Links receive, of the control ring; all that is there is taken
 *             load data's head       of the data ring: RingConsumer hasNext; where there is none, it begins again
 *             load control's head    Links #overtake, RingConsumer look; all that is there is taken
 *                                    then the data that was seen: nextSeen
 */
import { type Model, Places, type State, to } from './small-model.ts';

export type LanesFault =
  | 'none'
  /** Control is looked at before data alone. */
  | 'no second look'
  /** Data is looked at before each of its frames. */
  | 'data after the look';

const R = { control: 0, data: 1, again: 2, take: 3 } as const;

/** `frames`: of each ring. */
export function lanesModel(frames: number, fault: LanesFault): Model {
  const places = new Places();
  const [controlHead, dataHead] = [places.one(), places.one()];
  const [reader, control, seen, data, isOvertaken] = [places.one(), places.one(), places.one(), places.one(), places.one()];
  const of = (state: State, place: number): number => state[place] as number;
  const takeData = (state: State, upTo: number): State[] =>
    to(state, [data, upTo], [isOvertaken, upTo > of(state, control) ? 1 : 0], [seen, 0], [reader, R.control]);

  function stepWriter(state: State): State[] {
    const published = of(state, controlHead);
    if (of(state, dataHead) < published) return to(state, [dataHead, published]);
    // Once in a batch, or frame by frame.
    return Array.from({ length: frames - published }, (_, more) => to(state, [controlHead, published + more + 1])).flat();
  }

  function stepReader(state: State): State[] {
    switch (of(state, reader)) {
      case R.control:
        if (of(state, data) === frames) return [];
        return to(state, [control, of(state, controlHead)], [reader, R.data]);
      case R.data: {
        const there = of(state, dataHead);
        if (there === of(state, data)) return to(state, [reader, R.control]);
        return fault === 'no second look' ? takeData(state, there) : to(state, [seen, there], [reader, R.again]);
      }
      case R.again: {
        const [next] = to(state, [control, of(state, controlHead)]) as [State];
        return fault === 'data after the look' ? to(next, [reader, R.take]) : takeData(next, of(next, seen));
      }
      default:
        return takeData(state, of(state, dataHead));
    }
  }

  return {
    initial: Array.from({ length: places.size }, () => 0),
    steps: (state) => [...stepWriter(state), ...stepReader(state)],
    wrong: (state) => (of(state, isOvertaken) === 1 ? `data ${of(state, data)} before its control: ${of(state, control)} of that are taken` : null),
    wrongAtEnd: (state) => (of(state, data) === frames && of(state, control) === frames ? null : 'not all is taken'),
  };
}
