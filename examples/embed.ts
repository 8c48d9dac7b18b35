/**
 * A pod in a program: two NPUs on two threads, one story.
 *
 *   node examples/embed.ts
 *
 * Where minipod is installed, import from 'minipod'.
 */
import { createPod } from '../src/index.ts';

await using pod = await createPod({ npus: 2, workers: 2 });

const generation = pod.generate([{ role: 'user', content: 'Tell me a story.' }], { max_tokens: 120, temperature: 0.7, seed: 7 });
for await (const { text } of generation) process.stdout.write(text);

const { completion_tokens } = generation.usage();
const { received, first_token, finished } = generation.times();
console.log(`\n\n${completion_tokens} tokens, the first after ${((first_token ?? finished) - received).toFixed(0)} ms`);
