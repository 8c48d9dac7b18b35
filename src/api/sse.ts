/**
 * Server-sent events, pulled: an event is made when the reader has room for it, so a slow reader slows its own generation and nothing piles up.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import type { Lease } from './admission.ts';
import { errorBody, toApiError } from './errors.ts';

const encoder = new TextEncoder();
const frame = (data: string): Uint8Array => encoder.encode(`data: ${data}\n\n`);

const HEADERS = { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache', 'x-accel-buffering': 'no' };

/**
 * Waits for the first event before it answers, so that what fails before it gets a proper status. What fails later ends the stream with an error event.
 * The lease is released when the stream has ended, however it does.
 */
export async function respondWithEvents(events: AsyncGenerator<object>, lease: Lease, onError: (error: unknown) => void): Promise<Response> {
  let pending: IteratorResult<object> | null = await events.next();
  const first: unknown = pending.value;
  let isCancelled = false;
  const stream = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = pending ?? (await events.next());
          pending = null;
          // The client may have gone while the event was awaited: nobody is there to be told of it, or of what that made fail.
          if (isCancelled) return;
          controller.enqueue(frame(done ? '[DONE]' : JSON.stringify(value)));
          if (!done) return;
        } catch (error) {
          if (isCancelled) return;
          onError(error);
          controller.enqueue(frame(JSON.stringify(errorBody(toApiError(error)))));
        }
        controller.close();
        lease.release();
      },
      cancel() {
        isCancelled = true;
        lease.cancel(new MinipodError('cancelled', 'the client went away'));
        lease.release();
        // A generator that waits in next() takes this up when the signal has ended that wait.
        events.return(undefined).catch(() => {});
      },
    },
    { highWaterMark: 0 },
  );
  return new Response(stream, { headers: { ...HEADERS, ...degradedHeader(first) } });
}

/** For who looks at no bodies: of a stream, as far as its first event knows. */
const degradedHeader = (body: unknown): Record<string, string> =>
  typeof body === 'object' && body !== null && 'degraded' in body ? { 'x-minipod-degraded': 'true' } : {};

export const wholeResponse = (body: object): Response => Response.json(body, { headers: degradedHeader(body) });

export const isEventStream = (response: Response): boolean => response.headers.get('content-type') === HEADERS['content-type'];
