/**
 * What an expert map has NPUs do (actors/expert-map.ts): tell what was routed, sort by another map, and bring weights from the slot that has them into one of
 * their own. Weights are copied a bounded number of bytes at a time, between the steps and dispatches of whoever shares the thread, in two legs, of which the first is
 * one broadcast where several NPUs get the same (weight-broadcasts.ts):
 *
 *   a peer's slot ─▶ staging, while this NPU's slot serves what it holds ─▶ the slot, when nobody asks for it any more
 *   a peer's slot ─▶ the slot, where that holds nothing
 *   the checkpoint ─▶ either, where no peer has them any more: a tensor at a time
 *
 * and summed on each: what is not what was loaded from the checkpoint once is refused. From before the first byte of the second leg until its sum is right the
 * slot holds nothing, whatever it held.
 * @module
 */
import { type ExpertMap, expertMap } from '../../../actors/policies/expert-placement/expert-map.ts';
import { offsetOf } from '../../fabric/address.ts';
import type { AddressSpace } from '../../fabric/address-space.ts';
import type { Region } from '../../fabric/memory-plan.ts';
import { assert, type ErrorRecord, toErrorRecord } from '../../protocol/errors.ts';
import { broadcastFailed, type ExpertMapMessage, type ExpertWork, loadsCollected, mapInstalled, slotDone, slotFailed } from '../../protocol/expert-maps.ts';
import { type ExpertGroup, executorOfNpu } from '../../protocol/topology.ts';
import type { Directory } from '../../runtime/directory.ts';
import { CHUNK_BYTES, type Checksum } from '../distflow/checksum.ts';
import type { Arithmetic } from '../forward/arithmetic.ts';
import type { DieLayout } from '../layouts/step-layout.ts';
import type { AnyPodPlan } from '../pod-plan.ts';
import type { StepProgram } from '../steps/step-program.ts';
import { sumOfWeights } from '../weights/slot-weights.ts';
import type { ReadExpert } from '../weights/stored-experts.ts';
import type { WeightBroadcasts } from '../weights/weight-broadcasts.ts';
import type { WeightChecks } from '../weights/weight-checks.ts';
import { type ExpertSlots, expertIn, layersWithExperts, placeOfSlot, sumOfSlot, writeSlot } from './expert-slots.ts';
import { slotPlace, slotsOfDie } from './slot-places.ts';

type Tell = (message: ExpertMapMessage) => void;
/** Bytes on their way; `end` is told their sum. */
type Copy = {
  readonly npu: number;
  readonly to: number;
  readonly from: number;
  readonly bytes: number;
  done: number;
  sum: number;
  readonly end: (sum: number) => void;
};
/** An expert on its way from the checkpoint; `end` is told why it did not come. */
type Read = { readonly npu: number; readonly to: number; readonly parts: Iterator<unknown>; readonly end: (error: ErrorRecord | null) => void };
/** What is there on an NPU, whole. `from`: where it is set aside, or 0: in its slot, which nobody may ask for yet. */
type Staged = { readonly layer: number; readonly slot: number; readonly expert: number; readonly sum: number; readonly from: number };

type ToRead = Omit<Staged, 'sum' | 'from'> & { readonly change: number; readonly index: number; readonly is_free: boolean };

export type ExpertMovesOptions = {
  readonly plan: AnyPodPlan;
  readonly space: AddressSpace;
  readonly directory: Directory;
  readonly checksum: Checksum;
  readonly broadcasts: WeightBroadcasts;
  readonly readExpert: ReadExpert;
  readonly weights: Pick<WeightChecks, 'suspect'>;
};

/** Bytes that one turn copies at most: some tenths of a millisecond of a thread that has others to serve. */
const CHUNKS_PER_TURN = 4;

export class ExpertMoves {
  readonly #options: ExpertMovesOptions;
  /** By task executor. */
  readonly #firstMaps: readonly ExpertMap[];
  readonly #programs: ReadonlyMap<number, StepProgram<Arithmetic>>;
  /** Of this host's NPUs, on the dies that they have. */
  readonly #layouts: ReadonlyMap<number, DieLayout>;
  #copies: Copy[] = [];
  #reads: Read[] = [];
  /** By NPU and change. */
  readonly #staged = new Map<string, Staged>();
  /** By NPU and place: whose change's weights it has. Of a change that was given up nobody tells: the next one to its place ends it. */
  readonly #changeAt = new Map<string, string>();
  /** Maps that are there, of NPUs that wait for what they asked by an older one: who moves experts hears of it when nobody does any more. */
  #installs: { readonly program: StepProgram<Arithmetic>; readonly epoch: number; readonly tell: Tell }[] = [];
  /** By NPU: the counts that were told. */
  readonly #told = new Map<number, Int32Array>();

