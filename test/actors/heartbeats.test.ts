/** Who is silent is suspected, who is busy or answers late is not. */
import { describe, expect, it } from 'vitest';
import { BEAT_MS, Heartbeats, SILENT_BEATS_MAX } from '../../actors/policies/heartbeats.ts';
import { progress } from '../../src/protocol/heartbeats.ts';

/** Of a DP group that never answers by itself, beside an NPU that does. */
function beats(
  count: number,
  between: (heartbeats: Heartbeats, beat: number) => void = () => {},
  wordOf: (beat: number) => number = () => 7,
  share = 100,
  lifeOf: (beat: number) => number = () => 1,
): string[] {
  const heartbeats = new Heartbeats();
  heartbeats.watch('dp-group/0');
  heartbeats.watch('npu/1');
  const suspects: string[] = [];
  for (let beat = 1; beat <= count; beat++) {
    const { ask, suspects: found } = heartbeats.beat(
      progress(
        heartbeats.silent,
        heartbeats.silent.map(() => wordOf(beat)),
        heartbeats.silent.map(() => share),
        heartbeats.silent.map(() => lifeOf(beat)),
        beat * BEAT_MS,
      ),
    );
    suspects.push(...found.map(({ member, life, silent_ms }) => `${member} at ${beat}, life ${life}, ${silent_ms} ms`));
    expect(ask).toEqual(heartbeats.members);
    heartbeats.heard('npu/1');
    between(heartbeats, beat);
  }
  return suspects;
}

describe('heartbeats', () => {
  it('suspect who has answered nothing for more beats than are borne, and again after as many', () => {
    const first = SILENT_BEATS_MAX + 2;
    expect(beats(3 * first)).toEqual([1, 2, 3].map((times) => `dp-group/0 at ${times * first}, life 1, ${(times * first - 1) * BEAT_MS} ms`));
  });

  it('bear a member that answers late', () => {
    expect(beats(40, (heartbeats, beat) => beat % (SILENT_BEATS_MAX + 1) === 0 && heartbeats.heard('dp-group/0'))).toEqual([]);
  });

  it('bear silence of a thread that waits for a processor, for as long as it is given little', () => {
    expect(beats(40, undefined, undefined, 0)).toEqual([]);
    expect(beats(40, undefined, undefined, 25)[0]).toContain(`dp-group/0 at ${2 + SILENT_BEATS_MAX * 4},`);
  });

  it('take work that goes on for an answer, as in a long prefill', () => {
    expect(beats(40, undefined, (beat) => Math.floor(beat / (SILENT_BEATS_MAX + 1)))).toEqual([]);
  });

  it('ask nobody who is known to be lost, and do not hold the silence of a predecessor against a successor', () => {
    const lost = beats(40, (heartbeats, beat) => {
      if (beat % 4 === 0) heartbeats.forget('dp-group/0');
      if (beat % 4 === 1) heartbeats.watch('dp-group/0');
    });
    expect(lost).toEqual([]);
  });

  it('do not hold it against a successor of whom they have not heard', () => {
    expect(beats(40, undefined, undefined, 100, (beat) => Math.floor(beat / (SILENT_BEATS_MAX + 1)))).toEqual([]);
    expect(beats(8, undefined, undefined, 100, (beat) => (beat < 4 ? 1 : 2))).toEqual([`dp-group/0 at 8, life 2, ${4 * BEAT_MS} ms`]);
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
    const said = Array.from({ length: SILENT_BEATS_MAX + 3 }, (_, at) => beat(at)).flatMap(({ suspects, trusted }) => [suspects.length, trusted.length]);
    expect(said.filter((count) => count > 0)).toEqual([1]);
    heartbeats.heard('npu/0');
    expect([beat(90).trusted, beat(91).trusted]).toEqual([['npu/0'], []]);
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
