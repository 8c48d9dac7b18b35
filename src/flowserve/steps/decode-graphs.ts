/**
 * Decode in graph mode (xDeepServe §2): the kernel calls of a step are captured once for each shape, and launched by one call into WASM from then
 * on. A shape is a number of rows, and one of sequences: as many, or fewer where some have drafts. There is room for some of those (program-rooms.ts). What calls a step makes is written in Forward and step-parts.ts alone: they are captured by making them on a Forward whose kernels write down.
 *
 *   1 NPU     one program: embed … (sort, experts, shared expert, combine) … head
 *   more      programs from one point where peers are asked to the next:
 *             embed … gate, sort ─▶ ask ─▶ own experts, shared expert ─▶ wait ─▶ combine … gate, sort ─▶ ask ─▶ …
 *
 * Steps that may be two micro-batches (micro-batches.ts) have a program of its own for the head, which each of the two leaves out. Where their domain takes turns, the
 * pairs are sorted by its exchange.
 *
 * Where NPUs split their output projection, they ask there as well: … heads ─▶ ask ─▶ own columns ─▶ wait ─▶ add, norm, gate … in each layer.
 *
 * Rounds of drafts that layers compute (drafters/mtp.ts) are programs of their own, since how many rows they have is known when the step's tokens are drawn:
 * join, layer; then the head of the rows that are drafted from.
 *
 * What peers ask of an NPU's experts is computed by the same programs of its slots, also in one call.
 *
 * What differs between steps of one shape is read from memory: tokens, positions, spans and the gate's choice.
 * @module
 */
