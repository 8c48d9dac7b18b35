/** Who is silent is suspected, who is busy or answers late is not. */
import { describe, expect, it } from 'vitest';
import { BEAT_MS, Heartbeats, LOOK_MS, SILENCE_MS_MAX } from '../../actors/policies/heartbeats.ts';
import type { Address } from '../../src/protocol/address.ts';
import { progress } from '../../src/protocol/heartbeats.ts';

/** Of a DP group that never answers by itself, beside an NPU that does, in so many ms. A first look has nothing to compare with, so it counts for nothing. */
function suspectsIn(
  limit_ms: number,
  {
    after = () => {},
    wordAt = () => 7,
    share = 100,
    lifeAt = () => 1,
  }: {
    readonly after?: (heartbeats: Heartbeats, now_ms: number) => unknown;
    readonly wordAt?: (now_ms: number) => number;
    readonly share?: number;
    readonly lifeAt?: (now_ms: number) => number;
  } = {},
): string[] {
  const heartbeats = new Heartbeats();
  heartbeats.watch('dp-group/0');
  heartbeats.watch('npu/1');
  const suspects: string[] = [];
  let asked_ms = Number.NEGATIVE_INFINITY;
  let wasSilent: readonly Address[] = [];
  for (let now_ms = 0; now_ms < limit_ms; now_ms += heartbeats.delay_ms) {
    const { silent } = heartbeats;
    const { ask, suspects: found } = heartbeats.beat(
      progress(
        silent,
        silent.map(() => wordAt(now_ms)),
        silent.map((member) => (wasSilent.includes(member) ? share : 0)),
        silent.map(() => lifeAt(now_ms)),
        now_ms,
      ),
    );
    wasSilent = silent;
    suspects.push(...found.map(({ member, life, silent_ms }) => `${member} at ${now_ms}, life ${life}, ${silent_ms} ms`));
    if (ask.length > 0) {
      expect(ask).toEqual(heartbeats.members);
      // However often somebody is looked at.
      expect(now_ms - asked_ms).toBeGreaterThanOrEqual(BEAT_MS);
      asked_ms = now_ms;
    }
    // And no later, whoever is silent.
    expect(now_ms - asked_ms).toBeLessThan(BEAT_MS);
    heartbeats.heard('npu/1');
    after(heartbeats, now_ms);
  }
  return suspects;
}

/** Asked at 0, looked at when the next beat is due, and from then on twice as often until more than what is borne has passed. */
const FOUND_MS = BEAT_MS + SILENCE_MS_MAX + LOOK_MS;

describe('heartbeats', () => {
  it('suspect who has answered nothing for longer than is borne, and again after as long, with whole beats', () => {
    const again_ms = FOUND_MS + SILENCE_MS_MAX + LOOK_MS;
    const at = [FOUND_MS, again_ms, again_ms + SILENCE_MS_MAX + BEAT_MS];
    expect(suspectsIn(700)).toEqual(at.map((ms) => `dp-group/0 at ${ms}, life 1, ${ms} ms`));
  });

  it('bear a member that answers late', () => {
    expect(suspectsIn(2_000, { after: (heartbeats, now_ms) => now_ms % (FOUND_MS - LOOK_MS) === 0 && heartbeats.heard('dp-group/0') })).toEqual([]);
  });

  it('bear silence of a thread that waits for a processor, for as long as it is given little', () => {
    expect(suspectsIn(2_000, { share: 0 })).toEqual([]);
    expect(suspectsIn(2_000, { share: 25 })[0]).toContain(`dp-group/0 at ${BEAT_MS + SILENCE_MS_MAX * 4 + LOOK_MS},`);
  });

  it('take work that goes on for an answer, as in a long prefill', () => {
    expect(suspectsIn(2_000, { wordAt: (now_ms) => Math.floor(now_ms / SILENCE_MS_MAX) })).toEqual([]);
  });

  it('look no more often at work that goes on', () => {
    const looks: number[] = [];
    suspectsIn(1_000, { wordAt: (now_ms) => now_ms, after: (_, now_ms) => looks.push(now_ms) });
    // The first look has found nobody's work to have gone on, and so has one follow it at once.
    expect(looks.slice(0, 6)).toEqual([0, 50, 75, 100, 150, 200]);
    expect(looks).toHaveLength(1 + 1_000 / BEAT_MS);
  });

  it('ask nobody who is known to be lost, and do not hold the silence of a predecessor against a successor', () => {
    const lost = suspectsIn(2_000, {
      after: (heartbeats, now_ms) => {
        if (now_ms % 200 === 150) heartbeats.forget('dp-group/0');
        if (now_ms % 200 === 0) heartbeats.watch('dp-group/0');
      },
    });
    expect(lost).toEqual([]);
  });

  it('do not hold it against a successor of whom they have not heard', () => {
    expect(suspectsIn(2_000, { lifeAt: (now_ms) => Math.floor(now_ms / SILENCE_MS_MAX) })).toEqual([]);
    const [second] = suspectsIn(500, { lifeAt: (now_ms) => (now_ms < 200 ? 1 : 2) });
    expect(second).toBe(`dp-group/0 at ${200 + SILENCE_MS_MAX + LOOK_MS}, life 2, ${SILENCE_MS_MAX + LOOK_MS} ms`);
  });

  it('say so when who was suspected answers after all', () => {
    const heartbeats = new Heartbeats();
    heartbeats.watch('npu/0');
    const beat = (at: number) =>
      heartbeats.beat(
        progress(
          heartbeats.silent,
          heartbeats.silent.map(() => 7),
          heartbeats.silent.map(() => 100),
          heartbeats.silent.map(() => 1),
          at,
        ),
      );
    const said = Array.from({ length: 2 + SILENCE_MS_MAX / LOOK_MS }, (_, at) => beat(at)).flatMap(({ suspects, trusted }) => [
      suspects.length,
      trusted.length,
    ]);
    expect(said.filter((count) => count > 0)).toEqual([1]);
    heartbeats.heard('npu/0');
    expect([beat(90).trusted, beat(91).trusted]).toEqual([['npu/0'], []]);
  });

  it('ask at once when they begin again, though they ended when somebody had just been looked for', () => {
    const heartbeats = new Heartbeats();
    heartbeats.watch('npu/0');
    const beat = (at: number) => heartbeats.beat(progress(heartbeats.silent, [7], [0], [1], at));
    expect([beat(0).ask, beat(BEAT_MS).ask]).toEqual([['npu/0'], ['npu/0']]);
    heartbeats.heard('npu/0');
    heartbeats.rest();
    expect(beat(BEAT_MS + LOOK_MS).ask).toEqual(['npu/0']);
  });

  it('of changing members keep what is known of those who stay', () => {
    const heartbeats = new Heartbeats();
    heartbeats.watchOnly(['job-executor/0', 'job-executor/1']);
    heartbeats.beat(progress([], [], [], [], 0));
    heartbeats.heard('job-executor/1');
    expect(heartbeats.silent).toEqual(['job-executor/0']);
    heartbeats.watchOnly(['job-executor/0', 'job-executor/2']);
    expect([heartbeats.members, heartbeats.silent]).toEqual([['job-executor/0', 'job-executor/2'], ['job-executor/0']]);
    heartbeats.watchOnly(['job-executor/2']);
    expect(heartbeats.silent).toEqual([]);
  });
});
