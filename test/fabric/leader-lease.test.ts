/** The lease: of all who want to lead, one does, whoever's clock runs out or dies. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { CONTROL_PAGE_BYTES, ControlPage } from '../../src/fabric/control-page.ts';
import { type Holding, LeaderLease } from '../../src/fabric/leader-lease.ts';
import { runs } from '../property-runs.ts';

const LENGTH_MS = 100;

const makeLease = (): LeaderLease => {
  const pages = 1 + CONTROL_PAGE_BYTES / 65_536;
  return new LeaderLease(new ControlPage(new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true })));
};

it('is held by one at a time, under terms that count up, and passes on when it runs out or its holder is dead', () => {
  const asks = fc.array(fc.record({ holder: fc.nat(3), wait_ms: fc.nat(60), dies: fc.boolean() }), { maxLength: 60 });
  fc.assert(
    fc.property(asks, (events) => {
      const lease = makeLease();
      const lives = [1, 1, 1, 1];
      let now_ms = 0;
      let held = null as Holding | null;
      for (const { holder, wait_ms, dies } of events) {
        now_ms += wait_ms;
        if (dies && held !== null) lives[held.holder] = (lives[held.holder] as number) + 1;
        const life = lives[holder] as number;
        const seen = lease.take(holder, life, now_ms, LENGTH_MS, (other) => lives[other.holder] !== other.life);
        const isFree = held === null || held.until_ms <= now_ms || lives[held.holder] !== held.life;
        const isMine = held !== null && held.holder === holder && held.life === life;
        if (isMine) held = { ...(held as Holding), until_ms: now_ms + LENGTH_MS };
        else if (isFree) held = { holder, life, term: (held?.term ?? 0) + 1, until_ms: now_ms + LENGTH_MS };
        expect(seen).toEqual(held);
        expect(lease.holding).toEqual(held);
      }
    }),
    { numRuns: runs(200) },
  );
});

it('of nobody is nobody’s', () => {
  expect(makeLease().holding).toBeNull();
});
