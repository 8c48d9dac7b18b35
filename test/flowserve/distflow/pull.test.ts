/** Pulls of what is on offer: whatever happens at whichever step of the copy, holder and puller agree, what counts is whole, and nothing is left. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Offer, OfferEnd } from '../../../src/flowserve/distflow/offers.ts';
import type { Poll } from '../../../src/flowserve/distflow/outcome.ts';
import type { Pull } from '../../../src/flowserve/distflow/pull.ts';
import { runs } from '../../property-runs.ts';
import { fillBlock, Rig, SMALL, shuffled } from './rig.ts';

const TTL_MS = 100;
const reasonOf = (end: Poll): string => (end.state === 'failed' ? end.reason : end.state);

/** NPU 0 offers, NPU 1 pulls. */
class Scene {
  readonly rig: Rig;
  readonly from: number[];
  readonly to: number[];
  readonly offer: Offer<string>;
  readonly pull: Pull;
  now_ms = 0;
  /** A layer a turn. */
  isPrefilling = false;

  constructor(blocks: number, seed: number, { segments = 2, layers_there = SMALL.layers } = {}) {
    this.rig = new Rig({ ...SMALL, segments });
    this.from = shuffled(SMALL.blocks, seed).slice(0, blocks);
    this.to = shuffled(SMALL.blocks, seed + 1).slice(0, blocks);
    this.rig.write(0, this.from);
    for (const block of this.to) this.rig.pool(1).hold(block);
    this.offer = this.rig.of(0).open('o', this.from, TTL_MS, layers_there) as Offer<string>;
    // The offer holds them from here on.
    for (const block of this.from) this.rig.pool(0).free(block);
    this.pull = this.startPull();
  }

  startPull(): Pull {
    const { rig } = this;
    return rig.cluster.between(0, 1).pull('p', rig.owner(1), this.offer.registration, rig.place(0), rig.addresses(1, this.to));
  }

  /** The holder's turn and the puller's, a layer's bytes each. */
  turn(): Poll {
    if (this.isPrefilling && this.offer.layers_there < SMALL.layers) this.rig.of(0).reach(this.offer, this.offer.layers_there + 1);
    this.rig.of(0).poll(this.now_ms, SMALL.layer_bytes);
    return this.pull.poll(SMALL.layer_bytes);
  }

  /** Goes on until both sides have ended, or the holder keeps waiting; then how. */
  finish(turns = 200): { readonly pulled: string; readonly offered: OfferEnd | 'open' } {
    for (let turn = 0; turn < turns; turn++) this.turn();
    const [ended] = this.rig.of(0).drain();
    return { pulled: reasonOf(this.pull.poll()), offered: ended?.end ?? 'open' };
  }

  expectWhole(): void {
    expect(this.rig.words(1, this.to)).toEqual(this.#asWritten());
  }

  #asWritten(): Int32Array[] {
    const { memory } = new Rig(this.rig.sharing.sizes);
    return this.from.map((block) => {
      fillBlock(memory, 0, block, 1);
      const { kv } = memory.places[0] as (typeof memory.places)[0];
      const first = ((kv.address % 2 ** 32) + block * kv.block_bytes) / 4;
      return memory.space.wordsOf(kv.address).slice(first, first + kv.block_bytes / 4);
    });
  }

  expectNothingHeld(): void {
    expect([this.rig.of(0).open_count, this.rig.pool(0).used]).toEqual([0, 0]);
  }
}

/** Turns that an undisturbed pull of so many blocks takes. */
const turnsOf = (begin: () => Scene): number => {
  const scene = begin();
  for (let turn = 1; turn < 200; turn++) if (scene.turn().state === 'done') return turn;
  throw new Error('it never ends');
};

