/** Weights of NPUs that come to serve, or to stand by. */
import { describe, expect, it } from 'vitest';
import { plainChecksum } from '../../../src/flowserve/distflow/checksum.ts';
import type { StepLayout } from '../../../src/flowserve/layouts/step-layout.ts';
import { StandbyWeights, weightPieces } from '../../../src/flowserve/weights/replicated-weights.ts';
import { sumsOf } from '../../../src/flowserve/weights/resting-weights.ts';
import { WeightBroadcasts } from '../../../src/flowserve/weights/weight-broadcasts.ts';
import type { WeightBroadcast } from '../../../src/protocol/expert-maps.ts';
import { Directory } from '../../../src/runtime/directory.ts';
import { Endpoint } from '../../../src/xccl/endpoint.ts';
import { type HashPod, makeHashPod } from '../hash-rig.ts';

/** NPU 0 serves, and NPUs 1 and 2 stand by. */
function standby() {
  const { plan, space, programs } = makeHashPod(1, { scale_max: { attention: 3 } });
  const directory = new Directory(plan.hosting);
  const { surroundings } = (programs[0] as HashPod['programs'][number]).exchange.endpoint;
  const broadcasts = new WeightBroadcasts({ directory, checksum: plainChecksum(space), endpointOf: (npu) => new Endpoint(npu, surroundings) });
  const weights = new StandbyWeights({ plan, space, directory, broadcasts, arrive: () => null }, plan.layouts);
  const bytesOf = (npu: number): number[] => {
    const layout = plan.layouts[npu];
    return layout?.kind === 'attention' ? layout.replicated.flatMap(({ address, bytes }) => [...space.bytesAt(address, bytes)]) : [];
  };
  const finish = (): void => {
    while (weights.poll() || broadcasts.poll()) {
      // Goes on.
    }
  };
  return { plan, space, directory, weights, broadcasts, bytesOf, finish, nothing: bytesOf(0).map(() => 0) };
}

describe('weights of NPUs that stand by', () => {
  it('should not be there at first, be those of the one that serves when they are copied, and nothing when they are cleared', () => {
    const { weights, bytesOf, finish, nothing } = standby();
    expect(bytesOf(0)).not.toEqual(nothing);
    expect([bytesOf(1), bytesOf(2)]).toEqual([nothing, nothing]);
    const told: unknown[] = [];
    weights.furnish(1, 0, null, (_, error) => told.push([1, error]));
    weights.furnish(2, 0, null, (_, error) => told.push([2, error]));
    expect(told).toEqual([]);
    finish();
    expect(told).toEqual([
      [1, null],
      [2, null],
    ]);
    expect([bytesOf(1), bytesOf(2)]).toEqual([bytesOf(0), bytesOf(0)]);
    weights.clear(1);
    finish();
    expect([bytesOf(1), bytesOf(2)]).toEqual([nothing, bytesOf(0)]);
  });

  it('should tell nobody of a copy that was given up, nor begin it twice', () => {
    const { weights, bytesOf, finish, nothing } = standby();
    const told: string[] = [];
    weights.furnish(1, 0, null, () => told.push('given up'));
    weights.clear(1);
    weights.furnish(2, 0, null, () => told.push('there'));
    weights.furnish(2, 0, null, () => told.push('asked again'));
    finish();
    expect(told).toEqual(['there']);
    expect([bytesOf(1), bytesOf(2)]).toEqual([nothing, bytesOf(0)]);
  });

  it('should come to several at once by broadcast, where they were to be cleared too, and be pulled by who did not get them so', () => {
    const { weights, bytesOf, finish, nothing, directory, space, plan } = standby();
    const told: unknown[] = [];
    const furnish = (npu: number, broadcast: WeightBroadcast | null): void =>
      weights.furnish(npu, 0, broadcast, (copied, error) => told.push([npu, copied, error?.code]));
    // With their sums.
    const bytes = bytesOf(0).length + sumsOf(plan.layouts[0] as StepLayout).bytes;
    const all = { number: 3, npus: [0, 1, 2] };
    weights.clear(1);
    furnish(1, all);
    weights.send(0, all);
    furnish(2, all);
    // Asked again while they are on their way: they go on.
    furnish(2, null);
    finish();
    const bySending = { broadcast_bytes: bytes, pulled_bytes: 0 };
    expect(told.toSorted()).toEqual([
      [1, bySending, undefined],
      [2, bySending, undefined],
    ]);
    expect([bytesOf(1), bytesOf(2)]).toEqual([bytesOf(0), bytesOf(0)]);
    // Given up in the midst of it, it tells nobody; the next one is not kept by what was not taken of it.
    told.length = 0;
    for (const npu of [1, 2]) weights.clear(npu);
    finish();
    weights.send(0, { number: 4, npus: [0, 1, 2] });
    furnish(1, { number: 4, npus: [0, 1, 2] });
    weights.clear(1);
    finish();
    expect([told, bytesOf(1)]).toEqual([[], nothing]);
    weights.send(0, { number: 5, npus: [0, 1, 2] });
    for (const npu of [2, 1]) furnish(npu, { number: 5, npus: [0, 1, 2] });
    finish();
    expect(told).toHaveLength(2);
    expect([bytesOf(1), bytesOf(2)]).toEqual([bytesOf(0), bytesOf(0)]);
    // Who has them is lost: a broadcast says so, and so does a pull.
    told.length = 0;
    furnish(1, { number: 6, npus: [0, 1, 2] });
    space.control.raiseEpochOfDie(directory.dieOfNpu(0));
    finish();
    expect(told).toEqual([[1, { broadcast_bytes: 0, pulled_bytes: 0 }, 'worker_failed']]);
  });

  it('should not be taken from one that was lost meanwhile', () => {
    const { space, directory, weights, finish } = standby();
    const told: unknown[] = [];
    weights.furnish(1, 0, null, (_, error) => told.push(error?.code));
    space.control.raiseEpochOfDie(directory.dieOfNpu(0));
    finish();
    expect(told).toEqual(['worker_lost']);
  });

  it('should be all matrices and vectors, but not what lies in slots', () => {
    const vector = { address: 64, length: 4 };
    const matrix = { address: 128, head_bytes: 32, heads: 3, inDim: 2, outDim: 4, format: 'f32' };
    expect(weightPieces([vector, { a: null, b: matrix, slots: [matrix] }])).toEqual([
      { address: 64, bytes: 16 },
      { address: 128, bytes: 96 },
    ]);
  });
});
