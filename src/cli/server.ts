/**
 * A running server, as commands that look at one ask it.
 * @module
 */
import * as z from 'zod';
import { MinipodError } from '../index.ts';

const ANSWER_MS_MAX = 5_000;

export const serverSchema = z.strictObject({
  url: z.url({ protocol: /^https?$/, error: 'must be the http or https URL of a server' }).default('http://127.0.0.1:8000'),
  api_key: z.string().optional(),
});

const refusalSchema = z.object({ error: z.object({ message: z.string() }) });

/** What the server says of what it does not do. */
function refusalIn(text: string): string | null {
  try {
    return refusalSchema.parse(JSON.parse(text)).error.message;
  } catch {
    return null;
  }
}

/** Behind a proxy a server may stand under a path: what is asked for goes below it. */
function urlOf(path: string, server: string): URL {
  const url = new URL(server);
  url.pathname = url.pathname.replace(/\/+$/, '') + path;
  return url;
}

/** Its answer's text. @throws `invalid_request` where it refuses what was asked, `closed` where none answers, or not with what was asked for */
export async function askServer(
  { url, api_key }: z.output<typeof serverSchema>,
  path: string,
  signal: AbortSignal,
  { body, answer_ms_max = ANSWER_MS_MAX }: { readonly body?: object; readonly answer_ms_max?: number } = {},
): Promise<string> {
  const wrong = (why: string, cause?: unknown): MinipodError => new MinipodError('closed', `${url} ${why}`, { cause });
  let response: Response;
  let text: string;
  try {
    response = await fetch(urlOf(path, url), {
      headers: { ...(api_key !== undefined && { authorization: `Bearer ${api_key}` }), ...(body !== undefined && { 'content-type': 'application/json' }) },
      ...(body !== undefined && { method: 'POST', body: JSON.stringify(body) }),
      signal: AbortSignal.any([signal, AbortSignal.timeout(answer_ms_max)]),
    });
    text = await response.text();
  } catch (error) {
    throw wrong('does not answer; is `minipod serve` running there?', error);
  }
  if (response.status === 401) throw wrong('asks for a key that was not given or is not the right one: --api-key, or MINIPOD_API_KEY');
  const why = refusalIn(text);
  if (response.status === 400 && why !== null) throw new MinipodError('invalid_request', why);
  if (!response.ok) throw wrong(`answers ${path} with ${response.status}${why === null ? '' : `: ${why}`}`);
  return text;
}