describe('a pull', () => {
  it('brings all blocks of an offer, by request and by layer as they come, and both sides know it', () => {
    const shape = fc.record({
      ...{ blocks: fc.integer({ min: 0, max: 12 }), seed: fc.nat({ max: 999 }), segments: fc.constantFrom(1, 2) },
      layers_there: fc.integer({ min: 0, max: SMALL.layers }),
      pace: fc.integer({ min: 1, max: 6 }),
    });
    fc.assert(
      fc.property(shape, ({ blocks, seed, segments, layers_there, pace }) => {
        const scene = new Scene(blocks, seed, { segments, layers_there });
        for (let turn = 0, there = layers_there; there < SMALL.layers; turn++) {
          scene.turn();
          expect(scene.pull.copied_bytes).toBeLessThanOrEqual(there * blocks * SMALL.layer_bytes);
          if (turn % pace === 0) scene.rig.of(0).reach(scene.offer, ++there);
        }
        expect(scene.finish()).toEqual({ pulled: 'done', offered: 'pulled' });
        scene.expectWhole();
        scene.expectNothingHeld();
      }),
      { numRuns: runs(30) },
    );
  });

  it('comes to its end where it is looked at only while it has something to do, and when the holder rings', () => {
    const shape = fc.record({ blocks: fc.integer({ min: 0, max: 12 }), seed: fc.nat({ max: 999 }), layers_there: fc.integer({ min: 0, max: SMALL.layers }) });
    fc.assert(
      fc.property(shape, fc.array(fc.nat(4), { maxLength: 20 }), ({ blocks, seed, layers_there }, paces) => {
        const { rig, offer, pull } = new Scene(blocks, seed, { layers_there });
        const holder = rig.of(0);
        let end: Poll = { state: 'pending' };
        for (let turn = 0; turn < 400 && end.state === 'pending'; turn++) {
          if (turn % 3 === 0 && offer.layers_there < SMALL.layers) holder.reach(offer, offer.layers_there + 1);
          holder.poll(0, SMALL.layer_bytes);
          for (let looks = paces[turn] ?? 1; looks > 0 && (!pull.waitsForHolder || rig.rung.delete(1)); looks--) end = pull.poll(SMALL.layer_bytes);
        }
        expect(reasonOf(end)).toBe('done');
      }),
    );
  });

  it('holds layer 0 before the prefill has finished the last, and is not done before', () => {
    const scene = new Scene(4, 5, { layers_there: 1 });
    for (let turn = 0; turn < 30; turn++) scene.turn();
    expect(scene.pull.copied_bytes).toBe(4 * SMALL.layer_bytes);
    expect(scene.pull.poll().state).toBe('pending');
    scene.rig.of(0).reach(scene.offer, SMALL.layers);
    expect(scene.finish()).toEqual({ pulled: 'done', offered: 'pulled' });
    scene.expectWhole();
  });

  it('is refused where another has claimed, or the offer is over', () => {
    const scene = new Scene(3, 5);
    const second = scene.startPull();
    scene.pull.poll(0);
    expect(reasonOf(second.poll())).toBe('refused');
    expect(scene.finish()).toEqual({ pulled: 'done', offered: 'pulled' });
    expect(reasonOf(scene.startPull().poll())).toBe('refused');
    const next = scene.rig.of(0).open('next', [], TTL_MS) as Offer<string>;
    expect(next.registration.slot).toBe(scene.offer.registration.slot);
    expect(reasonOf(scene.startPull().poll())).toBe('refused');
  });
});

describe.each([
  [1, 'by request'],
  [4, 'by request'],
  [3, 'by layer'],
] as const)('%i blocks %s, and at every turn of their pull', (blocks, order) => {
  const begin = (): Scene => {
    const scene = new Scene(blocks, 7, order === 'by layer' ? { layers_there: 0 } : {});
    scene.isPrefilling = order === 'by layer';
    return scene;
  };
  const turns = turnsOf(begin);
  /** What happens at turn t, for each t; then the scene goes on. */
  const atEveryTurn = (what: (scene: Scene) => void, expecting: (scene: Scene, ended: ReturnType<Scene['finish']>, turn: number) => void): void => {
    for (let turn = 0; turn <= turns; turn++) {
      const scene = begin();
      for (let before = 0; before < turn; before++) scene.turn();
      what(scene);
      expecting(scene, scene.finish(), turn);
    }
  };
  const agreed = (scene: Scene, { pulled, offered }: ReturnType<Scene['finish']>): void => {
    expect(offered === 'pulled').toBe(pulled === 'done');
    if (pulled === 'done') scene.expectWhole();
    scene.expectNothingHeld();
  };

  it('an offer that expires is fenced, and its blocks are free once the puller has stopped', () => {
    const seen = new Set<string>();
    atEveryTurn(
      (scene) => {
        scene.now_ms = TTL_MS;
      },
      (scene, ended) => {
        agreed(scene, ended);
        seen.add(`${ended.offered} ${ended.pulled}`);
      },
    );
    // Nobody had claimed it; it was fenced; it was too late to fence.
    expect([...seen].sort()).toEqual(['expired expired', 'expired refused', 'pulled done']);
  });

  it('a puller that does not poll keeps its blocks aside, whatever the time, until it stops or dies', () => {
    let kept = 0;
    atEveryTurn(
      (scene) => {
        const isPulling = scene.pull.poll(0).state === 'pending';
        for (scene.now_ms = TTL_MS; scene.now_ms < 50 * TTL_MS; scene.now_ms += TTL_MS) scene.rig.of(0).poll(scene.now_ms);
        expect(scene.rig.pool(0).used).toBe(isPulling ? blocks : 0);
        if (isPulling) kept++;
      },
      (scene, ended) => agreed(scene, ended),
    );
    // With its own turn's poll it is at its end a turn earlier.
    expect(kept).toBe(turns - 1);
  });

  it('a puller that dies loses its lease, and what it still does counts for nothing', () => {
    atEveryTurn(
      (scene) => scene.rig.memory.space.control.raiseEpochOfDie(1),
      (scene, { pulled, offered }, turn) => {
        expect(pulled).toBe(turn < turns ? 'given_up' : 'done');
        // Who had not claimed it is nobody: another may pull it, or it expires.
        if (offered === 'open') {
          scene.now_ms = TTL_MS;
          scene.rig.of(0).poll(scene.now_ms);
        } else expect(offered).toBe(turn < turns ? 'puller_lost' : 'pulled');
        scene.expectNothingHeld();
      },
    );
  });

  it('a pull that is cancelled gives the blocks back at once', () => {
    atEveryTurn(
      (scene) => scene.pull.cancel(),
      (scene, ended, turn) => {
        expect(ended.pulled).toBe(turn < turns ? 'cancelled' : 'done');
        if (turn === 0) expect(ended.offered).toBe('open');
        else agreed(scene, ended);
      },
    );
  });

  it('an offer that is withdrawn is over once its puller has stopped', () => {
    atEveryTurn((scene) => scene.rig.of(0).withdraw(scene.offer), agreed);
  });

  it('a holder that dies and comes back leaves a pull that fails, and offers anew', () => {
    atEveryTurn(
      (scene) => {
        const { space } = scene.rig.memory;
        space.table.raiseEpoch(scene.rig.regionOf(0));
        space.control.raiseEpochOfDie(0);
        scene.rig.restart(0);
        for (const block of scene.from) fillBlock(scene.rig.memory, 0, block, 2);
      },
      (_, { pulled }, turn) => expect(['refused', 'expired', 'stale', 'source_lost', ...(turn === turns ? ['done'] : [])]).toContain(pulled),
    );
  });

  // A layer that is written before it was summed is summed as it is then.
  if (order === 'by request')
    it('blocks that are written although they are on offer are never delivered', () => {
      const seen = new Set<string>();
      for (let turn = 0; turn <= turns; turn++) {
        const scene = begin();
        scene.rig.of(0).poll(0);
        for (let before = 0; before < turn; before++) scene.turn();
        fillBlock(scene.rig.memory, 0, scene.from.at(-1) as number, 2);
        const ended = scene.finish();
        agreed(scene, ended);
        seen.add(ended.pulled);
      }
      expect([...seen].sort()).toEqual(['corrupt', 'done']);
    });

  it('a link that breaks fails the pull alone; its blocks wait until the holder is told, by a new link', () => {
    atEveryTurn(
      (scene) => scene.rig.cluster.between(0, 1).break('a test cut it'),
      (scene, { pulled, offered }, turn) => {
        expect(pulled).toBe(turn < turns ? 'link_broken' : 'done');
        if (turn === turns) return;
        expect(offered).toBe('open');
        if (turn % 2 === 0) {
          scene.rig.cluster.poll();
          scene.rig.cluster.drain();
          scene.rig.cluster.poll();
        } else scene.rig.cut.add(1);
        scene.now_ms = TTL_MS;
        scene.rig.of(0).poll(scene.now_ms);
        scene.expectNothingHeld();
        expect(reasonOf(scene.startPull().poll())).toBe('refused');
      },
    );
  });
});

