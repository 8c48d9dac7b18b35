/**
 * What calls are to be told by a pod that does without some experts (`degraded`): what one whole pod says whose gates have the same experts masked at the same
 * positions. A token hangs on the masks of all positions before it, as they were when it was drawn: so of each step is kept what it masked, and where; by attempt, since
 * of two owners of a request, each of whom drew the token, one told it. Experts may lie elsewhere by then than they did at first, and a step goes by the map that its NPU
 * has when it begins: so what it masks are experts, those of which that map knows no copy but on the NPUs that it was told of.
 *
 *   position      0 … 16 | 17 18 19 | (its group is lost: all anew) 0 … 22 | 23 …
 *   told to mask     –   |  NPU 2   |             NPU 2                   | NPUs 2, 3
 *   masked           –   |  2 6 10  |             2 6 10                  | 2 3 6 10 11
 *
 * What an NPU takes from its prefix cache was computed by all experts, whatever its owner had computed of the same positions elsewhere, at the same attempt.
 *
 * @module
 */
import { type ExpertMap, NO_EXPERT } from '../../actors/policies/expert-placement/expert-map.ts';
import { slotsOfRank } from '../../actors/policies/expert-placement/placement-shape.ts';
import { callId } from '../calls/calls.ts';
import type { Arithmetic } from '../flowserve/forward/arithmetic.ts';
import type { StepProgram } from '../flowserve/steps/step-program.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import { type Address, idOf } from '../protocol/address.ts';
import type { Sequence } from '../protocol/messages.ts';
import { ATTEMPTS_MAX, attemptOf, callOf } from '../protocol/request-ids.ts';
import type { StepEntry, StepPlan } from '../protocol/steps.ts';
import type { Executor } from '../protocol/topology.ts';
import type { Told } from './client.ts';
import type { ChaosCall, ChaosPlan } from './fault-plan.ts';
import { type Answer, type Masks, promptOf, type Undisturbed } from './undisturbed.ts';

/** Of a step that was told of nobody. */
const NONE = '';

/** What runs an NPU's steps, as far as it is looked at. */
type Steps = Pick<StepProgram<Arithmetic>, 'resolve' | 'start'> & { readonly batches: { readonly routing: { readonly map: ExpertMap } } };
type Pod = {
  readonly npus: Pick<VirtualControl['npus'], 'launch'> & { readonly programOf: (npu: number) => Steps | undefined };
  readonly plan: { readonly hosting: Pick<VirtualControl['plan']['hosting'], 'deployment'> };
};

export class MaskedSteps {
  /** By call, choice and attempt: masks of what is computed so far; and by position the masks before it, when its token was drawn. */
  readonly #known = new Map<string, string[]>();
  readonly #drawn = new Map<string, Map<number, Masks>>();
  /** By NPU and slot: whose it is. */
  readonly #slots = new Map<string, string>();
  /** Whose steps are noted: a worker's next life has others. */
  readonly #watched = new WeakSet<Steps>();
  /** Of pods, one in the other's place. */
  #lives = 0;

  constructor(pod: Pod) {
    this.watch(pod);
  }

  /** From now on, of it alone: of the one before it nothing is left. */
  watch({ npus, plan }: Pod): void {
    this.#lives++;
    this.#slots.clear();
    const { executors, npus: places } = plan.hosting.deployment;
    const launch = npus.launch.bind(npus);
    npus.launch = (launched) => {
      for (const { npu, work } of launched) {
        const place = places[idOf(npu)];
        const program = work.kind === 'step' ? npus.programOf(idOf(npu)) : undefined;
        // Ranks of a group compute the same.
        if (program !== undefined && place?.kind === 'attention' && place.rank === 0) this.#watch(program, npu, executors[place.executor] as Executor);
      }
      launch(launched);
    };
  }

  /** A step may begin later than it is launched, and be another one by then: with the drafts that are known, and by the map of that time. */
  #watch(program: Steps, npu: Address, executor: Executor): void {
    if (this.#watched.has(program)) return;
    this.#watched.add(program);
    const start = program.start.bind(program);
    program.start = (planned) => {
      this.#note(npu, program.resolve(planned), maskOf(planned, program.batches.routing.map, executor));
      start(planned);
    };
  }