  constructor(
    options: ExpertMovesOptions,
    firstMaps: readonly ExpertMap[],
    programs: ReadonlyMap<number, StepProgram<Arithmetic>>,
    layouts: readonly DieLayout[],
  ) {
    this.#options = options;
    this.#firstMaps = firstMaps;
    this.#programs = programs;
    this.#layouts = new Map(layouts.map((layout) => [layout.npu, layout]));
    // What was counted before, in another life perhaps, is not news.
    for (const npu of programs.keys()) this.#told.set(npu, this.#countsOf(npu));
  }

  /** Changes whose weights are set aside: no more than there are places. */
  get setAside(): number {
    return this.#staged.size;
  }

  perform(npu: number, work: ExpertWork, tell: Tell): void {
    switch (work.kind) {
      case 'collect':
        tell(this.#collect(npu));
        break;
      case 'install':
        this.#install(npu, work, tell);
        break;
      case 'stage':
        this.#stage(npu, work, tell);
        break;
      case 'broadcast': {
        const { address, bytes } = slotPlace(this.#options.plan, this.#options.directory, this.#group(npu), this.#layers[work.layer] as number, work.slot);
        this.#options.broadcasts.send(npu, work.broadcast, address, bytes);
        break;
      }
      case 'withdraw':
        this.#options.broadcasts.withdraw(npu, work.before);
        break;
      case 'look':
        this.#options.weights.suspect(npu, this.#layers[work.layer] as number, work.slot % this.#slotsOf(npu).slots.each);
        break;
      case 'load':
        this.#load(npu, work, tell);
        break;
      case 'empty':
        this.#empty(npu, work.layer, work.slot, work.epoch);
        tell(slotDone(npu, work.change, 0));
        break;
    }
  }

  /** Copies on, a bounded number of bytes, and tells of maps. True if something went on. */
  poll(): boolean {
    const hasTold = this.#installs.length > 0 && this.#tellInstalled();
    if (this.#options.broadcasts.poll()) return true;
    const copy = this.#copies[0];
    if (copy === undefined) return this.#readOn() || hasTold;
    for (let chunk = 0; chunk < CHUNKS_PER_TURN && copy.done < copy.bytes; chunk++) {
      const bytes = Math.min(CHUNK_BYTES, copy.bytes - copy.done);
      copy.sum = this.#options.checksum.copy(copy.sum, copy.to + copy.done, copy.from + copy.done, bytes);
      copy.done += bytes;
    }
    if (copy.done === copy.bytes) {
      this.#copies.shift();
      copy.end(copy.sum);
    }
    return true;
  }

  #readOn(): boolean {
    const read = this.#reads[0];
    if (read === undefined) return false;
    const over = (error: ErrorRecord | null): true => {
      this.#reads.shift();
      read.end(error);
      return true;
    };
    try {
      return read.parts.next().done === true ? over(null) : true;
    } catch (error) {
      return over(toErrorRecord(error));
    }
  }

  #collect(npu: number): ExpertMapMessage {
    const counts = this.#countsOf(npu);
    const told = this.#told.get(npu) as Int32Array;
    this.#told.set(npu, counts);
    return loadsCollected(
      npu,
      Array.from(counts, (count, at) => (count - (told[at] as number)) >>> 0),
    );
  }

  #countsOf(npu: number): Int32Array {
    const { layout } = this.#program(npu).forward;
    const words = this.#options.space.wordsOf(layout.base);
    const { experts } = this.#options.plan.config.moe;
    const counts = new Int32Array(this.#layers.length * experts);
    for (const [index, layer] of this.#layers.entries()) {
      const at = offsetOf(layout.counts[layer] ?? 0) >>> 2;
      counts.set(words.subarray(at, at + experts), index * experts);
    }
    return counts;
  }

  /** Of those whose older dispatches are all answered, or are nobody's any more. */
  #tellInstalled(): boolean {
    const open = this.#installs.filter(({ program, epoch }) => program.turns?.asksBefore(epoch) === true);
    const settled = this.#installs.filter((one) => !open.includes(one));
    this.#installs = open;
    for (const { program, epoch, tell } of settled) tell(mapInstalled(program.npu, epoch));
    return settled.length > 0;
  }