describe('a table of offers', () => {
  it('is told nothing of layers of an offer that has ended: its slot may be another’s by then', () => {
    const scene = new Scene(2, 1, { layers_there: 1 });
    scene.rig.of(0).withdraw(scene.offer);
    scene.rig.of(0).poll(0);
    const next = scene.rig.of(0).open('next', [], TTL_MS) as Offer<string>;
    expect(next.registration.slot).toBe(scene.offer.registration.slot);
    scene.rig.of(0).poll(0);
    scene.rig.of(0).reach(scene.offer, SMALL.layers);
    const pull = scene.rig.cluster.between(0, 1).pull('p', scene.rig.owner(1), next.registration, scene.rig.place(0), []);
    pull.poll();
    expect(pull.poll()).toEqual({ state: 'done' });
  });

  it('gives out each slot once, says when there is none, and counts what became of them', () => {
    const rig = new Rig();
    rig.write(0, [1, 2]);
    const opened = ['a', 'b', 'c', 'd'].map((token) => rig.of(0).open(token, [1, 2], TTL_MS) as Offer<string>);
    expect(new Set(opened.map(({ registration }) => registration.slot)).size).toBe(4);
    expect(rig.of(0).open('e', [1], TTL_MS)).toBeNull();
    expect(rig.pool(0).holders().get(1)).toBe(5);
    rig.of(0).withdraw(opened[2] as Offer<string>);
    rig.of(0).poll(0);
    expect(
      rig
        .of(0)
        .drain()
        .map(({ token, end }) => [token, end]),
    ).toEqual([['c', 'withdrawn']]);
    expect(rig.of(0).open('e', [1], 2 * TTL_MS)).not.toBeNull();
    expect(rig.of(0).expires_ms).toBe(TTL_MS);
    rig.of(0).poll(TTL_MS);
    rig.of(0).poll(2 * TTL_MS);
    expect(rig.of(0).counters).toMatchObject({ opened: 5, refused: 1, fenced: 0, ended: { expired: 4, withdrawn: 1, pulled: 0 } });
    expect(() => rig.of(0).open('f', shuffled(17, 1), TTL_MS)).toThrow('17 blocks are to be offered, an offer of npu/0 holds 16');
  });
});
