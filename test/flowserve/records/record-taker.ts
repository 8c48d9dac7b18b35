/** Takes over what a job executor holds, life after life, and holds each record against what can have been written. */
import { parentPort, workerData } from 'node:worker_threads';
import { AddressSpace } from '../../../src/fabric/address-space.ts';
import { RecordTable } from '../../../src/flowserve/records/record-table.ts';
import { RecordTaking } from '../../../src/flowserve/records/record-taking.ts';
import { callOf } from '../../../src/protocol/request-ids.ts';

export type TakerArgs = {
  readonly memory: WebAssembly.Memory;
  readonly records: number;
  readonly base: number;
  readonly bytes: number;
  /** Lives that are over; −1: it is the end. */
  readonly flag: Int32Array;
  readonly calls: number;
};
export type TakerResult = { readonly errors: readonly string[]; readonly requests: number };

const { memory, records, base, bytes, flag } = workerData as TakerArgs;
const region = { owner: 'pod', kind: 'records', base, bytes } as const;
const taking = new RecordTaking(new RecordTable(new AddressSpace([memory], [region]), region, records));
const errors: string[] = [];
let requests = 0;
parentPort?.postMessage('ready');
for (let lives = 0; lives >= 0; lives = Atomics.load(flag, 0)) {
  if (lives === 0) continue;
  for (const { request, sequences, error } of taking.take(1, lives, { job_executor: 0, life: 1 })) {
    requests++;
    const call = callOf(request);
    if (error !== null) errors.push(`call ${call}: ${error.message}`);
    for (const { prompt, output, sampling } of sequences) {
      const wrong = output.findIndex((token, index) => token !== ((call * 131 * 65_537 + index * 7) & 0xffff));
      if (wrong >= 0) errors.push(`call ${call}: token ${wrong} of ${output.length} is ${output[wrong]}`);
      if (prompt.some((token, index) => token !== call * 1_000 + index) || sampling.seed !== 2 ** 40 + call) errors.push(`call ${call}: another's prompt`);
    }
  }
}
parentPort?.postMessage({ errors, requests } satisfies TakerResult);
