/** Ranks that fall silent while the others go on. */
import type { MinipodError } from '../../src/protocol/errors.ts';
import type { Operation, Poll } from '../../src/xccl/operation.ts';
import { type FakeClock, randomPick, run } from './rig.ts';

/** The program does nothing any more after so many polls. */
export function silentAfter(program: Operation, polls: number): Operation {
  let left = polls;
  return { poll: (): Poll => (left-- > 0 ? program.poll() : { state: 'pending', missing: [] }) };
}

/** Polls all in random order while the clock moves; how all but the victim end. */
export function survivorsOf(programs: readonly Operation[], victim: number, polls: number, clock: FakeClock, seed: number): Poll[] {
  const others = programs.filter((_, rank) => rank !== victim);
  const silent = silentAfter(programs[victim] as Operation, polls);
  const pick = randomPick(seed);
  // The victim's turns come between the others': it never ends the run.
  const beside = others.map((program) => ({
    poll: (): Poll => {
      clock.advance(0.05);
      if (pick(others.length) === 0) silent.poll();
      return program.poll();
    },
  }));
  return run(beside, { pick });
}

export const failureOf = (poll: Poll | undefined): MinipodError => {
  if (poll?.state !== 'failed') throw new Error(`it is ${poll?.state}, not failed`);
  return poll.error;
};
