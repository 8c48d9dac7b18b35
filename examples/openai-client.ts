/**
 * The official OpenAI client against a pod in the same program.
 *
 *   node examples/openai-client.ts
 */
import OpenAI from 'openai';
import { serve } from '../src/api/index.ts';
import { createPod } from '../src/index.ts';

await using pod = await createPod();
const server = await serve({ pod, port: 0, api_key: 'secret' });

const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'secret' });
const stream = await client.chat.completions.create({
  model: pod.model.name,
  messages: [{ role: 'user', content: 'Tell me a story.' }],
  max_tokens: 80,
  seed: 7,
  stream: true,
});
for await (const { choices } of stream) process.stdout.write(choices[0]?.delta.content ?? '');
process.stdout.write('\n');

await server.close({ drain_ms: 1_000 });
