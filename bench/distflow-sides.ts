/**
 * Two NPUs with KV blocks of any size, without a pod: NPU 0 offers, NPU 1 pulls.
 * @module
 */
import { roundUp } from '../src/fabric/address.ts';
import { AddressSpace } from '../src/fabric/address-space.ts';
import { Arena } from '../src/fabric/arena.ts';
import { BlockPool } from '../src/fabric/block-pool.ts';
import { allocateSegments, type MemoryPlan, planMemory, SEGMENT_HEAD_BYTES } from '../src/fabric/memory-plan.ts';
import { BlockWalk } from '../src/flowserve/distflow/block-walk.ts';
import { type Checksum, kernelChecksum } from '../src/flowserve/distflow/checksum.ts';
import { layoutOffers, type OffersPlace } from '../src/flowserve/distflow/offer-layout.ts';
import { Offers } from '../src/flowserve/distflow/offers.ts';
import { type KvPlace, kvPool } from '../src/flowserve/layouts/step-layout.ts';
import { instantiateKernels, loadKernelModule } from '../src/model/kernels/kernels.ts';

export type Shape = { readonly segments: number; readonly layers: number; readonly layer_bytes: number; readonly blocks: number };
export type Place = { readonly kv: KvPlace; readonly offers: OffersPlace };
/** What another thread needs to see the same. */
export type Start = { readonly shape: Shape; readonly plan: MemoryPlan; readonly memories: readonly WebAssembly.Memory[] };

const module = await loadKernelModule();

function layout({ layers, layer_bytes, blocks }: Shape, base: number): Place & { readonly bytes: number } {
  const arena = new Arena(base);
  const block_bytes = layers * layer_bytes;
  const address = arena.allocate(blocks * block_bytes);
  const [holders, generations, sums, filled] = Array.from({ length: 4 }, () => arena.allocate(blocks * 4)) as [number, number, number, number];
  const kv = { address, block_bytes, layer_bytes, blocks, block_size: 16, holders, generations, sums, filled, layers, run_bytes: layer_bytes };
  return { kv, offers: layoutOffers(arena, 4, blocks), bytes: arena.used };
}

export function allocate(shape: Shape): Start {
  const { bytes } = layout(shape, 0);
  const requests = [0, 1].map((npu) => ({ owner: `npu/${npu}`, kind: 'hbm' as const, bytes }));
  const plan = planMemory(requests, SEGMENT_HEAD_BYTES + (2 / shape.segments) * roundUp(bytes, 128), Number.POSITIVE_INFINITY);
  return { shape, plan, memories: allocateSegments(plan) };
}

export class Sides {
  readonly start: Start;
  readonly space: AddressSpace;
  readonly places: readonly [Place, Place];
  readonly pool: BlockPool;
  readonly offers: Offers<string>;
  readonly checksum: Checksum;

  constructor(start: Start) {
    const { shape, plan, memories } = start;
    this.start = start;
    this.space = new AddressSpace(memories, plan.regions);
    const { space } = this;
    this.places = [0, 1].map((npu) => layout(shape, space.region(`npu/${npu}`, 'hbm').base)) as unknown as [Place, Place];
    this.checksum = kernelChecksum(
      space,
      memories.map((memory) => instantiateKernels(module, memory)),
    );
    const [{ kv, offers: place }] = this.places;
    this.pool = new BlockPool(space, kvPool(0, kv));
    this.offers = new Offers({ npu: 0, space, place, kv, pool: this.pool, checksum: this.checksum, isGone: () => false });
    space.bytesAt(kv.address, kv.blocks * kv.block_bytes).fill(0x3f);
  }

  get block_bytes(): number {
    return this.places[0].kv.block_bytes;
  }

  /** Of the block there, as a holder sums it. */
  sumOf(address: number): number {
    const { layer_bytes, block_bytes } = this.places[0].kv;
    const walk = new BlockWalk({ blocks: 1, layer_bytes, first_layer: 0, end_layer: block_bytes / layer_bytes }, 'by request');
    let sum = 0;
    for (; !walk.isDone; walk.advance()) sum = this.checksum.sum(sum, address + walk.at, walk.bytes);
    return sum;
  }

  addresses(npu: 0 | 1, blocks: readonly number[]): number[] {
    const { address, block_bytes } = this.places[npu].kv;
    return blocks.map((block) => address + block * block_bytes);
  }
}

/** `count` blocks of 2 × `count`, no two of them neighbours, in an order without a pattern. */
export function scattered(count: number, seed: number): number[] {
  const blocks = Array.from({ length: count }, (_, index) => 2 * index);
  let state = seed;
  for (let index = count - 1; index > 0; index--) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const other = state % (index + 1);
    [blocks[index], blocks[other]] = [blocks[other] as number, blocks[index] as number];
  }
  return blocks;
}