import { offsetOf, segmentOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { KernelRecorder, Program } from '../../model/kernels/program.ts';
import { isMoeLayer, layersInMemory } from '../../model/moe-layers.ts';
import { assert } from '../../protocol/errors.ts';
import type { TokenDispatch } from '../../xccl/exchange.ts';
import { type ExpertBatches, npusInTurn, type Share } from '../experts/expert-batches.ts';
import type { ExpertService } from '../experts/expert-service.ts';
import { type ExpertSlots, SLOT_SHIFT } from '../experts/expert-slots.ts';
import type { Span } from '../forward/arithmetic.ts';
import type { Forward } from '../forward/forward.ts';
import { type GraphPlace, SHARE, SHARE_WORDS } from '../layouts/graph-layout.ts';
import { ProgramRooms } from './program-rooms.ts';
import { type Compute, compute, layerParts, type Part, partsInTurn } from './step-parts.ts';

export class DecodeGraphs {
  readonly #forward: Forward;
  readonly #recording: Forward;
  readonly #recorder: KernelRecorder;
  /** Of whole steps: the layers and the head, apart where two micro-batches share the head. */
  readonly #inTurn: readonly (readonly Part[])[];
  readonly #batches: ExpertBatches;
  readonly #slots: ExpertSlots;
  /** Of the group, in turn. */
  readonly #npus: readonly number[];
  readonly #words: Int32Array;
  readonly #place: GraphPlace;
  readonly #steps: ProgramRooms<number, readonly Part[]>;
  readonly #rounds: ProgramRooms<string, readonly Part[]>;
  /** Of a layer that drafts. */
  readonly #partsOfLayer: (layer: number) => readonly Part[];
  #hasTables = false;

  /** `recording`: a Forward of the same layout on the recorder's kernels. */
  constructor(
    forward: Forward,
    recording: Forward,
    recorder: KernelRecorder,
    place: GraphPlace,
    batches: ExpertBatches,
    service: ExpertService,
    space: AddressSpace,
  ) {
    this.#forward = forward;
    this.#recording = recording;
    this.#recorder = recorder;
    const inTurn = partsInTurn(recording, batches, service);
    const head = compute((rows) => recording.head((row) => row, rows));
    this.#inTurn = this.#isHeadApart ? [inTurn, [head]] : [[...inTurn, head]];
    this.#batches = batches;
    this.#slots = forward.layout.expertSlots;
    this.#npus = npusInTurn(this.#slots.group, forward.layout.sharedNpu);
    this.#words = space.wordsOf(forward.layout.base);
    this.#place = place;
    this.#partsOfLayer = (layer) => layerParts(recording, layer, batches, service);
    this.#steps = new ProgramRooms(offsetOf(place.stepPrograms), place.step_bytes, place.shapes_max);
    const { rounds } = place;
    this.#rounds = new ProgramRooms(offsetOf(rounds.programs), rounds.room_bytes, rounds.rooms);
  }

  get rows_max(): number {
    return this.#place.rows_max;
  }

  /** Some of its group's experts are its own. */
  get #hasExperts(): boolean {
    const { first, npus } = this.#slots.group;
    const { npu } = this.#forward.layout;
    return npu >= first && npu < first + npus;
  }

  /** The parts of a step of `rows` rows for so many sequences, the head among them; null where so many are not captured. */
  partsOf(rows: number, sequences: number): readonly Part[] | null {
    const { rows_max } = this.#place;
    if (rows < 1 || rows > rows_max) return null;
    return this.#steps.of(sequences * (rows_max + 1) + rows, (from, bytes) => this.#capture(this.#inTurn, rows, sequences, from, bytes));
  }

  roundOf(layer: number, isMain: boolean, rows: number, sequences: number): readonly Part[] {
    const shape = `${layer} ${isMain ? 'main' : 'own'} ${rows} ${sequences}`;
    return this.#rounds.of(shape, (from, bytes) => {
      const join = compute((count) => this.#recording.foresee(layer, count, isMain));
      return this.#capture([[join, ...this.#partsOfLayer(layer)]], rows, sequences, from, bytes);
    });
  }

  headOf(layer: number, rows: number, first: number): Part {
    const [head] = this.#rounds.of(`${layer} head ${rows} ${first}`, (from, bytes) =>
      this.#capture([[compute((count) => this.#recording.head((row) => row, count, first, layer))]], rows, rows, from, bytes),
    );
    return head as Part;
  }

  layersOf(rows: number, sequences: number): readonly Part[] | null {
    assert(this.#isHeadApart, `steps of NPU ${this.#forward.layout.npu} are one batch`);
    return this.partsOf(rows, sequences)?.slice(0, -1) ?? null;
  }

  /**
   * By the programs of own slots, as this NPU's own share is. Not where rows lie in another segment. The asker may have given its step up and be writing the next one's
   * tables: so a copy of them is gone by, which stays inside the room for the answer.
   */
  serve({ layer, segments, segmentsAddress, pairRowsAddress, rowsAddress }: TokenDispatch, reply: number, pairs: number): boolean {
    const { layout, at, kernels } = this.#forward;
    const { each } = this.#slots;
    if (segments > each || segmentOf(segmentsAddress) !== segmentOf(layout.base)) return false;
    if (!this.#hasTables) this.#writeTables();
    const words = this.#words;
    const share = offsetOf(this.#place.served) >>> 2;
    const table = share + SHARE_WORDS;
    const asked = offsetOf(segmentsAddress) >>> 2;
    let left = pairs;
    for (let word = 0; word < 2 * segments; word += 2) {
      const key = words[asked + word] as number;
      const count = words[asked + word + 1] as number;
      left -= count;
      if (key >>> SLOT_SHIFT >= each || count < 0 || count > layout.rows_max || left < 0) return false;
      words[table + word] = key;
      words[table + word + 1] = count;
    }
    words[share + SHARE.firstSegment] = 0;
    words[share + SHARE.segments] = segments;
    words[share + SHARE.firstPair] = 0;
    words[share + SHARE.pairs] = pairs;
    const { slotTable, variables } = this.#place;
    kernels.runExperts(
      share * 4,
      table * 4,
      offsetOf(pairRowsAddress),
      offsetOf(rowsAddress),
      layout.row_bytes,
      at.gathered,
      offsetOf(reply),
      offsetOf(slotTable) + layer * each * 8,
      offsetOf(variables),
    );
    return true;
  }

  get #isHeadApart(): boolean {
    return this.#forward.layout.second !== null;
  }

  /** Which rows are whose is read from memory: only how many there are counts here. No program goes on from one of `groups` to the next. */
  #capture(groups: readonly (readonly Part[])[], rows: number, sequences: number, from: number, bytes: number): readonly Part[] {
    if (!this.#hasTables) this.#writeTables();
    const spans = Array.from({ length: sequences }, (_, row): Span => ({ slot: row, row, rows: 1 }));
    const parts: Part[] = [];
    let at = from;
    let kv_layers = 0;
    const program = (make: () => void): Compute => {
      const captured = this.#recorder.capture(at, from + bytes - at, make);
      at += captured.bytes;
      return this.#launch(captured, kv_layers);
    };
    let calls: (() => void)[] = [];
    const end = (): Compute => {
      const before = calls;
      calls = [];
      return program(() => {
        for (const call of before) call();
      });
    };
    const add = (part: Part): void => {
      assert(part.kind !== 'turn', 'steps of one batch take no turns');
      if (part.kind === 'compute') {
        calls.push(() => part.compute(rows, spans));
        kv_layers = Math.max(kv_layers, part.kv_layers);
      } else if (part.kind === 'gather') parts.push(end(), part);
      else if (part.kind === 'projection') {
        parts.push(end());
        const { compute } = program(() => part.own(rows));
        parts.push({ ...part, own: () => compute(rows, spans) });
      } else {
        const { layer } = part;
        const { first, count } = part.range(rows);
        const own = (): void => {
          if (this.#hasExperts) this.#runExperts(layer);
          if (this.#forward.layout.sharedNpu === null) this.#recording.sharedExpert(layer, count, first);
        };
        if (this.#forward.layout.turns === null) calls.push(() => this.#sortPairs(layer, first, count));
        if (this.#hasExperts && this.#slots.group.npus === 1) calls.push(own);
        else {
          parts.push(end());
          const computesOwn = this.#hasExperts || this.#forward.layout.sharedNpu === null;
          const compute = computesOwn ? program(own).compute : null;
          const runOwn = (_: number, share: Share | undefined): void => {
            // What its slots do not hold, others are asked for.
            if (share === undefined && this.#hasExperts) this.#words[this.#ownShare + SHARE.segments] = 0;
            compute?.(rows, spans);
          };
          parts.push({ ...part, route: () => this.#shares(count, first), own: runOwn });
        }
      }
    };
    for (const group of groups) {
      group.forEach(add);
      parts.push(end());
    }
    return parts;
  }

  #launch({ address, bytes }: Program, kv_layers: number): Compute {
    const { kernels } = this.#forward;
    return { kind: 'compute', compute: () => kernels.runProgram(address, bytes), kv_layers };
  }

  /** Index of this NPU's share. */
  get #ownShare(): number {
    return (offsetOf(this.#place.shares) >>> 2) + this.#slots.rank * SHARE_WORDS;
  }

  #sortPairs(layer: number, first: number, rows: number): void {
    const { at, config } = this.#recording;
    const { starts, shares } = this.#place;
    const { maps, each, total, spread } = this.#slots;
    this.#recorder.kernels.sortPairs(
      at.experts,
      this.#batches.rowsBefore + first,
      rows,
      config.moe.topK,
      spread,
      offsetOf(maps[layer] ?? 0),
      config.moe.experts,
      total,
      each,
      this.#batches.firstSlot,
      offsetOf(starts),
      at.segments,
      at.pairRows,
      at.rowIndices,
      offsetOf(shares),
    );
  }

  #runExperts(layer: number): void {
    const { at, layout } = this.#recording;
    const { slotTable, variables } = this.#place;
    this.#recorder.kernels.runExperts(
      this.#ownShare * 4,
      at.segments,
      at.pairRows,
      at.normed,
      layout.row_bytes,
      at.gathered,
      at.replies,
      offsetOf(slotTable) + layer * this.#slots.each * 8,
      offsetOf(variables),
    );
  }

  #shares(rows: number, firstRow: number): Share[] {
    const shares: Share[] = [];
    const words = this.#words;
    const { first } = this.#slots.group;
    for (let index = 0; index < this.#npus.length; index++) {
      const npu = this.#npus[index] as number;
      const at = (offsetOf(this.#place.shares) >>> 2) + (npu - first) * SHARE_WORDS;
      const pairs = words[at + SHARE.pairs] as number;
      if (pairs === 0) continue;
      const [firstSegment, segments] = [words[at + SHARE.firstSegment] as number, words[at + SHARE.segments] as number];
      shares.push({ npu, firstSegment, segments, firstPair: words[at + SHARE.firstPair] as number, pairs });
    }
    this.#batches.addShared(shares, rows, firstRow);
    return shares;
  }

  /** Each own slot's program: what all steps share, whatever the slots hold. */
  #writeTables(): void {
    this.#hasTables = true;
    const { config } = this.#recording;
    const { variables, slotTable, slotPrograms, slot_bytes } = this.#place;
    const words = this.#words;
    const { each } = this.#slots;
    const [y, x, rows] = [0, 4, 8].map((word) => this.#recorder.variable(offsetOf(variables) + word)) as [number, number, number];
    let room = offsetOf(slotPrograms);
    for (let layer = 0; layer < layersInMemory(config); layer++) {
      for (let slot = 0; slot < each; slot++) {
        const entry = (offsetOf(slotTable) >>> 2) + 2 * (layer * each + slot);
        const isOwn = this.#hasExperts && isMoeLayer(config, layer);
        const program = isOwn ? this.#recorder.capture(room, slot_bytes, () => this.#recording.expert(layer, slot, y, x, rows)) : null;
        words[entry] = program?.address ?? 0;
        words[entry + 1] = program?.bytes ?? 0;
        if (program !== null) room += slot_bytes;
      }
    }
  }
}
