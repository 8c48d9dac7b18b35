/** Dispatch and combine between NPUs that flow: whatever dies, hangs or starts anew in between, an answer is the answer to what was asked. */
// As in transfers.ts: vitest's expect takes longer than what it looks at.
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { offsetOf } from '../../src/fabric/address.ts';
import { Endpoint } from '../../src/xccl/endpoint.ts';
import { type Answer, type DispatchChecks, Exchange } from '../../src/xccl/exchange.ts';
import { SEGMENTS } from '../fabric/segments.ts';
import { runs } from '../property-runs.ts';
import { type Dies, makeDies } from './rig.ts';

const ROW_BYTES = 16;
const SEGMENTS_AT = 4_096;
const PAIR_ROWS_AT = 6_144;
const ROWS_AT = 7_168;
const LAYERS = 6;
/** The bytes that are pulled of an answer to rows, as the columns of an output projection are. */
const COLUMNS = { skip: 4, bytes: 8 };

const checksOf = ({ space }: Dies): DispatchChecks => ({
  pairsOf: ({ segmentsAddress }) => space.wordsOf(segmentsAddress)[offsetOf(segmentsAddress) / 4 + 1] as number,
  rowsOf: ({ rows, bytes }) => (bytes === rows * ROW_BYTES ? rows : Number.POSITIVE_INFINITY),
});

/** What an honest expert answers for a pair: the row's word, stamped with the layer. */
const stamp = (layer: number, peer: number): number => layer * 1_000 + peer;

/** An attention die that goes layer by layer, asking each of its peers for `peer` rows: in odd layers for what experts make of them, in even ones for columns. */
class Asker {
  readonly exchange: Exchange;
  readonly #dies: Dies;
  readonly #peers: readonly number[];
  readonly #missing = new Map<number, number>();
  layer = 0;

  constructor(dies: Dies, die: number, peers: readonly number[]) {
    this.#dies = dies;
    this.#peers = peers;
    this.exchange = new Exchange(dies.endpoints[die] as Endpoint, ROW_BYTES);
  }

  get isDone(): boolean {
    return this.layer === LAYERS && this.#missing.size === 0;
  }

  poll(): void {
    const { space } = this.#dies;
    if (this.#missing.size === 0) {
      if (this.layer === LAYERS) return;
      this.layer++;
      const { dispatch } = this.exchange.endpoint.areas;
      const words = space.wordsOf(dispatch);
      const at = offsetOf(dispatch) / 4;
      for (const peer of this.#peers) {
        words[at + (peer * ROW_BYTES) / 4] = stamp(this.layer, peer);
        words[at + (SEGMENTS_AT + peer * 8) / 4 + 1] = peer;
        for (let pair = 0; pair < peer; pair++) {
          words[at + (PAIR_ROWS_AT + (peer * 8 + pair) * 4) / 4] = peer;
          words[at + (ROWS_AT + (peer * 8 + pair) * ROW_BYTES + COLUMNS.skip) / 4] = stamp(this.layer, peer);
        }
        this.#missing.set(peer, this.#ask(peer));
      }
      return;
    }
    for (const [peer, event] of this.#missing) {
      const target = this.#app(peer);
      const answer = this.#pull(peer, event, target);
      if (answer === 'pending') continue;
      assert.equal(answer, 'pulled');
      const words = space.wordsOf(target);
      for (let pair = 0; pair < peer; pair++) assert.equal(words[offsetOf(target) / 4 + (pair * ROW_BYTES) / 4], stamp(this.layer, peer));
      this.#missing.delete(peer);
    }
  }

  giveUp(): void {
    for (const [peer, event] of this.#missing) this.exchange.abandon(peer, event);
    this.#missing.clear();
    this.layer = Math.max(0, this.layer - 1);
  }

  askAgain(peer: number): void {
    if (this.#missing.has(peer)) this.#missing.set(peer, this.#ask(peer));
  }

  #app(peer: number): number {
    return (this.#dies.apps[this.exchange.endpoint.die]?.address ?? 0) + peer * 256;
  }

  get #asksForColumns(): boolean {
    return this.layer % 2 === 0;
  }

  #pull(peer: number, event: number, target: number): Answer {
    return this.#asksForColumns
      ? this.exchange.pullColumns(peer, event, target, peer, COLUMNS.skip, COLUMNS.bytes)
      : this.exchange.pull(peer, event, target, peer);
  }

  #ask(peer: number): number {
    const { dispatch } = this.exchange.endpoint.areas;
    if (this.#asksForColumns)
      return this.exchange.dispatchRows(peer, {
        layer: this.layer,
        rows: peer,
        rowsAddress: dispatch + ROWS_AT + peer * 8 * ROW_BYTES,
        bytes: peer * ROW_BYTES,
      });
    return this.exchange.dispatch(
      peer,
      {
        layer: this.layer,
        epoch: 0,
        segments: 1,
        segmentsAddress: dispatch + SEGMENTS_AT + peer * 8,
        pairRowsAddress: dispatch + PAIR_ROWS_AT + peer * 32,
        rowsAddress: dispatch,
      },
      0,
    );
  }
}

