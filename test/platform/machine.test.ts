/** What is broken on purpose in a machine's NPUs: whoever breaks the same NPU meanwhile neither ends nor forgets it. */
import { expect, it } from 'vitest';
import { createPod } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { MinipodError } from '../../src/protocol/errors.ts';

const create = async (): Promise<VirtualPod> => (await createPod({ clock: 'virtual', kernels: 'hash' })) as VirtualPod;
const MS = 1_000_000;

it('an NPU should hang until nobody has it hang any more', async () => {
  await using pod = await create();
  const { npus, host } = pod.control;
  const stalled: number[] = [];
  for (const end_ms of [10, 30, 20]) {
    const goOn = npus.hang([0]);
    host.later(end_ms * MS, () => stalled.push(goOn()));
  }
  await pod.complete([1, 86], { max_tokens: 4, ignore_eos: true });
  expect(host.now_ns).toBeGreaterThan(30 * MS);
  expect(stalled).toEqual([1, 1, 1]);
});

it('as many steps should fail as were to, but for those that are not to any more', async () => {
  await using pod = await create();
  const failing = (message: string) => pod.control.npus.failStep(0, () => new MinipodError('worker_failed', message));
  const spare = failing('spared');
  failing('first');
  failing('second');
  spare();
  const call = (): Promise<unknown> =>
    pod.complete([1, 86], { max_tokens: 1 }).then(
      () => null,
      ({ message }: Error) => message,
    );
  expect([await call(), await call(), await call()]).toEqual(['first', 'second', null]);
});
