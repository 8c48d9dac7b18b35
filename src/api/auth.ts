/** The optional bearer key. @module */
import type { MiddlewareHandler } from 'hono';
import { ApiError } from './errors.ts';

/** What load balancers ask before they know any key. */
const OPEN_PATHS: ReadonlySet<string> = new Set(['/health', '/version']);

const encoder = new TextEncoder();

/** Takes as long for a wrong first byte as for a wrong last one: its loop runs over what was given, never over what matches. */
function isSameSecret(given: Uint8Array, secret: Uint8Array): boolean {
  let difference = given.length ^ secret.length;
  for (let i = 0; i < given.length; i++) difference |= (given[i] ?? 0) ^ (secret[i % secret.length] ?? 0);
  return difference === 0;
}

export function bearerAuth(apiKey: string): MiddlewareHandler {
  const secret = encoder.encode(apiKey);
  return async (c, next) => {
    if (OPEN_PATHS.has(c.req.path)) return next();
    const header = c.req.header('authorization');
    const given = header === undefined ? undefined : /^bearer +(\S+)$/i.exec(header)?.[1];
    if (given === undefined || !isSameSecret(encoder.encode(given), secret)) {
      const message =
        header === undefined
          ? 'No API key was given: send it as "Authorization: Bearer KEY".'
          : 'The API key is not the one that this server was started with.';
      throw new ApiError(401, message, { code: 'invalid_api_key', headers: { 'www-authenticate': 'Bearer' } });
    }
    return next();
  };
}
