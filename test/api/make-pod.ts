/**
 * The pod that this suite runs on: what createPod makes, so that the official clients get real tokens. MINIPOD_TEST_POD=fake takes the fake one, for work on
 * the API alone. Tests that need faults take a FakePod by name.
 * @module
 */
import { createPod } from '../../src/index.ts';
import type { Pod } from '../../src/pod.ts';
import { expectNothingLeft } from '../system/pods.ts';
import { FakePod } from './fake-pod.ts';

export const isReal: boolean = process.env['MINIPOD_TEST_POD'] !== 'fake';

export const makePod = async (): Promise<Pod> => (isReal ? createPod() : new FakePod());

/** Closes it, with nothing left behind. */
export async function closePod(pod: Pod): Promise<void> {
  if (isReal) await expectNothingLeft(pod);
  await pod.close();
}
