/** A generation is read chunk by chunk, whether its reader waits for them or they for him. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LiveGeneration } from '../../src/calls/generation.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import { runs } from '../property-runs.ts';

/** True: it is read; false: a chunk comes. Many in a row, so that what piles up is packed. */
const runsOfActs = fc
  .array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 150 })), { maxLength: 8 })
  .map((drawn) => drawn.flatMap(([isRead, times]) => Array.from({ length: times }, () => isRead)));
const LOST = new MinipodError('worker_lost', 'gone');

/** One that is read by hand; `cancels`: how often it was cancelled. */
function open() {
  let cancels = 0;
  const ports = { clock: { now_ms: () => 0 }, cancel: () => void cancels++, ended: () => {} };
  const generation = new LiveGeneration({ id: 'cmpl-1', seed: 1, choices: 1, wantsPromptLogprobs: false }, ports);
  const chunks = generation[Symbol.asyncIterator]();
  let pushed = 0;
  return {
    generation,
    cancels: () => cancels,
    push: () => {
      generation.push({
        ...{ request: 1, choice: 0, index: pushed, text: `${pushed}`, token_ids: [pushed], logprobs: null },
        ...{ finish: null, stop_string: null, stop_token: -1, cached: 0, drafted: 0, parsed: null },
      });
      pushed++;
    },
    /** The chunk's text, `over`, or the error's code. */
    read: (): Promise<string> =>
      chunks.next().then(
        ({ value, done }) => (done === true ? 'over' : value.text),
        (error: MinipodError) => error.code,
      ),
    leave: () => chunks.return?.(),
  };
}

describe('a generation that is read', () => {
  it('should give each chunk once and in order, then say once how it failed, however reading and telling alternate', async () => {
    await fc.assert(
      fc.asyncProperty(runsOfActs, fc.boolean(), fc.nat(3), async (acts, fails, readsBehind) => {
        const { generation, push, read } = open();
        const reads: Promise<string>[] = [];
        for (const isRead of acts) {
          if (isRead) reads.push(read());
          else push();
        }
        generation.end(fails ? LOST : null);
        const pushed = acts.filter((isRead) => !isRead).length;
        for (let left = pushed - reads.length; left > 0; left--) reads.push(read());
        const waited = reads.length - pushed;
        for (let behind = 0; behind < readsBehind; behind++) reads.push(read());
        const ends = Array.from({ length: waited + readsBehind }, (_, end) => (end === 0 && fails ? 'worker_lost' : 'over'));
        expect(await Promise.all(reads)).toEqual([...Array.from({ length: pushed }, (_, chunk) => `${chunk}`), ...ends]);
      }),
      { numRuns: runs(100) },
    );
  });

  it('should give nothing any more to a reader who has left, and not tell him of a failure', async () => {
    const { generation, cancels, push, read, leave } = open();
    for (let chunk = 0; chunk < 3; chunk++) push();
    expect(await read()).toBe('0');
    expect(await leave()).toEqual({ value: undefined, done: true });
    push();
    generation.end(LOST);
    expect([await read(), await read(), cancels()]).toEqual(['over', 'over', 1]);
  });

  it('should let go of those who wait for a chunk when it is left', async () => {
    const { cancels, read, leave } = open();
    const waiting = [read(), read()];
    await leave();
    expect([await Promise.all(waiting), cancels()]).toEqual([['over', 'over'], 1]);
  });
});