  #note(npu: Address, { entries, detach }: StepPlan, mask: string): void {
    for (const slot of detach) this.#slots.delete(`${npu} ${slot}`);
    for (const entry of entries) {
      const { slot, start, tokens, samples, attach, drafts, kept = 0 } = entry;
      const at = `${npu} ${slot}`;
      if (attach !== null) {
        const owner = `${callId(callOf(attach.request))} ${attach.choice} ${this.attemptOf(attach.request)}`;
        if (this.#slots.get(at) !== owner && !isHandedOver(entry, attach)) this.#known.delete(owner);
        this.#slots.set(at, owner);
      }
      const whose = this.#slots.get(at);
      if (whose === undefined) continue;
      const known = this.#known.get(whose) ?? [];
      this.#known.set(whose, known);
      const last = start + tokens.length;
      for (let position = start + kept; position < last; position++) known[position] = mask;
      if (!samples) continue;
      const drawn = this.#drawn.get(whose) ?? new Map<number, Masks>();
      this.#drawn.set(whose, drawn);
      // Behind each draft one is drawn, too: where the draft was wrong a later step draws it again. The last row goes by this step's gates, though its KV may be older.
      for (let end = last - drafts; end <= last; end++)
        drawn.set(
          end,
          Array.from({ length: end }, (_, position) => (position === end - 1 ? mask : (known[position] ?? NONE))),
        );
    }
  }

  /** Of the request's owner now, counted on from one pod to the one in its place. */
  attemptOf(request: number): number {
    return (this.#lives - 1) * ATTEMPTS_MAX + attemptOf(request);
  }

  /** Of the token that the request's owner at that attempt has drawn for the position. */
  before(call: string, choice: number, attempt: number, position: number): Masks {
    return this.#drawn.get(`${call} ${choice} ${attempt}`)?.get(position) ?? [];
  }
}

/** By layer, those that the step is to do without: `2,6|2,10|…`. */
function maskOf({ masked = [] }: StepPlan, { shape, expertOfSlot }: ExpertMap, { experts: { first } }: Executor): string {
  if (masked.length === 0) return NONE;
  const each = slotsOfRank(shape);
  const text = (layer: number): string => {
    const left = new Set<number>();
    const own = expertOfSlot.subarray(layer * shape.slots, (layer + 1) * shape.slots);
    for (const [slot, expert] of own.entries()) if (expert !== NO_EXPERT && !masked.includes(first + Math.floor(slot / each))) left.add(expert);
    return Array.from({ length: shape.experts }, (_, expert) => expert)
      .filter((expert) => !left.has(expert))
      .join();
  };
  return Array.from({ length: shape.layers }, (_, layer) => text(layer)).join('|');
}

/** It comes with the KV that somebody else has computed of it, all of that: then it has tokens of its own, and shares no block. */
const isHandedOver = ({ start, kept = 0, shared }: StepEntry, { prompt }: Sequence): boolean => shared === 0 && start + kept >= prompt.length;

/** What is wrong with what a choice was told; nothing, if it is what the masks make of it. */
export async function wrongOfMasked(
  plan: ChaosPlan,
  call: ChaosCall,
  id: string,
  choice: number,
  told: Told,
  steps: MaskedSteps,
  undisturbed: Undisturbed,
): Promise<string[]> {
  const prompt = promptOf(call);
  const before = Array.from(told.tokens, (_, index) => steps.before(id, choice, told.attempts[index] ?? 0, prompt.length + index));
  const wrong: string[] = [];
  let hasMasked = false;
  for (const [index, masks] of before.entries()) {
    hasMasked ||= masks.some((mask) => mask !== NONE);
    if (told.isMarked[index] !== hasMasked)
      wrong.push(`token ${index} ${hasMasked ? 'hangs on masked experts, and is not marked' : 'is marked as degraded, and is not'}`);
  }
  for (let from = 0; from < told.tokens.length; ) {
    let to = from + 1;
    while (to < told.tokens.length && goesOnFrom(before[to] as Masks, before[to - 1] as Masks)) to++;
    const asked = { ...call, n: choice + 1, max_tokens: call.max_tokens - from };
    const answers = await undisturbed.masked(plan, asked, [...prompt, ...told.tokens.slice(0, from)], before[to - 1] as Masks);
    const right = answers[choice] as Answer;
    for (let index = from; index < to; index++)
      if (told.tokens[index] !== right.tokens[index - from])
        wrong.push(`choice ${choice}, token ${index} is ${told.tokens[index]}, with the same experts masked it is ${right.tokens[index - from] ?? 'none'}`);
    if (to === told.tokens.length && told.finish !== null) {
      if (right.tokens.length !== to - from)
        wrong.push(`choice ${choice} finished with ${to} tokens, with the same experts masked ${from + right.tokens.length}`);
      if (told.finish !== right.finish) wrong.push(`choice ${choice} ended by ${told.finish}, with the same experts masked by ${right.finish}`);
    }
    from = to;
  }
  return wrong;
}

/** Nothing that came before was computed otherwise meanwhile. */
const goesOnFrom = (masks: Masks, before: Masks): boolean => before.every((mask, position) => masks[position] === mask);
