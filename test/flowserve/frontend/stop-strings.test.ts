/** A text ends before the first of its stop strings, whatever pieces it comes in, and none of a stop string is ever shown. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StopStrings } from '../../../src/flowserve/frontend/stop-strings.ts';
import { runs } from '../../property-runs.ts';

/** Until a stop string is met, or the text is over. */
function shown(pieces: readonly string[], stops: readonly string[]): [text: string, stop: string | null] {
  const strings = new StopStrings(stops);
  let all = '';
  for (const piece of pieces) {
    const { text, stop } = strings.push(piece);
    all += text;
    if (stop !== null) return [all + strings.flush(), stop];
  }
  return [all + strings.flush(), null];
}

/** In one piece: the first place where any of them is. */
function expected(text: string, stops: readonly string[]): string {
  const places = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
  return places.length === 0 ? text : text.slice(0, Math.min(...places));
}

describe('stop strings', () => {
  it('should end a text at its very beginning, too', () => {
    expect(shown(['END of it'], ['END', 'of'])).toEqual(['', 'END']);
    expect(shown(['END of it'], ['of', 'END'])).toEqual(['', 'END']);
  });

  it('should be named: the first that is met, of those at one place the first that was given', () => {
    expect(shown(['a b c'], ['c', 'b'])).toEqual(['a ', 'b']);
    expect(shown(['abc'], ['b', 'bc'])).toEqual(['a', 'b']);
  });

  it('should be met whatever pieces they come in', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 12 });
    const stop = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 3 });
    fc.assert(
      fc.property(letters, fc.array(stop, { maxLength: 3 }), (text, stops) => {
        const [whole] = shown([text], stops);
        expect(whole).toBe(expected(text, stops));
        const [piecewise] = shown([...text], stops);
        // Letter by letter the one that ends first is met first.
        expect(text.startsWith(piecewise)).toBe(true);
        expect(stops.some((one) => piecewise.includes(one))).toBe(false);
        expect(piecewise === text).toBe(whole === text);
      }),
      { numRuns: runs(300) },
    );
  });
});
