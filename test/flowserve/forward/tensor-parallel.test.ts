/** The hash model split over ranks: the same tokens, and other ones as soon as a rank misses what another has computed. */
import { expect, it } from 'vitest';
import { boundsOf, firstRowOf, partOf } from '../../../src/flowserve/forward/tensor-share.ts';
import type { Topology } from '../../../src/protocol/topology.ts';
import { numbers } from '../../xccl/rig.ts';
import { type Call, generate, type HashPod, makeHashPod, SHAPE, wordsAt } from '../hash-rig.ts';

const next = numbers(11);
const PROMPTS = [13, 1, 30, 9, 17].map((length) => Array.from({ length }, () => Math.floor(next() * SHAPE.vocabSize)));
const callsOn = (npus: number): Call[] => PROMPTS.map((prompt, index) => ({ npu: index % npus, prompt, max_tokens: 6 }));
const { tokens: expected } = generate(makeHashPod(1), callsOn(1));
const podOf = (topology: Topology): HashPod => makeHashPod(0, { topology });

it.each([
  [{ role: 'colocated', dp: 1, tp: 2 }],
  [{ role: 'colocated', dp: 1, tp: 3 }],
  [{ role: 'colocated', dp: 2, tp: 2 }],
  [{ role: 'colocated', dp: 1, tp: 7 }],
  [
    { role: 'colocated', dp: 1, tp: 3 },
    { role: 'colocated', dp: 2, tp: 1 },
  ],
  [{ role: 'colocated', dp: 2, tp: 1, oproj: 2 }],
  [{ role: 'colocated', dp: 6, tp: 1, oproj: 3 }],
  [
    { role: 'colocated', dp: 1, tp: 3 },
    { role: 'colocated', dp: 4, tp: 1, oproj: 4 },
    { role: 'colocated', dp: 1, tp: 1 },
  ],
] satisfies Topology[])('tokens do not depend on how many ranks compute them: %o', (...topology) => {
  const pod = podOf(topology as Topology);
  const { tokens, errors, diverged } = generate(pod, callsOn(pod.plan.npus));
  expect(tokens).toEqual(expected);
  expect([errors.every((error) => error === null), diverged]).toEqual([true, 0]);
});

/** Gathers of a step in turn: two of the dense layer's attention, two of its MLP, then three a layer of experts, one of the rows' hashes. */
it.each(Array.from({ length: 14 }, (_, at) => at))('a part that rank 0 does not get from rank 1 changes the tokens: gather %i of step 3', (at) => {
  const pod = podOf([{ role: 'colocated', dp: 1, tp: 2 }]);
  const rank = pod.programs[0] as HashPod['programs'][number];
  const copy = pod.space.copyRows.bind(pod.space);
  let pulls = -1;
  pod.space.copyRows = (to, from, bytes, rows, stride) => {
    const isRank0s = to < (pod.plan.dies[1]?.base ?? 0);
    if (isRank0s && rank.step === 3 && ++pulls === at) return;
    copy(to, from, bytes, rows, stride);
  };
  const { tokens, diverged } = generate(pod, callsOn(1));
  expect(pulls).toBeGreaterThanOrEqual(at);
  expect(tokens.map((ids) => ids.slice(0, 1))).toEqual(expected.map((ids) => ids.slice(0, 1)));
  expect(tokens).not.toEqual(expected);
  // Rows after a layer of experts are one rank's alone: from there on both are wrong alike.
  expect(diverged > 0).toBe(at >= 12);
});

it.each(Array.from({ length: SHAPE.layers }, (_, layer) => layer))(
  'columns that an NPU does not get from a peer change the tokens: layer %i of step 3',
  (layer) => {
    const pod = podOf([{ role: 'colocated', dp: 2, tp: 1, oproj: 2 }]);
    const [program] = pod.programs as [HashPod['programs'][number]];
    const peers = program.forward.layout.projection?.columns[1]?.target;
    const copy = pod.space.copy.bind(pod.space);
    let pulls = -1;
    pod.space.copy = (to, from, bytes) => {
      if (to === peers && program.step === 3 && ++pulls === layer) return;
      copy(to, from, bytes);
    };
    const { tokens } = generate(pod, callsOn(2));
    expect(pulls).toBe(SHAPE.layers - 1);
    const before = (ids: readonly number[]): readonly number[] => ids.slice(0, 1);
    expect(tokens.map(before)).toEqual(expected.map(before));
    for (const [index, ids] of tokens.entries()) {
      if (index % 2 === 0) expect(ids).not.toEqual(expected[index]);
      else expect(ids).toEqual(expected[index]);
    }
  },
);

it('a peer whose weights were not loaded changes the tokens of those that ask it', () => {
  const pod = podOf([{ role: 'colocated', dp: 4, tp: 1, oproj: 2 }]);
  wordsAt(pod, (pod.programs[3] as HashPod['programs'][number]).forward.layout.weights, 2).fill(0);
  const { tokens } = generate(pod, callsOn(3));
  for (const [index, ids] of tokens.entries()) {
    if (index % 3 === 2) expect(ids).not.toEqual(expected[index]);
    else expect(ids).toEqual(expected[index]);
  }
});

it('what does not divide is dealt out unevenly, and whole', () => {
  expect(boundsOf(6, 1, 4)).toEqual([0, 2, 4, 5, 6]);
  expect(boundsOf(192, 16, 5)).toEqual([0, 48, 96, 128, 160, 192]);
  expect(boundsOf(40, 16, 2)).toEqual([0, 32, 40]);
  expect(partOf(2, 1, { rank: 2, tp: 3 })).toEqual({ first: 2, count: 0 });
  for (let rows = 0; rows < 9; rows++)
    for (let tp = 1; tp < 6; tp++) expect(Array.from({ length: tp + 1 }, (_, rank) => firstRowOf(rows, rank, tp))).toEqual(boundsOf(rows, 1, tp));
});
