/**
 * The pod's whole cast on the virtual host, with kernels that answer at once: what host and machines take by themselves.
 * @module
 */

import { recordTableOf } from '../src/flowserve/pod-plan.ts';
import { Claims } from '../src/flowserve/records/claims.ts';
import { openCheckpoint } from '../src/model/checkpoint.ts';
import { resolveModel } from '../src/model/registry.ts';
import { podOptionsSchema } from '../src/options/options.ts';
import { birthOf, birthOfController } from '../src/platform/births.ts';
import { buildMachine } from '../src/platform/build-machine.ts';
import { MachineNpus } from '../src/platform/machine.ts';
import { type Address, address, roleOf } from '../src/protocol/address.ts';
import { launchDone, NO_TERMS, submit } from '../src/protocol/constructors.ts';
import type { Claim } from '../src/protocol/controllers.ts';
import type { Sequence, Work } from '../src/protocol/messages.ts';
import type { StepOutcome } from '../src/protocol/steps.ts';
import { colocated } from '../src/protocol/topology.ts';
import { Directory, ON_CONTROL } from '../src/runtime/directory.ts';
import { SeededRandom } from '../src/runtime/seeded-random.ts';
import { VirtualHost } from '../src/runtime/virtual-host.ts';
import { ASCEND_910C_DIE, rooflineStep } from '../src/simulate/roofline.ts';
import { GREEDY } from './greedy.ts';

const PROMPT = Array.from({ length: 32 }, (_, index) => 3 + index);
const SAMPLED: StepOutcome = { token: 7, logprobs: null, more: [], drafts: [], prompt_logprobs: null, error: null };
const NONE: StepOutcome = { ...SAMPLED, token: -1 };
const MESSAGE_NS = 1_500;

export class VirtualCast {
  readonly #host: VirtualHost;
  #requests = 0;
  #claim: (actor: Address, claim: Claim, cause: number) => void = () => {};
  #ended = 0;

  static async create(npus: number): Promise<VirtualCast> {
    using checkpoint = openCheckpoint(resolveModel('tiny-deepseek-v3'));
    const { spare_workers, ...options } = podOptionsSchema.parse({});
    const machine = await buildMachine(
      checkpoint,
      'hash',
      { ...options, topology: colocated(npus), kv_blocks: options.kv_blocks, memory_bytes: undefined, spare_workers, job_executors: 1 },
      async () => {},
    );
    const { plan } = machine;
    const step_ns = rooflineStep(checkpoint.config, { npus, tp: 1 }, ASCEND_910C_DIE);
    const cast = new VirtualCast((npu, work, cause) => {
      if (work.kind !== 'step') machineNpus.launch([{ npu, work, cause }]);
      else {
        const outcomes = work.plan.entries.map(({ samples }) => (samples ? SAMPLED : NONE));
        cast.#host.complete(npu, launchDone(work.plan.step, outcomes, 0, 0, 0), cause, step_ns(work.plan));
      }
    });
    const host = cast.#host;
    const directory = new Directory(plan.hosting);
    const claims = new Claims({ control: machine.space.control, records: recordTableOf(plan, machine.space), directory, now_ms: host.clock.now_ms });
    cast.#claim = (actor, claim, cause) => {
      for (const message of claims.perform(actor, claim)) host.complete(actor, message, cause, 0);
    };
    const machineNpus = new MachineNpus(machine, directory, {
      now_ms: host.clock.now_ms,
      host: {
        spawn: (actor, birth) => host.spawn(actor, birth),
        send: (to, from, message) => host.send(to, from, message),
        tellTransfer: () => {},
        complete: (npu, message, cause) => host.complete(npu, message, cause, 0),
      },
    });
    for (const self of directory.controllersOn(ON_CONTROL)) host.spawn(self, birthOfController(self, plan, 1));
    machineNpus.spawn();
    cast.runOut();
    return cast;
  }

  private constructor(launch: (npu: Address, work: Work, cause: number) => void) {
    this.#host = new VirtualHost({
      birthOf,
      hands: new Map([
        [
          'frontend',
          ({ message }) => {
            if (message.type === 'REQUEST_ENDED') this.#ended++;
          },
        ],
      ]),
      claim: (actor, claim, cause) => this.#claim(actor, claim, cause),
      isBackground: (owner) => roleOf(owner) === 'cluster-manager',
      onUnexpected: (to, message, state) => {
        throw new Error(`${to} is ${state} and did not expect ${message.type}`);
      },
      costs: { message_ns: () => MESSAGE_NS, jitter: 0.5 },
      random: new SeededRandom(1),
      transfer: () => {},
      launch,
    });
  }

  /** Deliveries so far. */
  get deliveries(): number {
    return this.#host.cast.acts;
  }

  submit(count: number, max_tokens: number): void {
    for (let index = 0; index < count; index++) {
      const request = ++this.#requests;
      const sequence: Sequence = {
        request,
        choice: 0,
        prompt: PROMPT,
        max_tokens,
        sampling: GREEDY,
        ...NO_TERMS,
      };
      this.#host.send(address('request', request), 'frontend/0', submit([sequence]));
    }
  }

  /** Until nothing is left to happen. */
  runOut(): void {
    while (this.#host.step()) {
      // On to the next.
    }
    if (this.#ended !== this.#requests) throw new Error(`${this.#requests} requests, and ${this.#ended} have ended`);
  }
}
