/** Whom live strikes may strike, and what is refused since it would strike nobody. */
import { expect, it } from 'vitest';
import { LIVE_KINDS } from '../../src/chaos/index.ts';
import { LivePlaces } from '../../src/chaos/live-places.ts';
import { minipod } from '../cli/command.ts';

it.each([
  ['colocated:dp=2', 2, []],
  ['colocated:dp=2', 1, ['field-stale']],
  ['colocated:dp=1', 1, ['row-bit-flip', 'field-stale']],
  ['pd:prefill=1,decode=1', 2, ['row-bit-flip', 'field-stale']],
  ['pd:prefill=1,decode=1xdp2', 3, []],
  ['moe-attention:domains=1x2,experts=2', 4, []],
] as const)('all that can strike %s on %i workers is all but %j', (topology, workers, without) => {
  expect(new LivePlaces(topology, workers).kinds).toEqual(LIVE_KINDS.filter((kind) => !(without as readonly string[]).includes(kind)));
});

it('strikes those that have what is struck', () => {
  const places = new LivePlaces('moe-attention:domains=1x2,experts=2', 4);
  const attention = places.workersFor('kv-bit-flip');
  expect(attention).toHaveLength(2);
  expect(places.workersFor('row-bit-flip')).toEqual(attention);
  expect(places.workersFor('worker-dies')).toEqual([0, 1, 2, 3]);
});

it('refuses a kind that can strike nothing, and says which and why', async () => {
  const { code, stderr } = await minipod(['chaos', 'live', '--topology', 'pd:prefill=1,decode=1', '--kinds', 'worker-dies,row-bit-flip']);
  expect([code, stderr]).toEqual([
    2,
    expect.stringMatching(/row-bit-flip can strike nothing in pd:.* on 2 workers, since none of its NPUs leaves rows for another one/),
  ]);
});

it.each([
  ['--kv-fabric', 'tcp'],
  ['--kv-transfer', 'layer'],
])('has its pod hand KV over by %s %s, which refuses that where nobody does', async (flag, value) => {
  const { code, stderr } = await minipod(['chaos', 'live', '--strikes', '1', flag, value]);
  expect([code, stderr]).toEqual([2, expect.stringMatching(new RegExp(`'${value}' .*topology 'colocated:dp=2' has (one|none)`))]);
});

it('has two workers where nothing is said of them, or one for one NPU, and refuses more than there are NPUs', async () => {
  expect(['colocated:dp=2', 'colocated:dp=1'].map((topology) => new LivePlaces(topology).workers)).toEqual([2, 1]);
  const { code, stdout, stderr } = await minipod(['chaos', 'live', '--workers', '5', '--strikes', '1']);
  const why = 'workers: 5 threads for the 2 NPUs of colocated:dp=2; an NPU lives on one worker, so use at most 2';
  expect([code, stdout, stderr]).toEqual([2, '', expect.stringContaining(why)]);
});
