/** NPUs with KV blocks and offers over any number of segments, whose contents are known: who pulls what from whom is the test's. */
import { offsetOf } from '../../../src/fabric/address.ts';
import { AddressSpace } from '../../../src/fabric/address-space.ts';
import { Arena } from '../../../src/fabric/arena.ts';
import { BlockPool } from '../../../src/fabric/block-pool.ts';
import { allocateSegments, planMemory } from '../../../src/fabric/memory-plan.ts';
import { type Checksum, plainChecksum } from '../../../src/flowserve/distflow/checksum.ts';
import { dieOfPuller, isOver } from '../../../src/flowserve/distflow/lease-word.ts';
import { LinkCluster, type LinkClusterOptions } from '../../../src/flowserve/distflow/link-cluster.ts';
import { layoutOffers, type OffersPlace } from '../../../src/flowserve/distflow/offer-layout.ts';
import { Offers } from '../../../src/flowserve/distflow/offers.ts';
import { type KvPlace, kvPool } from '../../../src/flowserve/layouts/step-layout.ts';

export const BLOCKS_MAX = 16;

export type Sizes = { readonly npus: number; readonly segments: number; readonly layers: number; readonly layer_bytes: number; readonly blocks: number };
export const SMALL: Sizes = { npus: 2, segments: 2, layers: 3, layer_bytes: 256, blocks: 24 };

export type Place = { readonly kv: KvPlace; readonly offers: OffersPlace };

/** One thread's view of the memory, as the thread of a test or another one sees it. */
export type Memory = { readonly space: AddressSpace; readonly places: readonly Place[] };
export type Sharing = { readonly memories: readonly WebAssembly.Memory[]; readonly regions: AddressSpace['regions']; readonly sizes: Sizes };

function layout({ layers, layer_bytes, blocks }: Sizes, base: number): Place & { readonly bytes: number } {
  const arena = new Arena(base);
  const block_bytes = layers * layer_bytes;
  const address = arena.allocate(blocks * block_bytes);
  const [holders, generations, sums, filled] = Array.from({ length: 4 }, () => arena.allocate(blocks * 4)) as [number, number, number, number];
  const kv = { address, block_bytes, layer_bytes, blocks, block_size: 16, holders, generations, sums, filled, layers, run_bytes: layer_bytes };
  return { kv, offers: layoutOffers(arena, 4, BLOCKS_MAX), bytes: arena.used };
}

/** NPU n lies in segment n mod segments. */
export function allocate(sizes: Sizes): Sharing {
  const { bytes } = layout(sizes, 0);
  const perSegment = Math.ceil(sizes.npus / sizes.segments);
  const requests = Array.from({ length: sizes.npus }, (_, npu) => ({ owner: `npu/${npu}`, kind: 'hbm' as const, bytes }));
  const segment_bytes = 131_072 + perSegment * (bytes + 256);
  const plan = planMemory(requests, segment_bytes, 2 ** 31);
  return { memories: allocateSegments(plan), regions: plan.regions, sizes };
}

export function openMemory({ memories, regions, sizes }: Sharing): Memory {
  const space = new AddressSpace(memories, regions);
  return { space, places: Array.from({ length: sizes.npus }, (_, npu) => layout(sizes, space.region(`npu/${npu}`, 'hbm').base)) };
}

/** What a block holds after it was written for the `salt`th time. */
export function fillBlock({ space, places }: Memory, npu: number, block: number, salt: number): void {
  const { kv } = places[npu] as Place;
  const words = space.wordsOf(kv.address);
  const first = offsetOf(kv.address + block * kv.block_bytes) / 4;
  for (let word = 0; word < kv.block_bytes / 4; word++) words[first + word] = Math.imul(salt * 8_191 + block * 131 + word, 0x915f_77f5);
}

export function wordsOfBlock({ space, places }: Memory, npu: number, block: number): Int32Array {
  const { kv } = places[npu] as Place;
  const first = offsetOf(kv.address + block * kv.block_bytes) / 4;
  return space.wordsOf(kv.address).slice(first, first + kv.block_bytes / 4);
}

export class Rig {
  readonly sharing: Sharing;
  readonly memory: Memory;
  readonly pools: BlockPool[] = [];
  readonly offers: Offers<string>[] = [];
  readonly cluster: LinkCluster<string>;
  readonly checksum: Checksum;
  /** Pullers whose link was cut at the holder's end. */
  readonly cut = new Set<number>();
  /** Dies that holders have rung, until their test has looked. */
  readonly rung = new Set<number>();
  /** Of blocks of an NPU that are guarded where they rest. */
  restingSumOf: (npu: number, block: number) => number | null = () => null;

  constructor(sizes: Sizes = SMALL, options: Partial<LinkClusterOptions> = {}, fabrics: readonly string[] = [], sharing = allocate(sizes)) {
    this.sharing = sharing;
    this.memory = openMemory(this.sharing);
    const { space, places } = this.memory;
    const checksum = plainChecksum(space);
    this.checksum = checksum;
    places.forEach((_, npu) => {
      this.restart(npu);
    });
    const peers = places.map((_, executor) => ({ executor, fabric: fabrics[executor] ?? 'ub', numerics: '' }));
    this.cluster = new LinkCluster<string>(peers, { space, checksum, network: null, ...options });
  }

  #isGone(puller: number): boolean {
    return this.cut.has(dieOfPuller(puller)) || isOver(puller, this.memory.space.control.epochOfDie(dieOfPuller(puller)));
  }

  /** Its memory is taken over by a successor. */
  restart(npu: number): void {
    const { space } = this.memory;
    const { kv, offers: place } = this.place(npu);
    const pool = new BlockPool(space, kvPool(npu, kv));
    this.pools[npu] = pool;
    const isGone = (puller: number): boolean => this.#isGone(puller);
    const restingSumOf = (block: number): number | null => this.restingSumOf(npu, block);
    const arrive = (die: number): unknown => this.rung.add(die);
    this.offers[npu] = new Offers<string>({ npu, space, place, kv, pool, checksum: this.checksum, isGone, arrive, restingSumOf });
  }

  pool(npu: number): BlockPool {
    return this.pools[npu] as BlockPool;
  }

  of(npu: number): Offers<string> {
    return this.offers[npu] as Offers<string>;
  }

  place(npu: number): Place {
    return this.memory.places[npu] as Place;
  }

  regionOf(npu: number): number {
    return this.memory.space.table.indexOf(`npu/${npu}`, 'hbm');
  }

  /** NPU n is executor n here. */
  owner(npu: number): { readonly die: number; readonly epoch: number } {
    return { die: npu, epoch: this.memory.space.control.epochOfDie(npu) };
  }

  /** Holds and fills them. */
  write(npu: number, blocks: readonly number[], salt = 1): void {
    for (const block of blocks) {
      this.pool(npu).hold(block);
      fillBlock(this.memory, npu, block, salt);
    }
  }

  addresses(npu: number, blocks: readonly number[]): number[] {
    const { kv } = this.place(npu);
    return blocks.map((block) => kv.address + block * kv.block_bytes);
  }

  words(npu: number, blocks: readonly number[]): Int32Array[] {
    return blocks.map((block) => wordsOfBlock(this.memory, npu, block));
  }
}

/** Numbers from 0 below `count` in an order that `seed` decides. */
export function shuffled(count: number, seed: number): number[] {
  const numbers = Array.from({ length: count }, (_, index) => index);
  let state = seed >>> 0;
  for (let index = count - 1; index > 0; index--) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const other = state % (index + 1);
    [numbers[index], numbers[other]] = [numbers[other] as number, numbers[index] as number];
  }
  return numbers;
}
