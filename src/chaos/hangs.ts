/** Parts that hear nothing and do nothing for a while, and for how long each has kept others waiting. @module */
import type { VirtualControl } from '../platform/virtual-control.ts';
import type { VirtualPod } from '../pod/virtual-pod.ts';
import type { Address } from '../protocol/address.ts';
import type { Mail } from '../runtime/cast.ts';
import { CLUSTER_MANAGERS, ON_CONTROL } from '../runtime/directory.ts';
import type { Span } from './call-times.ts';

/** `fault`: its index in the plan. `span`: from the first message that it did not hear. `asked_ms`: when it was asked first whether it lives. `isFound`: it ended with its thread. `isReplaced`: by its end another did what it is for. */
export type Hang = {
  readonly fault: number;
  readonly worker: number;
  readonly span: Span | null;
  readonly asked_ms: number | null;
  readonly isFound: boolean;
  readonly isReplaced: boolean;
};

/**
 * What hangs: the NPUs that compute nothing, and whose mail is not heard. `isDeaf`: it has to hear of losses before anybody succeeds the lost. `worker`: that it ends with.
 * `isReplaced`: now another does what it is for; missing: nobody does for a while.
 */
export type HangTerms = {
  readonly fault: number;
  readonly worker: number;
  readonly npus: readonly number[];
  readonly isDeaf: boolean;
  readonly isHeld: (mail: Mail) => boolean;
  readonly isReplaced?: (() => boolean) | undefined;
};

/** Another manager leads, or none is there now that could. */
export function isLedWithout(hung: Address, { host: { cast }, directory, workers }: VirtualControl): boolean {
  const others = CLUSTER_MANAGERS.filter((manager) => manager !== hung && workers.hasControllers(directory.workerOf(manager)));
  return others.length === 0 || others.some((manager) => cast.stateOf(manager) === 'leading');
}

export class Hangs {
  readonly #pod: Pick<VirtualPod, 'control' | 'isLost'>;
  readonly ended: Hang[] = [];

  constructor(pod: Pick<VirtualPod, 'control' | 'isLost'>) {
    this.#pod = pod;
  }

  /** Until the function is called that it returns: its mail is heard then, and `after_ns` later NPUs go on. What was held up by it is told to `note`. */
  begin({ fault, worker, npus, isDeaf, isHeld, isReplaced = () => false }: HangTerms, note: (effect: number) => void): (after_ns: number) => void {
    const { host, npus: machine, workers } = this.#pod.control;
    let since_ms: number | null = null;
    let asked_ms: number | null = null;
    const release = host.hold((mail) => {
      if (!isHeld(mail)) return false;
      since_ms ??= host.clock.now_ms();
      if (mail.message.type === 'PING') asked_ms ??= host.clock.now_ms();
      return true;
    });
    const goOn = npus.length === 0 ? null : machine.hang(npus);
    const hear = isDeaf ? workers.deafen() : null;
    return (after_ns) => {
      const isFound = this.#pod.isLost || (worker !== ON_CONTROL && workers.isLost(worker));
      const span = since_ms === null ? null : { since_ms, until_ms: host.clock.now_ms() };
      this.ended.push({ fault, worker, span, asked_ms, isFound, isReplaced: isReplaced() });
      note(release());
      const goOnNow = (): void => note(goOn?.() ?? 0);
      if (after_ns === 0) goOnNow();
      else host.later(after_ns, goOnNow);
      hear?.();
    };
  }
}