/** Serves one dispatch as an expert die would; true if there was one. */
function serve(dies: Dies, exchange: Exchange): boolean {
  const dispatch = exchange.nextDispatch(checksOf(dies));
  if (dispatch === null) return false;
  const rows = dies.space.wordsOf(dispatch.rowsAddress);
  const { reply } = exchange.endpoint.areas;
  const words = dies.space.wordsOf(reply);
  for (let pair = 0; pair < dispatch.pairs; pair++) {
    if (dispatch.kind === 'rows') {
      dies.space.copy(reply + dispatch.replyOffset + pair * ROW_BYTES, dispatch.rowsAddress + pair * ROW_BYTES, ROW_BYTES);
      continue;
    }
    const row = rows[offsetOf(dispatch.pairRowsAddress) / 4 + pair] as number;
    words[(offsetOf(reply) + dispatch.replyOffset + pair * ROW_BYTES) / 4] = rows[(offsetOf(dispatch.rowsAddress) + row * ROW_BYTES) / 4] as number;
  }
  exchange.answer(dispatch, 'computed');
  return true;
}

const ASKERS = [0, 1] as const;
const PEERS = [2, 3, 4] as const;
type Act = { readonly act: 'poll' | 'serve' | 'kill' | 'hear' | 'restart' | 'giveUp'; readonly who: number };
const acts: fc.Arbitrary<Act[]> = fc.array(
  fc.record({
    act: fc.oneof(
      { weight: 6, arbitrary: fc.constant('poll' as const) },
      { weight: 6, arbitrary: fc.constant('serve' as const) },
      { weight: 1, arbitrary: fc.constant('kill' as const) },
      { weight: 2, arbitrary: fc.constant('hear' as const) },
      { weight: 2, arbitrary: fc.constant('restart' as const) },
      { weight: 1, arbitrary: fc.constant('giveUp' as const) },
    ),
    who: fc.integer({ min: 0, max: 5 }),
  }),
  { maxLength: 150 },
);

describe.each(SEGMENTS)('the exchange over %i segments', (segments) => {
  it('gives each asker the rows that it asked for, over kills, late writers, restarts and steps given up, and all of them in the end', () => {
    fc.assert(
      fc.property(acts, (script) => {
        const dies = makeDies(5, { segments });
        const { control } = dies.space;
        const askers = ASKERS.map((die) => new Asker(dies, die, PEERS));
        // A killed expert goes on serving, as a late writer does, until its successor starts.
        const experts = new Map(PEERS.map((die) => [die as number, { exchange: new Exchange(dies.endpoints[die] as Endpoint, ROW_BYTES), isLost: false }]));
        /** By asker: what it has not heard of yet, in order. */
        const news: { readonly peer: number; readonly isBack: boolean }[][] = askers.map(() => []);
        const hear = (who: number): void => {
          const item = news[who]?.shift();
          if (item === undefined) return;
          askers[who]?.exchange.refresh(item.peer);
          if (item.isBack) askers[who]?.askAgain(item.peer);
        };
        const kill = (peer: number): void => {
          const expert = experts.get(peer);
          if (expert === undefined || expert.isLost) return;
          expert.isLost = true;
          control.raiseEpochOfDie(peer);
          for (const items of news) items.push({ peer, isBack: false });
        };
        const restart = (peer: number): void => {
          // Its askers have let go of the predecessor: that is the handshake.
          if (!experts.get(peer)?.isLost || news.some((items) => items.some((item) => item.peer === peer))) return;
          experts.set(peer, { exchange: new Exchange(new Endpoint(peer, dies.surroundings), ROW_BYTES), isLost: false });
          for (const items of news) items.push({ peer, isBack: true });
        };
        for (const { act, who } of script) {
          const peer = PEERS[who % PEERS.length] as number;
          const asker = who % askers.length;
          if (act === 'poll') askers[asker]?.poll();
          else if (act === 'serve') serve(dies, (experts.get(peer) as { exchange: Exchange }).exchange);
          else if (act === 'kill') kill(peer);
          else if (act === 'hear') hear(asker);
          else if (act === 'restart') restart(peer);
          else askers[asker]?.giveUp();
        }
        for (let round = 0; round < 200 && askers.some((asker) => !asker.isDone); round++) {
          for (const [who, asker] of askers.entries()) {
            hear(who);
            asker.poll();
          }
          for (const peer of PEERS) {
            restart(peer);
            serve(dies, (experts.get(peer) as { exchange: Exchange }).exchange);
          }
        }
        expect(askers.map(({ isDone }) => isDone)).toEqual([true, true]);
        // Every answer was taken, so the room of all of them can be had again.
        for (const { exchange } of experts.values()) {
          exchange.sweepReplies();
          expect(exchange.replies.used).toBe(0);
          expect(exchange.replies.high_water).toBeLessThanOrEqual(ASKERS.length * Math.max(...PEERS) * ROW_BYTES);
        }
      }),
      { numRuns: runs(300) },
    );
  });
});

