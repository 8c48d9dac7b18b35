/** A pod's calls as clients of its HTTP server have them: server-sent events of /v1/completions. @module */
import type { AskedPod } from './client.ts';

type Event = {
  readonly error?: { readonly code: string | null; readonly message: string };
  readonly choices?: readonly { readonly index: number; readonly text: string; readonly token_ids: readonly number[]; readonly finish_reason: never }[];
};

const BETWEEN_EVENTS = '\n\n';
const DATA = 'data: ';

export const overHttp = (url: string, model: string): AskedPod => ({
  generate: (prompt, { signal, ...options }) => ({
    id: '',
    [Symbol.asyncIterator]: () => chunksOf(`${url}/v1/completions`, { model, prompt, stream: true, return_token_ids: true, ...options }, signal),
  }),
});

async function* chunksOf(url: string, body: object, signal: AbortSignal | undefined) {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body), signal: signal ?? null });
  if (!response.ok || response.body === null) throw new Error(`${response.status}: ${await response.text()}`);
  let [text, isDone] = ['', false];
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const events = (text + piece).split(BETWEEN_EVENTS);
    text = events.pop() ?? '';
    for (const event of events) {
      if (isDone) throw new Error(`its stream goes on after its end: ${event}`);
      isDone = event === `${DATA}[DONE]`;
      if (isDone) continue;
      const { error, choices = [] } = JSON.parse(event.slice(DATA.length)) as Event;
      if (error !== undefined) throw new Error(`${error.code}: ${error.message}`);
      for (const { index, text, token_ids, finish_reason } of choices) yield { choice: index, text, token_ids, finish_reason };
    }
  }
  if (!isDone) throw new Error(`its stream ends without [DONE]: ${text}`);
}
