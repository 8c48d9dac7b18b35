/** Tables of request records, and what tests write there. @module */
import { AddressSpace } from '../../../src/fabric/address-space.ts';
import { allocateSegments, planMemory } from '../../../src/fabric/memory-plan.ts';
import { RecordTable } from '../../../src/flowserve/records/record-table.ts';
import { recordsBytes } from '../../../src/flowserve/records/request-records.ts';
import { PLAIN_TEXT } from '../../../src/protocol/constructors.ts';
import type { Sequence } from '../../../src/protocol/messages.ts';
import { callOf } from '../../../src/protocol/request-ids.ts';
import { GREEDY } from '../../golden/greedy.ts';

export function makeTable(records: number, tokens: number): { table: RecordTable; memory: WebAssembly.Memory } {
  const plan = planMemory([{ owner: 'pod', kind: 'records', bytes: recordsBytes(records, tokens) }], 2 ** 28, 2 ** 28);
  const memories = allocateSegments(plan);
  const space = new AddressSpace(memories, plan.regions);
  return { table: new RecordTable(space, space.region('pod', 'records'), records), memory: memories[0] as WebAssembly.Memory };
}

export const promptOf = (call: number, length: number): number[] => Array.from({ length }, (_, index) => call * 1_000 + index);
export const tokenOf = (call: number, choice: number, index: number): number => ((call * 131 + choice) * 65_537 + index * 7) & 0xffff;

export const sequencesOf = (request: number, choices: number, prompt: number): Sequence[] =>
  Array.from({ length: choices }, (_, choice) => ({
    request,
    choice,
    prompt: promptOf(callOf(request), prompt),
    max_tokens: 900,
    sampling: { ...GREEDY, temperature: 0.7, seed: 2 ** 40 + callOf(request), stop_token_ids: [5, 9], prompt_logprobs: choice === 0 ? 2 : -1 },
    cache_salt: 'tenant é',
    data_parallel_rank: -1,
    priority: 3,
    context: '',
    output: [],
    held: null,
    drafts: true,
    text: { ...PLAIN_TEXT, stop: ['é'] },
  }));
