/** A step of two micro-batches whose iteration ends under it: it goes on where it was, and computes nothing twice. */
import { describe, expect, it } from 'vitest';
import type { AddressSpace } from '../../../src/fabric/address-space.ts';
import type { Arithmetic, Span } from '../../../src/flowserve/forward/arithmetic.ts';
import { LOSSES_MAX } from '../../../src/flowserve/steps/asked-peers.ts';
import { type LaneExperts, MicroBatch, type MicroBatchOptions } from '../../../src/flowserve/steps/micro-batch.ts';
import { MicroBatches, type Surrounding } from '../../../src/flowserve/steps/micro-batches.ts';
import type { Part } from '../../../src/flowserve/steps/step-parts.ts';
import { MinipodError } from '../../../src/protocol/errors.ts';
import { type LaneAnswer, MemberIsBack } from '../../../src/xccl/iterations.ts';

const ROWS = 4;
const LAYERS = 3;
const DRAFTED = LAYERS;
const SPANS: readonly Span[] = [{ slot: 0, row: 0, rows: ROWS }];

/** What happens at the lane's `round`th answer of the iteration that is the `iteration`th, counted from 1. */
type Answers = (iteration: number, lane: number, round: number) => LaneAnswer | 'lost';

/** Of a model whose layers are noted, by lane, as they are computed (`2`), asked for (`ask 2`) and passed (`-`). */
function makeBatches(answers: Answers, reseats: () => Error = () => new MinipodError('worker_lost', 'a member has moved')) {
  const log: string[][] = [[], []];
  let iteration = 0;
  const rounds = [0, 0];
  const fake = <Port>(port: object): Port => port as Port;
  const words = new Int32Array(4_096);
  const space = fake<AddressSpace>({ wordsOf: () => words, copy: () => {} });
  const options = [0, 1].map((lane) => {
    const note = (what: string): void => void log[lane]?.push(what);
    const layer = (number: number): Part[] => [
      { kind: 'compute', compute: () => note(`${number}`), kv_layers: number + 1 },
      { kind: 'experts', layer: number, range: () => ({ first: 0, count: 0 }), route: () => [], own: () => note(`own ${number}`) },
    ];
    const experts: LaneExperts = {
      stepBegins: () => {},
      ask: (part) => {
        note(`ask ${part.layer}`);
        return true;
      },
      pass: () => note('-'),
      answer: () => {
        const answer = answers(iteration, lane, ++(rounds[lane] as number));
        if (answer === 'lost') throw new MinipodError('worker_lost', 'a member was lost');
        return answer;
      },
      mustWait: false,
      awaitsLost: false,
      refusals: 0,
      missing: [],
    };
    const inTurn = Array.from({ length: LAYERS }, (_, number) => layer(number)).flat();
    const at = { tokenIds: 0, positions: 1_024, spans: 2_048 + lane * 1_024 };
    const model = fake<Arithmetic>({ at, config: { moe: { topK: 1 } }, layout: { base: 0, row_bytes: 4, scratch: { x: 0 }, routing: null } });
    return { model, parts: () => ({ inTurn, graphs: null, ofLayer: layer }), experts };
  });
  const surrounding: Surrounding = {
    begin: () => {
      iteration++;
      rounds.fill(0);
      return true;
    },
    awaited: [],
    poll: () => false,
    asksBefore: () => false,
    giveUp: () => {},
    reseat: () => {
      throw reseats();
    },
  };
  const batches = new MicroBatches(options, surrounding, space);
  /** To the end of the step's layers. */
  const run = (): void => {
    for (let turns = 0; batches.poll(() => {}) !== 'done'; turns++) expect(turns).toBeLessThan(100);
  };
  return { batches, log, run };
}

const undisturbed = ['0', 'ask 0', 'own 0', '1', 'ask 1', 'own 1', '2', 'ask 2', 'own 2'];
const here: Answers = () => 'here';

it('should ask for each layer once where nothing happens', () => {
  const { batches, log, run } = makeBatches(here);
  batches.start(ROWS, SPANS, false);
  run();
  expect(log).toEqual([undisturbed, undisturbed]);
});

it('should be captured as one of one row where it has none', () => {
  const one: Part[] = [];
  const graphs = { layersOf: (rows: number, spans: number) => (rows === 1 && spans === 1 ? one : null) };
  const parts = () => ({ inTurn: [], graphs, ofLayer: () => [] }) as unknown as ReturnType<MicroBatchOptions['parts']>;
  const batch = new MicroBatch({ parts } as unknown as MicroBatchOptions);
  expect([batch.capturedOf(0, []), batch.capturedOf(2, SPANS)]).toEqual([one, null]);
});

describe.each(['refused', 'lost'] as const)('a step that is %s', (how) => {
  it('should pass in the next iteration what was answered, and ask again for what was not', () => {
    const { batches, log, run } = makeBatches((iteration, lane, round) => (iteration === 1 && lane === 0 && round === 2 ? how : 'here'));
    batches.start(ROWS, SPANS, false);
    run();
    expect(log[0]).toEqual(['0', 'ask 0', 'own 0', '1', 'ask 1', 'own 1', '-', 'ask 1', '2', 'ask 2', 'own 2']);
    // The second had not been asked for its second layer yet, and answered for its first, or not.
    expect(log[1]?.filter((what) => what !== '-' && !what.startsWith('ask'))).toEqual(undisturbed.filter((what) => !what.startsWith('ask')));
  });

  it('should draft on where that happens in a layer of its drafter', () => {
    const { batches, log, run } = makeBatches((iteration, lane, round) => (iteration === 1 && lane === 1 && round === LAYERS + 1 ? how : 'here'));
    batches.start(ROWS, SPANS, false);
    run();
    batches.goOnWith(DRAFTED, ROWS, SPANS);
    run();
    batches.goOnWith(DRAFTED + 1, ROWS, SPANS);
    run();
    const drafted = ['3', 'ask 3', 'own 3'];
    expect(log[1]).toEqual([...undisturbed, ...drafted, '-', '-', '-', 'ask 3', '4', 'ask 4', 'own 4']);
    // The first had its answer: it takes part in one round more with nothing.
    expect(log[0]).toEqual([...undisturbed, ...drafted, '-', '-', '-', '-', '4', 'ask 4', 'own 4']);
  });

  it('should not be over before the rounds are that it passes', () => {
    const { batches, log, run } = makeBatches((iteration, lane, round) => {
      if (iteration === 1) return lane === 1 && round === LAYERS ? how : 'here';
      return lane === 0 && round < 10 ? (round % 3 === 0 ? 'here' : 'pending') : 'here';
    });
    batches.start(ROWS, SPANS, false);
    run();
    expect(log[0]).toEqual([...undisturbed, '-', '-', '-']);
  });
});

it('should survive any number of members that come back', () => {
  const { batches, run } = makeBatches(here, () => new MemberIsBack(0));
  batches.start(ROWS, SPANS, false);
  for (let back = 0; back < 2 * LOSSES_MAX; back++) {
    batches.poll(() => {});
    batches.reseat();
  }
  run();
});

it('should survive four losses in one step, not five: that may be its own doing', () => {
  const lostIn = (iterations: number): void => {
    const { batches, run } = makeBatches((iteration) => (iteration <= iterations ? 'lost' : 'here'));
    batches.start(ROWS, SPANS, false);
    run();
    // Of another step it is not known.
    batches.start(ROWS, SPANS, false);
    batches.reseat();
    run();
  };
  lostIn(4);
  expect(() => lostIn(5)).toThrow(/5 losses in one step, which may be its own doing; the last: a member was lost/);
});
