/**
 * Many calls at once share the pod's steps (continuous batching), and each gets the same tokens as it would alone.
 *
 *   node examples/many-at-once.ts
 */
import assert from 'node:assert/strict';
import { createPod } from '../src/index.ts';

const OPENINGS = ['The king said', 'In a deep forest', 'The wolf', 'A tailor', 'One morning', 'The old woman', 'Her brother', 'At the well'];
const options = { max_tokens: 40, seed: 1, ignore_eos: true };

await using pod = await createPod({ npus: 4, workers: 2 });

const together = await Promise.all(OPENINGS.map((opening) => pod.complete(opening, options)));
for (const [index, { choices }] of together.entries()) console.log(`${OPENINGS[index]}${choices[0]?.text.replaceAll('\n', ' ')}\n`);

const alone = await pod.complete('The wolf', options);
assert.deepEqual(alone.choices[0]?.token_ids, together[2]?.choices[0]?.token_ids);

const { npus, expert_loads } = await pod.stats();
for (const { npu, worker, steps, tokens_decoded } of npus) console.log(`npu/${npu} on worker ${worker}: ${tokens_decoded} tokens decoded in ${steps} steps`);
console.log(`the busiest expert of the first MoE layer took ${Math.max(...(expert_loads[0] ?? []))} tokens`);
