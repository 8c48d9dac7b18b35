/** KV that is lent while it is computed: each layer can be had once it is there and not before, and an end at any layer frees both sides. */
import { describe, expect, it } from 'vitest';
import { flipBit } from '../../../src/chaos/damage.ts';
import { plainChecksum } from '../../../src/flowserve/distflow/checksum.ts';
import { ownKvSums } from '../../../src/flowserve/kv/kv-sums.ts';
import { KvTransfers } from '../../../src/flowserve/kv/kv-transfers.ts';
import { onDie } from '../../../src/flowserve/pod-plan.ts';
import type { Address } from '../../../src/protocol/address.ts';
import type { KvOffer } from '../../../src/protocol/messages.ts';
import type { StepPlan } from '../../../src/protocol/steps.ts';
import { parseTopology } from '../../../src/protocol/topology.ts';
import type { Transfer, TransferMessage } from '../../../src/protocol/transfers.ts';
import { Directory } from '../../../src/runtime/directory.ts';
import { greedySequence } from '../../golden/greedy.ts';
import { makeHashPod } from '../hash-rig.ts';

const [PREFILL, DECODE]: [Address, Address] = ['dp-group/0', 'dp-group/1'];
const PROMPT = Array.from({ length: 20 }, (_, at) => 3 + at);
const LENT = [5, 0, 9];
const PULLED = [7, 3, 1];

const step: StepPlan = {
  ...{ step: 4, after: 0, detach: [] },
  entries: [
    {
      ...{ slot: 0, start: 0, tokens: PROMPT, first_block: 0, blocks: LENT, shared: 0, generated: 0, samples: true, drafts: 0, foresees: -1 },
      attach: greedySequence(1, PROMPT, 4),
      output: [],
    },
  ],
};

function makePair() {
  const { plan, space, programs } = makeHashPod(2, { topology: parseTopology('pd') });
  const told: string[] = [];
  const rung: number[] = [];
  const arrive = (die: number): void => void rung.push(die);
  let offer: KvOffer | null = null;
  const tell = (group: Address, message: TransferMessage): void => {
    told.push(`${group} ${message.type}`);
    if (message.type === 'OFFERED') offer = message.offer;
  };
  const directory = new Directory(plan.hosting);
  const checksum = plainChecksum(space);
  const owners = programs.map(({ npu, exchange, blocks }) => {
    const { die, epoch } = exchange.endpoint;
    return { npu, die, epoch, blocks, kvSums: ownKvSums(npu, space, onDie(plan, npu, die).kv, checksum) };
  });
  const transfers = new KvTransfers({ plan, space, network: null, directory, checksum, now_ms: () => 0, arrive, tell }, owners);
  const { kv } = onDie(plan, 0, 0);
  const bytesOf = (npu: number, block: number, layer: number): number[] => {
    const at = onDie(plan, npu, directory.dieOfNpu(npu)).kv.address + block * kv.block_bytes + layer * kv.layer_bytes;
    return [...space.bytesAt(at, kv.layer_bytes)];
  };
  return {
    told,
    /** Dies that are to look, since this was asked last. */
    rung: (): number[] => rung.splice(0),
    tellHolders: (): void => transfers.tellHolders(),
    layers: plan.config.layers,
    offer: (): KvOffer => offer as unknown as KvOffer,
    perform: (group: Address, work: Transfer): void => transfers.perform(group, work, 0),
    /** Prefill begins the step, and computes it; nothing of it is said to be there. */
    begin(): void {
      programs[0]?.start(step);
      transfers.begin(0, step.step);
      programs[0]?.poll();
    },
    reach(layers: number): void {
      transfers.reach(0, step.step, layers);
      for (let turn = 0; turn < 8; turn++) transfers.poll();
    },
    /** By layer: whether all of it has come. */
    come: (): boolean[] =>
      Array.from({ length: plan.config.layers }, (_, layer) =>
        LENT.every((block, index) => bytesOf(1, PULLED[index] as number, layer).join() === bytesOf(0, block, layer).join()),
      ),
    /** A bit of what has come is another one. */
    flip(layer: number): void {
      const [block] = PULLED as [number];
      const { address } = onDie(plan, 1, directory.dieOfNpu(1)).kv;
      flipBit(space, { address: address + block * kv.block_bytes + layer * kv.layer_bytes, bytes: kv.layer_bytes }, 77);
    },
    rest(): number[] {
      programs[0]?.release([0]);
      return [transfers.pending, transfers.isBusy ? 1 : 0, ...programs.map(({ blocks }) => blocks.used)];
    },
  };
}

