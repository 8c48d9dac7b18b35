/** `minipod serve`: the OpenAI-compatible API on a port, until it is told to stop. @module */
import { type ApiServer, isLoopback, serve as listen, type ServeOptions } from '../api/index.ts';
import type { Pod, PodOptions } from '../index.ts';
import { Interrupt } from './interrupt.ts';
import { openPod } from './open-pod.ts';
import { note, printJson, printLine } from './output.ts';

export type ServeCommand = {
  readonly pod: PodOptions;
  readonly api: Omit<ServeOptions, 'pod'>;
  readonly drain_ms: number;
  readonly json: boolean;
};

export async function serve({ pod: podOptions, api, drain_ms, json }: ServeCommand): Promise<number> {
  await using pod = await openPod(podOptions);
  using interrupt = new Interrupt();
  const server = await listen({ ...api, pod });
  if (json) await printJson({ url: server.url, port: server.port, model: pod.model, pid: process.pid });
  else await printLine(greeting(pod, server, api.api_key));
  if (api.api_key === undefined && api.host !== undefined && !isLoopback(api.host))
    note(`minipod: ${api.host} can be reached from other machines and no --api-key is set: whoever reaches it may use it`);

  await interrupt.happened;
  const running = server.active;
  const closed = server.close({ drain_ms });
  if (!json) note(running === 0 ? 'stopping' : `stopping: ${running} running have ${drain_ms / 1000} s to finish; Ctrl-C again ends at once`);
  const { cut } = await closed;
  if (cut > 0) note(`minipod: ${cut} of ${running} had not finished after ${drain_ms / 1000} s and were ended with an error`);
  // SIGTERM is how a server is meant to be stopped: having obeyed it is no failure. Who pressed Ctrl-C may be in a script that is to stop as well.
  return interrupt.by === 'SIGTERM' ? 0 : interrupt.exit_code;
}

function greeting(pod: Pod, server: ApiServer, apiKey: string | undefined): string {
  const { name, architecture, parameters, context_length, has_chat_template } = pod.model;
  return [
    `${name} (${architecture}, ${(parameters / 1e6).toFixed(1)} M parameters, ${context_length} tokens of context) on ${server.url}`,
    '',
    'Try, in another terminal:',
    `  ${curlLine(server.url, name, has_chat_template, apiKey)}`,
    '',
    'Ctrl-C stops it.',
  ].join('\n');
}

/** A command that works as it stands, pasted into a shell. */
function curlLine(url: string, model: string, hasChatTemplate: boolean, apiKey: string | undefined): string {
  const key = apiKey === undefined ? [] : ['-H', quoted(`authorization: Bearer ${apiKey}`)];
  const path = hasChatTemplate ? '/v1/chat/completions' : '/v1/completions';
  const ask = hasChatTemplate ? { messages: [{ role: 'user', content: 'Tell me a story.' }] } : { prompt: 'Once upon a time' };
  const body = JSON.stringify({ model, ...ask, max_tokens: 100 });
  return ['curl', `${url}${path}`, ...key, '-H', quoted('content-type: application/json'), '-d', quoted(body)].join(' ');
}

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
