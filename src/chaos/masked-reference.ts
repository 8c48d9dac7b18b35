/**
 * What calls are to be told by a pod that does without some experts (`degraded`): what one whole pod says whose gates have the same experts masked at the same
 * positions. A token hangs on the masks of all positions before it, as they were when it was drawn: so of each step is kept what it masked, and where; by attempt, since
 * of two owners of a request, each of whom drew the token, one told it.
 *
 *   position   0 … 16 | 17 18 19 | (its group is lost: all anew) 0 … 22 | 23 …
 *   masked        –   |  NPU 2   |             NPU 2                   | NPUs 2, 3
 *
 * What an NPU takes from its prefix cache was computed by all experts, whatever its owner had computed of the same positions elsewhere, at the same attempt.
 *
 * @module
 */
import { callId } from '../calls.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import { type Address, idOf } from '../protocol/address.ts';
import type { Sequence } from '../protocol/messages.ts';
import { attemptOf, callOf } from '../protocol/request-ids.ts';
import type { StepEntry, StepPlan } from '../protocol/steps.ts';
import { deploy, type Executor, parseTopology } from '../protocol/topology.ts';
import type { Told } from './client.ts';
import type { ChaosCall, ChaosPlan } from './fault-plan.ts';
import { type Answer, type Masks, promptOf, type Undisturbed } from './undisturbed.ts';

const NONE = '';

export class MaskedSteps {
  /** By call, choice and attempt: masks of what is computed so far; and by position the masks before it, when its token was drawn. */
  readonly #known = new Map<string, string[]>();
  readonly #drawn = new Map<string, Map<number, Masks>>();
  /** By NPU and slot: whose it is. */
  readonly #slots = new Map<string, string>();
  readonly #executors: readonly Executor[];

  /** From now on; `masks` are those that NPUs were told of. */
  constructor({ npus, plan }: Pick<VirtualControl, 'npus' | 'plan'>) {
    const { deployment } = plan.hosting;
    this.#executors = deployment.executors;
    const launch = npus.launch.bind(npus);
    npus.launch = (launched) => {
      for (const { npu, work } of launched) {
        const place = deployment.npus[idOf(npu)];
        // Ranks of a group compute the same.
        if (work.kind === 'step' && place?.kind === 'attention' && place.rank === 0) this.#note(npu, place.executor, work.plan);
      }
      launch(launched);
    };
  }

  #note(npu: Address, executor: number, { entries, detach, masked = [] }: StepPlan): void {
    const { first } = (this.#executors[executor] as Executor).experts;
    const mask = masked
      .map((lost) => lost - first)
      .toSorted((a, b) => a - b)
      .join();
    for (const slot of detach) this.#slots.delete(`${npu} ${slot}`);
    for (const entry of entries) {
      const { slot, start, tokens, samples, attach } = entry;
      const at = `${npu} ${slot}`;
      if (attach !== null) {
        const owner = `${callId(callOf(attach.request))} ${attach.choice} ${attemptOf(attach.request)}`;
        if (this.#slots.get(at) !== owner && !isHandedOver(entry, attach)) this.#known.delete(owner);
        this.#slots.set(at, owner);
      }
      const whose = this.#slots.get(at);
      if (whose === undefined) continue;
      const known = this.#known.get(whose) ?? [];
      this.#known.set(whose, known);
      for (let position = start; position < start + tokens.length; position++) known[position] = mask;
      if (!samples) continue;
      const drawn = this.#drawn.get(whose) ?? new Map<number, Masks>();
      this.#drawn.set(whose, drawn);
      const end = start + tokens.length;
      drawn.set(
        end,
        Array.from({ length: end }, (_, position) => known[position] ?? NONE),
      );
    }
  }

  /** Of the token that the request's owner at that attempt has drawn for the position. */
  before(call: string, choice: number, attempt: number, position: number): Masks {
    return this.#drawn.get(`${call} ${choice} ${attempt}`)?.get(position) ?? [];
  }
}

/** It comes with the KV that somebody else has computed of it, all of that: then it has tokens of its own, and shares no block. */
const isHandedOver = ({ start, shared }: StepEntry, { prompt }: Sequence): boolean => shared === 0 && start >= prompt.length;

/** So many NPUs that an executor's experts are spread over: of those whose loss it may bear. */
const ranksOf = ({ pod }: ChaosPlan): number => Math.max(...deploy(parseTopology(pod['topology'] as string)).executors.map(({ experts }) => experts.npus));

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
    const answers = await undisturbed.masked(plan, asked, [...prompt, ...told.tokens.slice(0, from)], before[to - 1] as Masks, ranksOf(plan));
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
