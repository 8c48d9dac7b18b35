/**
 * The pod that this suite runs on: the fake one, or with MINIPOD_TEST_POD=real what createPod makes. Tests that need faults take a FakePod by name.
 * @module
 */
import type { Pod } from '../../src/pod.ts';
import { FakePod } from './fake-pod.ts';

export const isReal: boolean = process.env['MINIPOD_TEST_POD'] === 'real';

export async function makePod(): Promise<Pod> {
  if (!isReal) return new FakePod();
  const index = new URL('../../src/index.ts', import.meta.url).href;
  const { createPod } = (await import(index)) as { createPod(): Promise<Pod> };
  return createPod();
}