const lend = { kind: 'offer', id: 1, blocks: LENT, step: step.step } as const;
const LAYERS = makePair().layers;

describe('KV lent by layer', () => {
  it('should be on the other side layer by layer, before prefill has the last', () => {
    const pair = makePair();
    pair.perform(PREFILL, lend);
    expect(pair.told).toEqual([]);
    pair.begin();
    pair.perform(DECODE, { kind: 'pull', id: 1, offer: pair.offer(), blocks: PULLED });
    for (let layers = 0; layers < LAYERS; layers++) {
      pair.reach(layers);
      expect(pair.come()).toEqual(Array.from({ length: LAYERS }, (_, layer) => layer < layers));
      expect(pair.told).toEqual([`${PREFILL} OFFERED`]);
    }
    pair.reach(LAYERS);
    expect(pair.come()).not.toContain(false);
    expect(pair.told.toSorted()).toEqual([`${PREFILL} OFFERED`, `${PREFILL} TRANSFER_DONE`, `${DECODE} TRANSFER_DONE`].toSorted());
    expect(pair.rest()).toEqual([0, 0, 0, 0]);
  });

  it('should wake who lent it when the puller has nothing better to do, and once', () => {
    const pair = makePair();
    pair.perform(PREFILL, lend);
    pair.begin();
    pair.perform(DECODE, { kind: 'pull', id: 1, offer: pair.offer(), blocks: PULLED });
    pair.reach(LAYERS);
    expect(pair.told).toContain(`${DECODE} TRANSFER_DONE`);
    expect(pair.rung()).not.toContain(0);
    pair.tellHolders();
    pair.tellHolders();
    expect(pair.rung()).toEqual([0]);
  });

  it('should not have come, where a bit of it is another one by the time that all is there', () => {
    for (let layer = 0; layer < LAYERS - 1; layer++) {
      const pair = makePair();
      pair.perform(PREFILL, lend);
      pair.begin();
      pair.perform(DECODE, { kind: 'pull', id: 1, offer: pair.offer(), blocks: PULLED });
      pair.reach(layer + 1);
      expect(pair.come()[layer]).toBe(true);
      pair.flip(layer);
      pair.reach(LAYERS);
      expect(pair.told).toContain(`${DECODE} TRANSFER_FAILED`);
      expect(pair.rest()).toEqual([0, 0, 0, 0]);
    }
  });

  it.each(['withdraw', 'stop'] as const)('should free both sides whenever it ends before its last layer: %s', (kind) => {
    for (let layers = 0; layers < LAYERS; layers++) {
      const pair = makePair();
      pair.perform(PREFILL, lend);
      pair.begin();
      pair.perform(DECODE, { kind: 'pull', id: 1, offer: pair.offer(), blocks: PULLED });
      pair.reach(layers);
      pair.perform(kind === 'withdraw' ? PREFILL : DECODE, { kind, id: 1 });
      // The step goes on all the same.
      for (let later = layers; later <= LAYERS; later++) pair.reach(later);
      expect(pair.told.toSorted()).toEqual([`${PREFILL} OFFERED`, `${PREFILL} TRANSFER_FAILED`, `${DECODE} TRANSFER_FAILED`].toSorted());
      expect(pair.rest()).toEqual([0, 0, 0, 0]);
    }
  });

  it('should end at once if it is not wanted any more before its step begins', () => {
    const pair = makePair();
    pair.perform(PREFILL, lend);
    pair.perform(PREFILL, { kind: 'withdraw', id: 1 });
    expect(pair.told).toEqual([`${PREFILL} TRANSFER_FAILED`]);
    pair.begin();
    expect(pair.told).toHaveLength(1);
    expect(pair.rest()).toEqual([0, 0, 0, 0]);
  });
});
