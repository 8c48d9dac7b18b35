/**
 * GET /kv_events: what happens to the KV blocks of a DP group, as server-sent events, for routers and stores that want to know which prefixes are where. vLLM
 * publishes the same batches by ZMQ. `from` replays: batches are numbered without a gap, and the last ones are kept.
 * @module
 */
import * as z from 'zod';
import { MinipodError } from '../protocol/errors.ts';
import type { KvEvent } from '../protocol/kv-events.ts';
import { ApiError, invalid } from './errors.ts';
import type { Service } from './service.ts';

/** Steps take milliseconds; a router decides on what it heard a moment ago. */
const LOOK_MS = 100;
/** So that a connection that has died is noticed, and none is taken for dead. */
const KEEP_ALIVE_MS = 15_000;

const querySchema = z.object({ engine: z.coerce.number().int().min(0).default(0), from: z.coerce.number().int().min(0).optional() });

/** `last_event_id`: what a client that comes back has seen last. */
export async function kvEvents(service: Service, query: Record<string, string>, last_event_id: string | undefined, signal: AbortSignal): Promise<Response> {
  const parsed = querySchema.safeParse(query);
  if (!parsed.success) throw invalid(String(parsed.error.issues[0]?.path[0]), 'must be an integer, 0 or more');
  const { engine, from } = parsed.data;
  const seen = /^(\d{1,15})-(\d{1,15})$/.exec(last_event_id ?? '');
  // Asked once before the answer begins, so that what is wrong gets a proper status.
  const { next, life } = await service.pod.kvEvents(engine, Number.MAX_SAFE_INTEGER).catch(inTheQuerysWords(engine));
  const begin = from === undefined && seen !== null ? { life: Number(seen[1]), next: Number(seen[2]) + 1 } : { life, next: from ?? next };
  const frames = framesFrom(service, engine, begin, signal);
  const encoder = new TextEncoder();
  const stream = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = await frames.next();
        if (signal.aborted) return;
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value));
      },
      cancel() {
        frames.return(undefined).catch(() => {});
      },
    },
    { highWaterMark: 0 },
  );
  return new Response(stream, { headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache', 'x-accel-buffering': 'no' } });
}

/** What the pod calls a DP group, the query calls an engine, as vLLM does. */
const inTheQuerysWords =
  (engine: number) =>
  (error: unknown): never => {
    if (!(error instanceof MinipodError) || error.param !== 'dp_group') throw error;
    throw isGone(error)
      ? new ApiError(410, error.message, { param: 'engine', code: error.code, cause: error })
      : invalid('engine', `there is no DP group ${engine}`);
  };

/** It has lost its worker for good. */
const isGone = (error: unknown): boolean => error instanceof MinipodError && error.code === 'groups_lost';

/** Until its client leaves, the server drains, or the group is gone. */
async function* framesFrom(service: Service, engine: number, begin: { life: number; next: number }, signal: AbortSignal): AsyncGenerator<string> {
  const { pod, clock } = service;
  const frame = (events: readonly KvEvent[], seq: number | null): string =>
    `${seq === null ? '' : `id: ${life}-${seq}\n`}data: ${JSON.stringify({ ts: clock.unix_ms() / 1000, events, data_parallel_rank: engine })}\n\n`;
  let { life, next } = begin;
  let said_ms = clock.now_ms();
  while (!signal.aborted && !service.admission.stopped) {
    const page = await pod.kvEvents(engine, next).catch(whereLost);
    if (page === 'gone' || page === null || page.life !== life || page.next < next) {
      // Its worker was lost, and what was known of its blocks with it: a successor begins with nothing, and counts from 0.
      if (next > 0) yield frame([{ type: 'AllBlocksCleared' }], null);
      if (page === 'gone') return;
      // What it has told before anybody asked is read from its beginning.
      const isMissed = page !== null && next > 0;
      [life, next] = [page?.life ?? life, 0];
      if (isMissed) continue;
    }
    for (const { seq, events } of page?.batches ?? []) {
      yield frame(events, seq);
      next = seq + 1;
      said_ms = clock.now_ms();
    }
    if (page !== null && next < page.next) continue;
    if (clock.now_ms() - said_ms > KEEP_ALIVE_MS) {
      yield ': nothing has happened\n\n';
      said_ms = clock.now_ms();
    }
    await clock.sleep(LOOK_MS, signal);
  }
}

/** `gone`: for good. */
function whereLost(error: unknown): 'gone' | null {
  if (isGone(error)) return 'gone';
  if (error instanceof MinipodError && (error.code === 'worker_failed' || error.code === 'deadline_exceeded')) return null;
  throw error;
}
