/**
 * From the bytes of a request to a JSON object that is safe to look into. Whatever is wrong with them is the caller's fault: 400, 413 or 415.
 * JSON content is insisted on, so that no web page can make a browser post here without a preflight that this server does not answer.
 * @module
 */
import { ApiError } from './errors.ts';

export type JsonObject = Readonly<Record<string, unknown>>;

const DEPTH_MAX = 64;
/** Keys that name an object's machinery in JavaScript: no field of this API is called so, and none may come near a property assignment. */
const FORBIDDEN_KEYS: ReadonlySet<string> = new Set(['__proto__', 'constructor', 'prototype']);

const decoder = new TextDecoder('utf-8', { fatal: true });

export async function readJson(request: Request, limitBytes: number): Promise<JsonObject> {
  checkContentType(request.headers);
  return objectIn(await readBytes(request, limitBytes));
}

/** Nothing at all is an object without fields, whatever it is said to be. */
export async function readJsonIfAny(request: Request, limitBytes: number): Promise<JsonObject> {
  const bytes = await readBytes(request, limitBytes);
  if (bytes.length === 0) return {};
  checkContentType(request.headers);
  return objectIn(bytes);
}

function objectIn(bytes: Uint8Array): JsonObject {
  const value = parse(bytes);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new ApiError(400, 'The body must be a JSON object.');
  inspect(value);
  return value as JsonObject;
}

function checkContentType(headers: Headers): void {
  const [type, ...parameters] = (headers.get('content-type') ?? '').toLowerCase().split(';');
  const charset = parameters
    .find((parameter) => parameter.trim().startsWith('charset='))
    ?.split('=')[1]
    ?.replaceAll('"', '')
    .trim();
  if (type?.trim() !== 'application/json' || (charset !== undefined && charset !== 'utf-8' && charset !== 'utf8'))
    throw new ApiError(415, 'content-type must be application/json (in UTF-8).', { param: 'content-type' });
  const encoding = headers.get('content-encoding') ?? 'identity';
  if (encoding !== 'identity')
    throw new ApiError(415, `content-encoding: ${encoding} is not understood; send the body as it is.`, { param: 'content-encoding' });
}

const tooLarge = (limitBytes: number): ApiError =>
  new ApiError(413, `The body is larger than this server takes (${limitBytes} bytes).`, { code: 'request_too_large' });

async function readBytes(request: Request, limitBytes: number): Promise<Uint8Array> {
  const announced = request.headers.get('content-length');
  if (announced !== null && Number(announced) > limitBytes) throw tooLarge(limitBytes);
  try {
    // An announced length is held by the HTTP parser below, so the fast path is safe.
    if (announced !== null) {
      const bytes = new Uint8Array(await request.arrayBuffer());
      if (bytes.length > limitBytes) throw tooLarge(limitBytes);
      return bytes;
    }
    return await readStream(request.body, limitBytes);
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw new ApiError(400, 'The body ended before it was complete.', { cause: error });
  }
}

async function readStream(body: ReadableStream<Uint8Array> | null, limitBytes: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of body ?? []) {
    length += part.length;
    if (length > limitBytes) throw tooLarge(limitBytes);
    parts.push(part);
  }
  const bytes = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}

const [QUOTE, BACKSLASH, OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE] = [0x22, 0x5c, 0x5b, 0x5d, 0x7b, 0x7d];

/** Before it is parsed: 6 MB of brackets took JSON.parse seconds, in which nobody else was served. */
function checkDepth(bytes: Uint8Array): void {
  let depth = 0;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (byte === QUOTE) at = endOfString(bytes, at + 1);
    else if (byte === CLOSE_BRACKET || byte === CLOSE_BRACE) depth--;
    else if ((byte === OPEN_BRACKET || byte === OPEN_BRACE) && ++depth > DEPTH_MAX) throw new ApiError(400, `The body nests deeper than ${DEPTH_MAX} levels.`);
  }
}

/** Where its closing quote is. A search by the runtime: most of a large body is text. */
function endOfString(bytes: Uint8Array, begin: number): number {
  for (let end = bytes.indexOf(QUOTE, begin); end >= 0; end = bytes.indexOf(QUOTE, end + 1)) {
    let escapes = 0;
    while (bytes[end - 1 - escapes] === BACKSLASH) escapes++;
    if (escapes % 2 === 0) return end;
  }
  return bytes.length;
}

function parse(bytes: Uint8Array): unknown {
  checkDepth(bytes);
  let text: string;
  try {
    text = decoder.decode(bytes);
  } catch {
    throw new ApiError(400, 'The body is not valid UTF-8.');
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ApiError(400, `The body is not valid JSON: ${error instanceof Error ? error.message.toWellFormed() : 'it cannot be parsed'}`);
  }
}

/** Level by level: how deep it is, was looked at before. */
function inspect(root: object): void {
  let level: object[] = [root];
  while (level.length > 0) {
    const below: object[] = [];
    for (const node of level) {
      if (Array.isArray(node)) for (const value of node) inspectValue(value, below);
      else
        for (const [key, value] of Object.entries(node)) {
          if (FORBIDDEN_KEYS.has(key)) throw new ApiError(400, `The body has a key ${JSON.stringify(key)}, which no field may be called.`, { param: key });
          if (!key.isWellFormed()) throw new ApiError(400, 'The body has a key with a lone surrogate (half of a character).');
          inspectValue(value, below);
        }
    }
    level = below;
  }
}

function inspectValue(value: unknown, below: object[]): void {
  if (typeof value === 'object') {
    if (value !== null) below.push(value);
  } else if (typeof value === 'string') {
    if (!value.isWellFormed()) throw new ApiError(400, 'The body has a string with a lone surrogate (half of a character).');
  } else if (typeof value === 'number' && !Number.isFinite(value)) throw new ApiError(400, 'The body has a number that is too large to represent.');
}
