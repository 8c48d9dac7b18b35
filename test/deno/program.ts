/** A short program over the embedded API, run by deno.test.ts under Deno and under Node: what it prints must be the same. */
import { createPod, MinipodError } from '../../src/index.ts';

await using pod = await createPod({ npus: 2, workers: 2 });
const prompt = 'Once upon a time there was a king who had';
const greedy = await pod.complete(prompt, { temperature: 0, max_tokens: 24, ignore_eos: true, logprobs: 1 });
console.log(JSON.stringify(greedy.choices[0]));
const sampled = await pod.complete([{ role: 'user', content: 'Erzähl mir ein Märchen über Füchse – 日本語 🦊' }], {
  seed: 5,
  n: 2,
  max_tokens: 16,
  ignore_eos: true,
  logprobs: 2,
});
console.log(JSON.stringify([sampled.prompt, sampled.choices]));
let pieces = 0;
for await (const _ of pod.generate(prompt, { temperature: 0, max_tokens: 200, ignore_eos: true })) if (++pieces === 5) break;
console.log(pieces);
const controller = new AbortController();
const call = pod.complete(prompt, { max_tokens: 500, ignore_eos: true, signal: controller.signal });
setTimeout(() => controller.abort(), 20);
console.log(await call.catch((error: unknown) => (error instanceof MinipodError ? error.code : error)));
console.log(JSON.stringify((await pod.stats()).unexpected_messages));