  #install(npu: number, { epoch, slots, experts }: Extract<ExpertWork, { kind: 'install' }>, tell: Tell): void {
    const program = this.#program(npu);
    const { routing } = program.batches;
    const { shape, expertOfSlot } = this.#firstMaps[executorOfNpu(this.#deployment, npu).id] as ExpertMap;
    const changed = expertOfSlot.slice();
    for (const [index, slot] of slots.entries()) changed[slot] = experts[index] as number;
    routing.install(expertMap(shape, changed), epoch);
    // A step that waits for a map goes on.
    const { endpoint } = program.exchange;
    endpoint.surroundings.arrive(endpoint.die);
    this.#installs.push({ program, epoch: routing.epoch, tell });
    this.#tellInstalled();
  }

  #stage(npu: number, { change, layer: index, slot, expert, source, is_free, broadcast }: Extract<ExpertWork, { kind: 'stage' }>, tell: Tell): void {
    const { plan, space, directory, broadcasts } = this.#options;
    // They came by broadcast at the last moment, which was told.
    if (this.#staged.has(`${npu}.${change}`)) return;
    const layer = this.#layers[index] as number;
    const target = slotPlace(plan, directory, this.#group(npu), layer, slot);
    if (source < 0) {
      this.#read(npu, { change, index, layer, slot: target.slot, expert, is_free }, tell);
      return;
    }
    const from = slotPlace(plan, directory, this.#group(npu), layer, source);
    const { staging } = this.#layout(npu).expertSlots;
    assert(target.npu === npu && staging > 0, `npu/${npu} was asked to fill slot ${slot}, which is ${target.npu}'s`);
    const die = directory.dieOfNpu(from.npu);
    const epoch = space.control.epochOfDie(die);
    // What a change that was given up has left there, nobody's map names.
    if (is_free) this.#empty(npu, index, slot, 0);
    const to = is_free ? target.address : staging;
    this.#giveUp(npu, to);
    // Of a broadcast others may be to blame than who has them: that shows when they are copied from there.
    const tellBad = (error: ErrorRecord): void => tell(broadcast === null ? slotFailed(npu, change, error) : broadcastFailed(npu, change, error));
    const end = (sum: number): void => {
      const { words, slots } = this.#slotsOf(from.npu);
      const held = expertIn(words, slots, layer, from.slot);
      if (space.control.epochOfDie(die) !== epoch)
        tell(slotFailed(npu, change, lost(`npu/${from.npu} was lost while its weights of expert ${expert} were copied`)));
      else if (held !== expert) tell(slotFailed(npu, change, failed(`slot ${from.slot} of npu/${from.npu} holds expert ${held}, not ${expert}`)));
      else if (sumOfSlot(words, slots, layer, from.slot) !== sum)
        tellBad(failed(`the weights of expert ${expert} on npu/${from.npu}, layer ${layer}, are corrupt: their sum is another`));
      else {
        this.#setAside(npu, change, { layer, slot: target.slot, expert, sum, from: is_free ? 0 : staging });
        tell(slotDone(npu, change, from.bytes));
      }
    };
    if (broadcast === null) this.#copies.push({ npu, to, from: from.address, bytes: from.bytes, done: 0, sum: 0, end });
    else broadcasts.receive(npu, broadcast, { to, bytes: from.bytes, end, fail: (error) => tellBad(toErrorRecord(error)) });
  }

  /** Whatever an earlier change has on its way to that place, or from there: nobody waits for it any more. */
  #giveUp(npu: number, address: number): void {
    this.#copies = this.#copies.filter((copy) => copy.npu !== npu || copy.to !== address);
    this.#reads = this.#reads.filter((read) => read.npu !== npu || read.to !== address);
    this.#options.broadcasts.cancelAt(npu, address);
  }

  /** Nobody knows another sum of it: what is read is what it is. */
  #read(npu: number, { change, index, layer, slot, expert, is_free }: ToRead, tell: Tell): void {
    const layout = this.#layout(npu);
    const { staging } = layout.expertSlots;
    assert(staging > 0, `npu/${npu} was asked to fill slot ${slot}, and its slots stay as they are`);
    if (is_free) this.#empty(npu, index, slot, 0);
    const { address, bytes } = placeOfSlot(layout.expertSlots, layer, slot);
    const to = is_free ? address : staging;
    this.#giveUp(npu, to);
    const end = (error: ErrorRecord | null): void => {
      if (error !== null) {
        tell(slotFailed(npu, change, { ...error, message: `expert ${expert} of layer ${layer} could not be read from the checkpoint: ${error.message}` }));
        return;
      }
      const { checksum } = this.#options;
      const sum = sumOfWeights((before, from, count) => checksum.sum(before, from, count), to, bytes);
      this.#setAside(npu, change, { layer, slot, expert, sum, from: is_free ? 0 : staging });
      tell(slotDone(npu, change, bytes));
    };
    this.#reads.push({ npu, to, parts: this.#options.readExpert(layout, { layer, expert, slot, to }), end });
  }

  #setAside(npu: number, change: number, staged: Staged): void {
    const place = placeOf(npu, staged);
    this.#staged.delete(this.#changeAt.get(place) ?? '');
    this.#changeAt.set(place, `${npu}.${change}`);
    this.#staged.set(`${npu}.${change}`, staged);
  }

  #load(npu: number, { change, epoch }: Extract<ExpertWork, { kind: 'load' }>, tell: Tell): void {
    const staged = this.#staged.get(`${npu}.${change}`);
    this.#staged.delete(`${npu}.${change}`);
    if (staged === undefined) {
      tell(slotFailed(npu, change, failed(`npu/${npu} has set nothing aside for this change`)));
      return;
    }
    this.#changeAt.delete(placeOf(npu, staged));
    const { layer, slot, expert, sum: expected, from } = staged;
    const { words, slots } = this.#slotsOf(npu);
    // Nothing, from before the first byte changes: whoever asks late is refused.
    writeSlot(words, slots, layer, slot, -1, epoch, 0);
    const { address: to, bytes } = placeOfSlot(this.#layout(npu).expertSlots, layer, slot);
    // What lies there already may be on its way to others still.
    if (from !== 0) this.#giveUp(npu, to);
    const end = (sum: number): void => {
      if (sum !== expected) {
        tell(slotFailed(npu, change, failed(`the weights of expert ${expert}, set aside on npu/${npu}, are corrupt: their sum is another`)));
        return;
      }
      writeSlot(words, slots, layer, slot, expert, epoch, sum);
      tell(slotDone(npu, change, 0));
    };
    // What lies in its slot already is copied onto itself: summed again like all others.
    this.#copies.push({ npu, to, from: from === 0 ? to : from, bytes, done: 0, sum: 0, end });
  }

  #empty(npu: number, layer: number, slot: number, epoch: number): void {
    const { words, slots } = this.#slotsOf(npu);
    writeSlot(words, slots, this.#layers[layer] as number, slot % slots.each, -1, epoch, 0);
  }

  /** An NPU's tables, on the die that it has now, and the memory that they are in. */
  #slotsOf(npu: number): { readonly words: Int32Array; readonly slots: ExpertSlots } {
    const { plan, space, directory } = this.#options;
    return { words: space.wordsOf((plan.dies[directory.dieOfNpu(npu)] as Region).base), slots: slotsOfDie(plan, directory, npu) };
  }

  get #layers(): readonly number[] {
    return layersWithExperts(this.#options.plan.config);
  }

  get #deployment(): AnyPodPlan['hosting']['deployment'] {
    return this.#options.plan.hosting.deployment;
  }

  #group(npu: number): ExpertGroup {
    return executorOfNpu(this.#deployment, npu).experts;
  }

  #layout(npu: number): DieLayout {
    const layout = this.#layouts.get(npu);
    assert(layout, `npu/${npu} does not live here`);
    return layout;
  }

  #program(npu: number): StepProgram<Arithmetic> {
    const program = this.#programs.get(npu);
    assert(program, `npu/${npu} runs no steps here`);
    return program;
  }
}

const placeOf = (npu: number, { layer, slot, from }: Staged): string => (from === 0 ? `${npu}.${layer}.${slot}` : `${npu}`);
const failed = (message: string): ErrorRecord => ({ code: 'memory_fault', message, param: null });
const lost = (message: string): ErrorRecord => ({ code: 'worker_lost', message, param: null });