describe('the exchange', () => {
  it('answers failed to tables that lead out of the asker’s area, and touches nothing else', () => {
    const dies = makeDies(2);
    const [asker, expert] = dies.endpoints.map((endpoint) => new Exchange(endpoint, ROW_BYTES)) as [Exchange, Exchange];
    const { dispatch, dispatch_bytes } = asker.endpoint.areas;
    for (const [segmentsAddress, pairRowsAddress] of [
      [dispatch + dispatch_bytes, dispatch],
      [dispatch, dispatch + dispatch_bytes],
    ] as const) {
      dies.space.wordsOf(dispatch)[offsetOf(dispatch) / 4 + 1] = 3;
      const event = asker.dispatch(1, { layer: 0, epoch: 0, segments: 1, segmentsAddress, pairRowsAddress, rowsAddress: dispatch }, 0);
      expect(expert.nextDispatch(checksOf(dies))).toBeNull();
      expect(asker.pull(1, event, dies.apps[0]?.address ?? 0, 3)).toBe('failed');
    }
    for (const bytes of [dispatch_bytes + ROW_BYTES, 2 * ROW_BYTES]) {
      const event = asker.dispatchRows(1, { layer: 0, rows: bytes === 2 * ROW_BYTES ? 3 : bytes / ROW_BYTES, rowsAddress: dispatch, bytes });
      expect(expert.nextDispatch(checksOf(dies))).toBeNull();
      expect(asker.pull(1, event, dies.apps[0]?.address ?? 0, 3)).toBe('failed');
    }
    expect(expert.refused).toBe(4);
    expect(expert.replies.used).toBe(0);
  });

  it('lets a dispatch wait while others’ answers fill its room, in order of arrival, and serves it when they are taken', () => {
    const dies = makeDies(4, { sizes: { reply_bytes: 4 * 64 } });
    const exchanges = dies.endpoints.map((endpoint) => new Exchange(endpoint, ROW_BYTES));
    const expert = exchanges[3] as Exchange;
    const ask = (die: number, pairs: number): number => {
      const { dispatch } = (exchanges[die] as Exchange).endpoint.areas;
      dies.space.wordsOf(dispatch)[offsetOf(dispatch + SEGMENTS_AT) / 4 + 1] = pairs;
      const place = {
        layer: 1,
        epoch: 0,
        segments: 1,
        segmentsAddress: dispatch + SEGMENTS_AT,
        pairRowsAddress: dispatch + PAIR_ROWS_AT,
        rowsAddress: dispatch,
      };
      return (exchanges[die] as Exchange).dispatch(3, place, 0);
    };
    const first = ask(0, 12);
    expect(serve(dies, expert)).toBe(true);
    const second = ask(1, 8);
    const third = ask(2, 2);
    expect(serve(dies, expert)).toBe(false);
    expect(expert.isStalled).toBe(true);
    expect((exchanges[1] as Exchange).pull(3, second, dies.apps[1]?.address ?? 0, 8)).toBe('pending');
    expect((exchanges[0] as Exchange).pull(3, first, dies.apps[0]?.address ?? 0, 12)).toBe('pulled');
    expect([serve(dies, expert), serve(dies, expert), serve(dies, expert)]).toEqual([true, true, false]);
    expect((exchanges[1] as Exchange).pull(3, second, dies.apps[1]?.address ?? 0, 8)).toBe('pulled');
    expect((exchanges[2] as Exchange).pull(3, third, dies.apps[2]?.address ?? 0, 2)).toBe('pulled');
    expect(expert.replies.high_water).toBe(12 * ROW_BYTES);
  });

  it('does not take the answer to a step that was given up for that to the next one, which asks the same peer for the same', () => {
    const dies = makeDies(2);
    const [asker, expert] = dies.endpoints.map((endpoint) => new Exchange(endpoint, ROW_BYTES)) as [Exchange, Exchange];
    const { dispatch } = asker.endpoint.areas;
    const rows = dies.space.wordsOf(dispatch);
    const target = dies.apps[0]?.address ?? 0;
    const ask = (value: number): number => {
      rows[offsetOf(dispatch) / 4] = value;
      rows[offsetOf(dispatch + SEGMENTS_AT) / 4 + 1] = 1;
      rows[offsetOf(dispatch + PAIR_ROWS_AT) / 4] = 0;
      const tables = { segments: 1, segmentsAddress: dispatch + SEGMENTS_AT, pairRowsAddress: dispatch + PAIR_ROWS_AT, rowsAddress: dispatch };
      return asker.dispatch(1, { layer: 1, epoch: 0, ...tables }, 0);
    };
    const older = ask(7);
    const taken = expert.nextDispatch(checksOf(dies));
    if (taken === null) throw new Error('a dispatch has come');
    asker.abandon(1, older);
    const event = ask(8);
    // It was at it when the step was given up, and does not know.
    expert.answer(taken, 'computed');
    expect(asker.pull(1, event, target, 1)).toBe('pending');
    expect(expert.isWanted(taken)).toBe(false);
    expect(serve(dies, expert)).toBe(true);
    expect(asker.pull(1, event, target, 1)).toBe('pulled');
    expect(dies.space.wordsOf(target)[offsetOf(target) / 4]).toBe(8);
  });
});
