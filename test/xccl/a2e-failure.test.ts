/** A2E and E2A when a rank dies or the domain ends, in both forms. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { A2E_FORMS } from '../../src/xccl/a2e.ts';
import { CHANNEL } from '../../src/xccl/areas.ts';
import { stampOf } from '../../src/xccl/arrivals.ts';
import { destroyDomain, recreateWithout } from '../../src/xccl/domain.ts';
import type { Endpoint } from '../../src/xccl/endpoint.ts';
import { domainTag } from '../../src/xccl/message.ts';
import type { Operation } from '../../src/xccl/operation.ts';
import { SEGMENTS } from '../fabric/segments.ts';
import { runs } from '../property-runs.ts';
import { makeAttentionEnd, makeExpertEnd, programsOf, split } from './a2e-rig.ts';
import { placeOf } from './all-to-all-rig.ts';
import { type Desk, makeDesks } from './exchange-rig.ts';
import { failureOf, survivorsOf } from './mishaps.ts';
import { randomPick, run, succeed } from './rig.ts';

describe.each(A2E_FORMS)('%s', (form) => {
  it('a rank that falls silent is named, and it alone, by every other one, however many ranks lie between', () => {
    const seen = { attention: 0, experts: 0 };
    fc.assert(
      fc.property(
        fc.record({
          attention: fc.integer({ min: 1, max: 4 }),
          more: fc.integer({ min: 0, max: 4 }),
          victim: fc.nat(),
          polls: fc.integer({ min: 0, max: 20 }),
          segments: fc.constantFrom(...SEGMENTS),
          seed: fc.nat(),
        }),
        ({ attention, more, victim: any, polls, segments, seed }) => {
          const ranks = 2 * attention + more;
          const victim = any % ranks;
          const shape = split(attention, attention + more, 5, 2, 3, 9, seed);
          const desks = makeDesks(ranks, shape, segments);
          const programs = programsOf(desks, { shape, form, seed, rounds: 4, timeout_ms: 100 });
          const ends = survivorsOf(programs, victim, polls, desks.clock, seed);
          const failures = ends.filter(({ state }) => state === 'failed');
          if (failures.length > 0) seen[victim < attention ? 'attention' : 'experts']++;
          for (const end of failures) {
            const { code, message } = failureOf(end);
            expect(code).toBe('deadline_exceeded');
            expect(message).toMatch(new RegExp(`^(A2E|E2A) of round \\d at rank \\d+ waited \\d+ ms for rank ${victim}$`));
          }
          // An attention rank's last answers need all expert ranks; an expert rank may have sent its last ones already.
          const attentionEnds = ends.slice(0, victim < attention ? attention - 1 : attention);
          if (failures.length > 0 && victim >= attention) expect(attentionEnds.some(({ state }) => state === 'failed')).toBe(true);
        },
      ),
      { numRuns: runs(80) },
    );
    expect(Math.min(seen.attention, seen.experts)).toBeGreaterThan(5);
  });

  it('a domain that ends in the middle ends every operation; the dies go on in the next, without a rank', () => {
    fc.assert(
      fc.property(fc.record({ polls: fc.integer({ min: 0, max: 200 }), lost: fc.integer({ min: 0, max: 6 }), seed: fc.nat() }), ({ polls, lost, seed }) => {
        const shape = split(3, 4, 7, 2, 4, 10, seed);
        const desks = makeDesks(7, shape, 2);
        const programs = programsOf(desks, { shape, form, seed, rounds: 50 });
        const pick = randomPick(seed);
        for (let poll = 0; poll < polls; poll++) programs[pick(7)]?.poll();
        const next = recreateWithout(desks.space.control, desks.domain, lost);
        for (const end of run(programs, { polls_max: 7 * 5 })) expect(failureOf(end).code).toBe('closed');
        // An attention rank fewer, or an expert rank.
        const smaller = lost < 3 ? split(2, 4, 7, 2, 4, 10, seed + 1) : split(3, 3, 7, 2, 4, 10, seed + 1);
        succeed(programsOf(desks, { shape: smaller, form, seed, rounds: 3 }, new Map(), next), { pick });
      }),
      { numRuns: runs(30) },
    );
  });

  it('a die that is given up while something is pulled from it: the very poll that pulled fails naming it, and publishes nothing', () => {
    const shape = split(2, 3, 8, 2, 4, 6, 2);
    let pulls = 0;
    for (let at = 1; at <= 12; at++) {
      for (let victim = 0; victim < 5; victim++) {
        const desks = makeDesks(5, shape, 2);
        const { areas } = desks.endpoints[victim] as Endpoint;
        const { space } = desks;
        const copy = space.copy.bind(space);
        let count = 0;
        let published = 0;
        const writes = (): number => desks.endpoints.reduce((sum, { counters }) => sum + counters.writes, 0);
        space.copy = (to, from, bytes) => {
          copy(to, from, bytes);
          if (from < areas.dispatch || from >= areas.reply + areas.reply_bytes || ++count !== at) return;
          space.control.raiseEpochOfDie(victim);
          published = writes();
        };
        const programs = programsOf(desks, { shape, form, seed: 2, rounds: 30 }).map(
          (program): Operation => ({
            poll: () => {
              const counted = count;
              const poll = program.poll();
              if (counted >= at || count < at) return poll;
              pulls++;
              expect(failureOf(poll).message).toContain(`ended: rank ${victim} (die ${victim}) was given up`);
              expect(writes()).toBe(published);
              return poll;
            },
          }),
        );
        for (const end of run(programs, { pick: randomPick(at) }))
          if (end.state === 'failed') expect(end.error.message).toContain(`ended: rank ${victim} (die ${victim}) was given up`);
      }
    }
    expect(pulls).toBeGreaterThan(20);
  });
});

describe('a trampoline', () => {
  const shape = split(2, 3, 8, 2, 4, 6, 2);

  it.each([
    { lie: 'beyond the area', offset: 1 << 20, bytes: 64, entries: 3, says: /^rank 1 \(die 1\) says that 64 bytes lie at offset 1048576 of its dispatch area/ },
    { lie: 'for other ranks', offset: 0, bytes: 64, entries: 4, says: /^rank 1 \(die 1\) sent 64 bytes for 4 expert ranks, there are 3/ },
    {
      lie: 'that is shorter than what it lists',
      offset: 0,
      bytes: 64,
      entries: 3,
      says: /^rank 1 \(die 1\) says that 2608 bytes lie at offset 48 of its package/,
    },
  ])('refuses a package $lie, naming its attention rank', ({ offset, bytes, entries, says }) => {
    const desks = makeDesks(5, shape, 2);
    const operation = makeExpertEnd(placeOf(desks, 3), shape, 'trampoline').a2e({ timeout_ms: 100 });
    const liar = desks.endpoints[1] as Endpoint;
    const at = (liar.areas.dispatch % 2 ** 32) / 4;
    desks.space.wordsOf(liar.areas.dispatch).set([48, 81, 0, 0], at);
    liar.write(3, CHANNEL.dispatch, offset, bytes, entries, domainTag(desks.domain), stampOf(1, 0));
    const { code, message } = failureOf(operation.poll());
    expect(code).toBe('memory_fault');
    expect(message).toMatch(says);
    expect(desks.endpoints[3]?.counters.writes).toBe(0);
  });

  it('whose area cannot hold the package of its attention rank says the bytes needed and granted', () => {
    const desks = makeDesks(5, shape, 2);
    const { areas } = desks.endpoints[3] as Endpoint;
    const desk = desks.desks[1] as Desk;
    const place = placeOf(desks, 3);
    makeAttentionEnd(placeOf(desks, 1), shape, 'trampoline').a2e({ ...desk, tokens: 4, format: 'f32' });
    const narrow = makeExpertEnd({ ...place, dispatch: { offset: 64, bytes: 64 } }, shape, 'trampoline');
    expect(areas.dispatch_bytes).toBeGreaterThan(128);
    expect(failureOf(narrow.a2e({ timeout_ms: 100 }).poll()).message).toMatch(
      /^A2E of round 1 at rank 3 for rank 1 needs 256 bytes of die 3's dispatch area, 64 are granted$/,
    );
  });

  it('that waits in a domain destroyed says so', () => {
    const desks = makeDesks(5, shape, 2);
    const operation = makeExpertEnd(placeOf(desks, 2), shape, 'trampoline').a2e({ timeout_ms: 100 });
    expect(operation.poll()).toEqual({ state: 'pending', missing: [0] });
    destroyDomain(desks.space.control, desks.domain);
    expect(failureOf(operation.poll()).message).toBe('A2E of round 1 at rank 2 ended: domain 0 was destroyed while it was under way');
  });
});
