/** A program of exchange-threads.test.ts: this thread's ranks of an exchange, each held against the plain sum. */
import { segmentOf } from '../../src/fabric/address.ts';
import { Arena } from '../../src/fabric/arena.ts';
import { instantiateKernels } from '../../src/model/kernels/kernels.ts';
import type { A2EForm } from '../../src/xccl/a2e.ts';
import type { Endpoint } from '../../src/xccl/endpoint.ts';
import { attentionRounds, expertRounds } from './a2e-rig.ts';
import { allToAllRounds, type Place } from './all-to-all-rig.ts';
import { kernelModule, layoutDesk, type Shape } from './exchange-rig.ts';
import type { App } from './rig.ts';
import { type DiesOfThread, runOnThread } from './rig-threads.ts';

export type ExchangeArgs = {
  readonly form: A2EForm | 'all-to-all';
  readonly shape: Shape;
  readonly seed: number;
  readonly rounds: number;
  readonly timeout_ms: number;
};
export type ExchangeResult = { readonly errors: readonly string[]; readonly stale: number };

export default function exchange(thread: DiesOfThread, { form, shape, seed, rounds, timeout_ms }: ExchangeArgs): ExchangeResult {
  const { space, domain, apps } = thread;
  const kernels = space.memories.map((memory) => instantiateKernels(kernelModule, memory));
  const places = thread.dies.map((die): Place => {
    const { address, bytes } = apps[die] as App;
    const own = kernels[segmentOf(address)] as Place['kernels'];
    return { endpoint: thread.endpoints[die] as Endpoint, domain, kernels: own, desk: layoutDesk(shape, new Arena(address, bytes)) };
  });
  const programs = places.map((place) => {
    if (form === 'all-to-all') return allToAllRounds(place, shape, seed, rounds, timeout_ms);
    if (place.endpoint.die < shape.sources) return attentionRounds(place, shape, form, seed, rounds, new Map(), timeout_ms);
    return expertRounds(place, shape, form, seed, rounds, timeout_ms);
  });
  const errors = runOnThread(thread, programs).flatMap((end) => (end.state === 'failed' ? [end.error.message] : []));
  return { errors, stale: places.reduce((sum, { endpoint }) => sum + endpoint.counters.stale, 0) };
}
