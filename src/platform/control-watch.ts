/**
 * What the control thread looks after beside its actors: threads that read nothing, members that are silent, loops that have died.
 * @module
 */
import type { AddressSpace } from '../fabric/address-space.ts';
import type { Links } from '../fabric/links.ts';
import type { AnyPodPlan } from '../flowserve/pod-plan.ts';
import { MinipodError } from '../protocol/errors.ts';
import type { Cast } from '../runtime/cast.ts';
import type { Directory } from '../runtime/directory.ts';
import { ControlLoops } from './control-loops.ts';
import { StalledThreads } from './stalled-threads.ts';
import { Suspicions } from './suspicions.ts';
import type { Workers } from './workers.ts';

export type ControlWatchPorts = {
  readonly plan: AnyPodPlan;
  readonly space: AddressSpace;
  readonly directory: Directory;
  readonly links: Links;
  readonly cast: Cast;
  readonly workers: Pick<Workers, 'giveUp' | 'suspect'>;
  readonly now_ms: () => number;
};

export class ControlWatch {
  readonly suspicions: Suspicions;
  readonly loops: ControlLoops;
  readonly #stalled: StalledThreads;

  constructor({ plan, space: { control }, directory, links, cast, workers, now_ms }: ControlWatchPorts) {
    this.#stalled = new StalledThreads(links, directory, (worker, reason) => workers.giveUp(worker, reason));
    this.loops = new ControlLoops({ plan, control, cast });
    this.suspicions = new Suspicions({
      workerOf: (member) => directory.workerOf(member),
      lifeOf: (worker) => control.lifeOf(worker),
      now_ms,
      suspect: (worker, reason) => workers.suspect(worker, reason),
      // Whoever reads this is amid a frame: its writer is not to be blamed for it.
      loseControl: (reason) =>
        queueMicrotask(() => {
          throw new MinipodError('internal', reason);
        }),
    });
  }

  /** At each turn. */
  look(now_ms: number): void {
    this.#stalled.look(now_ms);
    this.loops.look(now_ms);
  }
}
