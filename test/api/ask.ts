/** Short ways to ask an app in a test. @module */
import type { Hono } from 'hono';
import type { Env } from '../../src/api/service.ts';

// biome-ignore lint/suspicious/noExplicitAny: answers are looked into field by field, and each expectation is the check
export type Answer = any;
export type App = Hono<Env>;

export const post = async (app: App, path: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> =>
  app.request(path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });

export async function ask(app: App, path: string, body: unknown): Promise<Answer> {
  const response = await post(app, path, body);
  const answer = await response.json();
  if (response.status !== 200) throw new Error(`${response.status}: ${JSON.stringify(answer)}`);
  return answer;
}

/** Status and error object of a request that must fail. */
export async function refusal(
  app: App,
  path: string,
  body: unknown,
): Promise<{ status: number; message: string; type: string; param: string | null; code: string | null }> {
  const response = await post(app, path, body);
  return { status: response.status, ...((await response.json()) as Answer).error };
}

/** The data of each server-sent event, parsed; `[DONE]` stays text. */
export function parseEvents(text: string): Answer[] {
  return text
    .split('\n\n')
    .filter((block) => block !== '')
    .map((block) => {
      if (!block.startsWith('data: ')) throw new Error(`not an event: ${block}`);
      const data = block.slice(6);
      return data === '[DONE]' ? data : JSON.parse(data);
    });
}

export async function askEvents(app: App, path: string, body: object): Promise<Answer[]> {
  const response = await post(app, path, { ...body, stream: true });
  if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`);
  return parseEvents(await response.text());
}
